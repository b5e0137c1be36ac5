"""What `check_dialect` must be told of the dialects it is tried on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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
