"""OpenAI's client, Responses: an answer as it is written, four chains that vote within 256 tokens, and what it cost."""

import os

from openai import OpenAI

url = os.environ.get("PONDER_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("PONDER_API_KEY", "none"))

with client.responses.stream(
    model="demo",
    input="Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?",
    store=False,
    extra_body={"thinking_budget": 256, "strategy": {"name": "majority_vote", "n": 4}},
) as stream:
    for event in stream:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
    response = stream.get_final_response()

print()
print(response.usage.output_tokens_details.reasoning_tokens, "hidden tokens")
print(response.thinking["cost_usd"], "USD")
