"""Google's client: content that may take 256 tokens of thought, and what it cost."""

import os

from google import genai
from google.genai import types

url = os.environ.get("PONDER_URL", "http://127.0.0.1:8000")
client = genai.Client(
    api_key=os.environ.get("PONDER_API_KEY", "none"),
    http_options=types.HttpOptions(base_url=url),
)

answer = client.models.generate_content(
    model="demo",
    contents="Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?",
    config=types.GenerateContentConfig(thinking_config=types.ThinkingConfig(thinking_budget=256)),
)
print(answer.text)
print(answer.usage_metadata.thoughts_token_count, "hidden tokens")
