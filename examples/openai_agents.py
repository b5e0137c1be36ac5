"""OpenAI's Agents SDK over Responses: an agent that may think for 256 tokens an answer, and what it cost."""

import os

from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI

set_tracing_disabled(True)  # Traces would go to OpenAI.

url = os.environ.get("PONDER_URL", "http://127.0.0.1:8000")
client = AsyncOpenAI(base_url=f"{url}/v1", api_key=os.environ.get("PONDER_API_KEY", "none"))
agent = Agent(
    name="Counter",
    instructions="Answer with one number.",
    model=OpenAIResponsesModel(model="demo", openai_client=client),
    model_settings=ModelSettings(extra_body={"thinking_budget": 256}, store=False),
)

result = Runner.run_sync(agent, "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?")
print(result.final_output)
print(result.context_wrapper.usage.output_tokens_details.reasoning_tokens, "hidden tokens")
