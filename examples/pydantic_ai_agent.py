"""Pydantic AI over chat completions: an agent that may think for 256 tokens an answer, and what it cost."""

import os

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIChatModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

url = os.environ.get("PONDER_URL", "http://127.0.0.1:8000")
provider = OpenAIProvider(base_url=f"{url}/v1", api_key=os.environ.get("PONDER_API_KEY", "none"))
agent = Agent(
    OpenAIChatModel("demo", provider=provider),
    model_settings=OpenAIChatModelSettings(extra_body={"thinking_budget": 256}),
)

result = agent.run_sync("Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?")
print(result.output)
print(result.usage.details["reasoning_tokens"], "hidden tokens")
