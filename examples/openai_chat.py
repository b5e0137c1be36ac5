"""OpenAI's client, chat completions: an answer that may think for 256 tokens, and what it cost."""

import os

from openai import OpenAI

url = os.environ.get("PONDER_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("PONDER_API_KEY", "none"))

completion = client.chat.completions.create(
    model="demo",
    messages=[{"role": "user", "content": "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"}],
    extra_body={"thinking_budget": 256},
)
print(completion.choices[0].message.content)
print(completion.usage.completion_tokens_details.reasoning_tokens, "hidden tokens")
print(completion.thinking["cost_usd"], "USD")
