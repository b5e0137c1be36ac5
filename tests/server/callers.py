"""What `check_dialect` must be told of the dialects it is tried on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ponder.server.dialect import Dialect
from ponder.testing import Caller
from tests.server.serving import events


class ToyCaller(Caller):
    """Speaks the toy."""

    def body(self, question: str, *, model: str, thinking: int, streamed: bool) -> bytes:
        asked: dict[str, Any] = {"brain": model, "talk": [question], "ponder": thinking, "live": streamed}
        return json.dumps(asked).encode()

    def headers(self, key: str) -> Mapping[str, str]:
        return {"X-Toy-Key": key}

    def text(self, raw: bytes, *, streamed: bool) -> str:
        told = [json.loads(one) for one in raw.splitlines()]
        if streamed:
            return "".join(one.get("said", "") for one in told)
        return told[0]["copies"][0]["said"]


class ResponsesCaller(Caller):
    """Speaks as OpenAI's clients do at the Responses API."""

    def body(self, question: str, *, model: str, thinking: int, streamed: bool) -> bytes:
        return json.dumps({"model": model, "input": question, "thinking_budget": thinking, "stream": streamed}).encode()

    def headers(self, key: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def text(self, raw: bytes, *, streamed: bool) -> str:
        if streamed:
            told = [json.loads(one.partition("data: ")[2]) for one in raw.decode().split("\n\n") if "data: " in one]
            return "".join(one["delta"] for one in told if one["type"] == "response.output_text.delta")
        items = [item for item in json.loads(raw)["output"] if item["type"] == "message"]
        return "".join(part["text"] for item in items for part in item["content"])


class OpenAICaller(Caller):
    """Speaks as OpenAI's clients do."""

    def body(self, question: str, *, model: str, thinking: int, streamed: bool) -> bytes:
        messages = [{"role": "user", "content": question}]
        asked = {"model": model, "messages": messages, "thinking_budget": thinking, "stream": streamed}
        return json.dumps(asked).encode()

    def headers(self, key: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def text(self, raw: bytes, *, streamed: bool) -> str:
        if not streamed:
            return json.loads(raw)["choices"][0]["message"]["content"]
        deltas = [choice["delta"] for event in events(raw.decode()) for choice in event["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)


class AnthropicCaller(Caller):
    """Speaks as Anthropic's clients do."""

    def body(self, question: str, *, model: str, thinking: int, streamed: bool) -> bytes:
        messages = [{"role": "user", "content": question}]
        wish = {"type": "enabled", "budget_tokens": thinking} if thinking else {"type": "disabled"}
        asked = {"model": model, "messages": messages, "max_tokens": thinking + 4096, "thinking": wish}
        return json.dumps(asked | {"stream": streamed}).encode()

    def headers(self, key: str) -> Mapping[str, str]:
        return {"x-api-key": key, "anthropic-version": "2023-06-01"}

    def text(self, raw: bytes, *, streamed: bool) -> str:
        if not streamed:
            return "".join(block.get("text", "") for block in json.loads(raw)["content"])
        deltas = [told["delta"] for _, told in message_events(raw.decode()) if told["type"] == "content_block_delta"]
        return "".join(delta.get("text", "") for delta in deltas)


def message_events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of Anthropic's stream that ended as it should: the type that the framing says, and the data."""
    found: list[tuple[str, dict[str, Any]]] = []
    for event in text.split("\n\n")[:-1]:
        kind, data = event.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert found[-1] == ("message_stop", {"type": "message_stop"})
    return found


class CompletionsCaller(OpenAICaller):
    """Speaks OpenAI's completions of raw texts."""

    def body(self, question: str, *, model: str, thinking: int, streamed: bool) -> bytes:
        asked = {"model": model, "prompt": question, "thinking_budget": thinking, "stream": streamed, "max_tokens": -1}
        return json.dumps(asked).encode()

    def text(self, raw: bytes, *, streamed: bool) -> str:
        told = events(raw.decode()) if streamed else [json.loads(raw)]
        return "".join(choice["text"] for one in told for choice in one["choices"])


class GeminiCaller(Caller):
    """Speaks as Google's clients do."""

    def __init__(self, alt: str = "sse") -> None:
        self.alt = alt

    def body(self, question: str, *, model: str, thinking: int, streamed: bool) -> bytes:
        config = {"thinkingConfig": {"thinkingBudget": thinking}}
        return json.dumps({"contents": [{"parts": [{"text": question}]}], "generationConfig": config}).encode()

    def headers(self, key: str) -> Mapping[str, str]:
        return {"x-goog-api-key": key}

    def path(self, dialect: Dialect, *, model: str, streamed: bool) -> str:
        path = dialect.path.replace("{model:path}", model)
        return f"{path}?alt={self.alt}" if "stream" in path else path

    def text(self, raw: bytes, *, streamed: bool) -> str:
        return "".join(part.get("text", "") for one in gemini_pieces(raw) for part in parts_of(one))


def gemini_pieces(raw: bytes) -> list[dict[str, Any]]:
    """What a response of Gemini's is made of: all of it, the events of a stream, or the entries of an array."""
    text = raw.decode()
    if text.lstrip().startswith("["):
        return json.loads(text)
    if text.lstrip().startswith("{"):
        return [json.loads(text)]
    lines = text.replace("\r\n", "\n").split("\n\n")
    return [json.loads(line.strip().removeprefix("data: ")) for line in lines if line.strip()]


def parts_of(piece: dict[str, Any], index: int = 0) -> list[dict[str, Any]]:
    """The parts of one candidate."""
    return [part for one in piece["candidates"] if one["index"] == index for part in one["content"]["parts"]]
