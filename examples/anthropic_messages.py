"""Anthropic's client: a message that may think for 256 tokens, and what it cost."""

import os

from anthropic import Anthropic

url = os.environ.get("PONDER_URL", "http://127.0.0.1:8000")
client = Anthropic(base_url=url, api_key=os.environ.get("PONDER_API_KEY", "none"))

message = client.messages.create(
    model="demo",
    max_tokens=1000,
    thinking={"type": "enabled", "budget_tokens": 256},
    messages=[{"role": "user", "content": "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"}],
)
print("".join(block.text for block in message.content if block.type == "text"))
print(message.usage.output_tokens_details.thinking_tokens, "hidden tokens")
print(message.ponder["cost_usd"], "USD")
