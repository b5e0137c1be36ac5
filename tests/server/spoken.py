"""Our own dialects and somebody who speaks each, with all that there are words for: what `test_every_dialect.py` runs
over. A dialect without a line here fails there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ponder.compute.text import Tool
from ponder.server.dialect import Dialect
from ponder.server.dialects import DIALECTS
from ponder.testing import Billed, Caller, Wish
from tests.server.callers import OpenAICaller
from tests.server.serving import events


def own_fields(wish: Wish) -> dict[str, Any]:
    """The fields of ours that every dialect has."""
    asked = {
        "thinking_budget": wish.thinking,
        "strategy": wish.strategy,
        "verifier": wish.verifier,
        "max_cost_usd": wish.max_cost_usd,
        "timeout": wish.timeout,
    }
    return {name: value for name, value in asked.items() if value is not None}


def function(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}


def datas(raw: bytes) -> list[dict[str, Any]]:
    """The JSON of each event of a stream that may have failed."""
    lines = [line.removeprefix("data: ") for line in raw.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def message_of(told: Mapping[str, Any]) -> str | None:
    """The message of an error in OpenAI's shape."""
    return told["error"]["message"] if isinstance(told.get("error"), dict) else None


def openai_usage(usage: Mapping[str, Any]) -> Billed:
    return Billed(
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage["completion_tokens_details"]["reasoning_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"],
    )


class ChatSpeaker(OpenAICaller):
    """OpenAI's chat completions."""

    def asks(self, wish: Wish) -> bytes | None:
        asked: dict[str, Any] = {
            "model": wish.model,
            "messages": [{"role": "user", "content": wish.question}],
            "stream": wish.streamed,
        } | own_fields(wish)
        if wish.streamed:
            asked["stream_options"] = {"include_usage": True}
        if wish.answer_tokens is not None:
            asked["max_answer_tokens"] = wish.answer_tokens
        if wish.seed is not None:
            asked["seed"] = wish.seed
        if wish.schema is not None:
            form = {"name": "answer", "schema": json.loads(wish.schema)}
            asked["response_format"] = {"type": "json_schema", "json_schema": form}
        if wish.tool is not None:
            asked["tools"] = [{"type": "function", "function": function(wish.tool)}]
        return json.dumps(asked).encode()

    def usage(self, raw: bytes, *, streamed: bool) -> Billed | None:
        told = events(raw.decode())[-1] if streamed else json.loads(raw)
        return openai_usage(told["usage"]) if told.get("usage") else None

    def calls(self, raw: bytes, *, streamed: bool) -> Sequence[tuple[str, str]]:
        if not streamed:
            given = json.loads(raw)["choices"][0]["message"].get("tool_calls", [])
            return [(call["function"]["name"], call["function"]["arguments"]) for call in given]
        found: dict[int, tuple[str, str]] = {}
        for choice in (choice for event in events(raw.decode()) for choice in event["choices"]):
            for call in choice["delta"].get("tool_calls", []):
                name, arguments = found.get(call["index"], ("", ""))
                function = call.get("function", {})
                found[call["index"]] = name + function.get("name", ""), arguments + function.get("arguments", "")
        return list(found.values())

    def failure(self, raw: bytes, *, streamed: bool) -> str | None:
        return message_of(datas(raw)[-1] if raw.startswith(b"data: ") else json.loads(raw))


SPEAKERS: Mapping[str, Caller] = {
    "/v1/chat/completions": ChatSpeaker(),
}
"""By the path of the dialect."""


def spoken() -> list[tuple[Dialect, Caller]]:
    """Our dialects, and who speaks them. Raises `KeyError` for one that nobody does."""
    return [(dialect, SPEAKERS[dialect.path]) for dialect in DIALECTS]
