"""A model that vendors' own clients ask for a sum, and the type in which they want it."""

from __future__ import annotations

from pydantic import BaseModel

from ponder.compute.text import Prompt
from ponder.testing import MARKER, Chain


class Sum(BaseModel):
    result: int


def script(prompt: Prompt, thought: str, call: int) -> Chain:
    """Calls the tool that is offered, and then says what came of it; without tools, the sum."""
    said = str(prompt.messages[-1].content)
    if prompt.messages[-1].role == "tool":
        return Chain(f"{MARKER} I was told", f"It is {said}.")
    if prompt.tools:
        return Chain(f"{MARKER} I ask", 'I ask.<tool_call>{"name": "add", "arguments": {"a": 3, "b": 4}}</tool_call>')
    return Chain(f"{MARKER} seven", '{"result": 7}' if "JSON" in said else "It is 7.")
