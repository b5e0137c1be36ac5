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
    more = told(verifier=wish.verifier, max_cost_usd=wish.max_cost_usd, timeout=wish.timeout)
    return told(thinking_budget=wish.thinking, strategy=wish.strategy) | more


def function(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}


def data_of(raw: bytes) -> list[dict[str, Any]]:
    """The JSON of each event of a stream that may have failed."""
    lines = [line.removeprefix("data: ") for line in raw.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def message_of(piece: Mapping[str, Any]) -> str | None:
    """The message of an error, which all of them have at the same place."""
    return piece["error"]["message"] if isinstance(piece.get("error"), dict) else None


def openai_usage(usage: Mapping[str, Any]) -> Billed:
    return Billed(
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage["completion_tokens_details"]["reasoning_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"],
    )


def told(**given: Any) -> dict[str, Any]:
    """Those that are something."""
    return {name: value for name, value in given.items() if value is not None}


def is_stream(raw: bytes) -> bool:
    """It is a stream of events."""
    return raw.startswith((b"data:", b"event:", b":"))


def usage_option(wish: Wish) -> dict[str, Any]:
    """What OpenAI's streams want to be asked with, to say what was used."""
    return {"stream_options": {"include_usage": True}} if wish.streamed else {}


def chat_usage(raw: bytes, streamed: bool) -> Billed | None:
    piece = events(raw.decode())[-1] if streamed else json.loads(raw)
    return openai_usage(piece["usage"]) if piece.get("usage") else None


class Speaker(Caller):
    """A caller whose plain request is its wish."""

    def body(self, question: str, *, model: str, thinking: int, streamed: bool) -> bytes:
        return self.asks(Wish(question, model, thinking, streamed)) or b"{}"

    def headers(self, key: str) -> Mapping[str, str]:
        return {"authorization": f"Bearer {key}"}


class ChatSpeaker(OpenAICaller):
    """OpenAI's chat completions."""

    def asks(self, wish: Wish) -> bytes | None:
        asked: dict[str, Any] = {
            "model": wish.model,
            "messages": [{"role": "user", "content": wish.question}],
            "stream": wish.streamed,
        } | own_fields(wish)
        asked |= usage_option(wish) | told(max_answer_tokens=wish.answer_tokens, seed=wish.seed)
        if wish.schema is not None:
            form = {"name": "answer", "schema": json.loads(wish.schema)}
            asked["response_format"] = {"type": "json_schema", "json_schema": form}
        if wish.tool is not None:
            asked["tools"] = [{"type": "function", "function": function(wish.tool)}]
        return json.dumps(asked).encode()

    def usage(self, raw: bytes, *, streamed: bool) -> Billed | None:
        return chat_usage(raw, streamed)

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
        return message_of(data_of(raw)[-1] if is_stream(raw) else json.loads(raw))


class ResponsesSpeaker(Speaker):
    """OpenAI's Responses."""

    def asks(self, wish: Wish) -> bytes | None:
        asked: dict[str, Any] = {"model": wish.model, "input": wish.question, "stream": wish.streamed}
        asked |= own_fields(wish) | told(max_answer_tokens=wish.answer_tokens, seed=wish.seed)
        if wish.schema is not None:
            asked["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": json.loads(wish.schema)}}
        if wish.tool is not None:
            asked["tools"] = [{"type": "function"} | function(wish.tool)]
        return json.dumps(asked).encode()

    def _response(self, raw: bytes, streamed: bool) -> dict[str, Any]:
        return data_of(raw)[-1]["response"] if streamed else json.loads(raw)

    def text(self, raw: bytes, *, streamed: bool) -> str:
        if streamed:
            return "".join(one["delta"] for one in data_of(raw) if one["type"] == "response.output_text.delta")
        items = [item for item in json.loads(raw)["output"] if item["type"] == "message"]
        return "".join(part["text"] for item in items for part in item["content"])

    def usage(self, raw: bytes, *, streamed: bool) -> Billed | None:
        used = self._response(raw, streamed)["usage"]
        hidden, cached = used["output_tokens_details"]["reasoning_tokens"], used["input_tokens_details"]
        return Billed(used["input_tokens"], used["output_tokens"], hidden, cached["cached_tokens"])

    def calls(self, raw: bytes, *, streamed: bool) -> Sequence[tuple[str, str]]:
        items = self._response(raw, streamed)["output"]
        return [(item["name"], item["arguments"]) for item in items if item["type"] == "function_call"]

    def failure(self, raw: bytes, *, streamed: bool) -> str | None:
        if not is_stream(raw):
            return message_of(json.loads(raw))
        last = data_of(raw)[-1]
        return last["message"] if last["type"] == "error" else message_of(last.get("response", {}))


class CompletionsSpeaker(Speaker):
    """OpenAI's completions of raw texts, which has one strategy, and no tools and documents."""

    def asks(self, wish: Wish) -> bytes | None:
        if wish.strategy not in (None, "direct") or wish.verifier or wish.schema or wish.tool:
            return None
        asked: dict[str, Any] = {"model": wish.model, "prompt": wish.question, "stream": wish.streamed}
        asked |= own_fields(wish) | told(max_answer_tokens=wish.answer_tokens, seed=wish.seed) | {"max_tokens": -1}
        return json.dumps(asked | usage_option(wish)).encode()

    def text(self, raw: bytes, *, streamed: bool) -> str:
        pieces = events(raw.decode()) if streamed else [json.loads(raw)]
        return "".join(choice["text"] for one in pieces for choice in one["choices"])

    def usage(self, raw: bytes, *, streamed: bool) -> Billed | None:
        return chat_usage(raw, streamed)

    def failure(self, raw: bytes, *, streamed: bool) -> str | None:
        return message_of(data_of(raw)[-1] if is_stream(raw) else json.loads(raw))


class MessagesSpeaker(Speaker):
    """Anthropic's Messages."""

    def headers(self, key: str) -> Mapping[str, str]:
        return {"x-api-key": key, "anthropic-version": "2023-06-01"}

    def asks(self, wish: Wish) -> bytes | None:
        messages = [{"role": "user", "content": wish.question}]
        asked: dict[str, Any] = {"model": wish.model, "messages": messages, "stream": wish.streamed}
        asked |= own_fields(wish) | told(max_answer_tokens=wish.answer_tokens, seed=wish.seed)
        asked["max_tokens"] = (wish.thinking or 0) + 4096
        if wish.schema is not None:
            asked["output_config"] = {"format": {"type": "json_schema", "schema": json.loads(wish.schema)}}
        if wish.tool is not None:
            given = function(wish.tool)
            given["input_schema"] = given.pop("parameters")
            asked["tools"] = [given]
        return json.dumps(asked).encode()

    def text(self, raw: bytes, *, streamed: bool) -> str:
        if not streamed:
            return "".join(block.get("text", "") for block in json.loads(raw)["content"])
        deltas = [one["delta"] for one in data_of(raw) if one["type"] == "content_block_delta"]
        return "".join(delta.get("text", "") for delta in deltas)

    def usage(self, raw: bytes, *, streamed: bool) -> Billed | None:
        if streamed:
            pieces = data_of(raw)
            used = dict(next(one["message"]["usage"] for one in pieces if one["type"] == "message_start"))
            used |= next(one["usage"] for one in pieces if one["type"] == "message_delta")
        else:
            used = json.loads(raw)["usage"]
        cached = used["cache_read_input_tokens"]
        hidden = used.get("output_tokens_details", {}).get("thinking_tokens")
        return Billed(used["input_tokens"] + cached, used["output_tokens"], hidden, cached)

    def calls(self, raw: bytes, *, streamed: bool) -> Sequence[tuple[str, str]]:
        if not streamed:
            blocks = [block for block in json.loads(raw)["content"] if block["type"] == "tool_use"]
            return [(block["name"], json.dumps(block["input"])) for block in blocks]
        found: dict[int, tuple[str, str]] = {}
        for one in data_of(raw):
            if one["type"] == "content_block_start" and one["content_block"]["type"] == "tool_use":
                found[one["index"]] = one["content_block"]["name"], ""
            elif one["type"] == "content_block_delta" and one["delta"]["type"] == "input_json_delta":
                name, arguments = found[one["index"]]
                found[one["index"]] = name, arguments + one["delta"]["partial_json"]
        return list(found.values())

    def failure(self, raw: bytes, *, streamed: bool) -> str | None:
        return message_of(data_of(raw)[-1] if is_stream(raw) else json.loads(raw))


class GeminiSpeaker(Speaker):
    """Google's Gemini, whose streams have a path of their own."""

    def headers(self, key: str) -> Mapping[str, str]:
        return {"x-goog-api-key": key}

    def path(self, dialect: Dialect, *, model: str, streamed: bool) -> str:
        path = dialect.path.replace("{model:path}", model)
        return path.replace(":generate", ":streamGenerate") + "?alt=sse" if streamed else path

    def asks(self, wish: Wish) -> bytes | None:
        config: dict[str, Any] = told(seed=wish.seed)
        if wish.thinking is not None:
            config["thinkingConfig"] = {"thinkingBudget": wish.thinking}
        if wish.schema is not None:
            config |= {"responseMimeType": "application/json", "responseJsonSchema": json.loads(wish.schema)}
        own = {name: value for name, value in own_fields(wish).items() if name != "thinking_budget"}
        asked: dict[str, Any] = {"contents": [{"parts": [{"text": wish.question}]}], "generationConfig": config}
        asked |= own | told(max_answer_tokens=wish.answer_tokens)
        if wish.tool is not None:
            given = function(wish.tool)
            given["parametersJsonSchema"] = given.pop("parameters")
            asked["tools"] = [{"functionDeclarations": [given]}]
        return json.dumps(asked).encode()

    def _pieces(self, raw: bytes) -> list[dict[str, Any]]:
        return data_of(raw) if is_stream(raw) else [json.loads(raw)]

    def _parts(self, raw: bytes) -> list[dict[str, Any]]:
        candidates = [one for piece in self._pieces(raw) for one in piece.get("candidates", ())]
        return [part for one in candidates for part in one.get("content", {}).get("parts", ())]

    def text(self, raw: bytes, *, streamed: bool) -> str:
        return "".join(part.get("text", "") for part in self._parts(raw))

    def usage(self, raw: bytes, *, streamed: bool) -> Billed | None:
        used = next(one["usageMetadata"] for one in reversed(self._pieces(raw)) if "usageMetadata" in one)
        hidden = used.get("thoughtsTokenCount", 0)
        generated = used.get("candidatesTokenCount", 0) + hidden
        return Billed(used["promptTokenCount"], generated, hidden, used.get("cachedContentTokenCount", 0))

    def calls(self, raw: bytes, *, streamed: bool) -> Sequence[tuple[str, str]]:
        given = [part["functionCall"] for part in self._parts(raw) if "functionCall" in part]
        return [(call["name"], json.dumps(call["args"])) for call in given]

    def failure(self, raw: bytes, *, streamed: bool) -> str | None:
        return message_of(self._pieces(raw)[-1])


GEMINI = "models/{model:path}:"
SPEAKERS: Mapping[str, Caller | None] = {
    "/v1/chat/completions": ChatSpeaker(),
    "/v1/responses": ResponsesSpeaker(),
    "/v1/completions": CompletionsSpeaker(),
    "/v1/messages": MessagesSpeaker(),
    f"/v1beta/{GEMINI}generateContent": GeminiSpeaker(),
    # The stream of the one before, and the same under another root.
    f"/v1beta/{GEMINI}streamGenerateContent": None,
    **{f"/v1/{GEMINI}{method}": None for method in ("generateContent", "streamGenerateContent", "countTokens")},
    # What counts tokens asks no model.
    "/v1/messages/count_tokens": None,
    "/v1/responses/input_tokens": None,
    f"/v1beta/{GEMINI}countTokens": None,
}
"""By the path of the dialect. None: another one's promises are its own."""


def spoken() -> list[tuple[Dialect, Caller]]:
    """Our dialects, and who speaks them. Raises `KeyError` for one that is not in the table."""
    found = [(dialect, SPEAKERS[dialect.path]) for dialect in DIALECTS]
    return [(dialect, caller) for dialect, caller in found if caller is not None]
