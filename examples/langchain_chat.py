"""LangChain over chat completions: an answer that may think for 256 tokens, and what it cost."""

import os

from langchain_openai import ChatOpenAI

url = os.environ.get("PONDER_URL", "http://127.0.0.1:8000")
model = ChatOpenAI(
    model="demo",
    base_url=f"{url}/v1",
    api_key=os.environ.get("PONDER_API_KEY", "none"),
    extra_body={"thinking_budget": 256},
)

message = model.invoke("Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?")
print(message.text)
print(message.usage_metadata["output_token_details"]["reasoning"], "hidden tokens")
