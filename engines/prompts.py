"""A conversation becomes token ids, once, and nothing a caller typed becomes a control token on the way.

The chat template is rendered with placeholders in place of every span a caller controls. In what comes out, the marker
tokens are looked for in the template's own text only; everything between two of them, the callers' text put back in, is
tokenised as plain text. So `<|im_end|>` or `</think>` in a message stay text, and for a conversation without such
strings the ids are the very ones the ordinary way gives.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from jinja2.exceptions import TemplateError
from tokenizers import AddedToken, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from ponder.compute.engine import LONG
from ponder.compute.errors import EngineError, RequestError
from ponder.compute.text import Message, Prompt
from ponder.engines.profiles import Profile

log = logging.getLogger(__name__)

_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
# The letters show a template that changes case, the quote how often it has escaped a text as JSON.
_PLACEHOLDER = re.compile(f'{_OPEN}aA([0-9]+)(\\\\*)"{_CLOSE}')


class ChatTokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    chat_template: Any

    @property
    def backend_tokenizer(self) -> Tokenizer: ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the model reads it."""

    ids: tuple[int, ...]
    inside: bool
    """It leaves the model inside a thought."""


@dataclass(frozen=True, slots=True)
class _Span:
    """A piece of a rendered prompt."""

    text: str
    typed: bool
    """A caller's."""


class Prompts:
    """Renders and tokenises the prompts of one model; from any thread."""

    def __init__(self, tokenizer: ChatTokenizer, profile: Profile, context: int | None = None) -> None:
        if not tokenizer.chat_template:
            raise EngineError("the model's tokenizer has no chat template: serve a chat or reasoning model")
        self._tokenizer = tokenizer
        self._profile = profile
        self._whole = tokenizer.backend_tokenizer
        added = self._whole.get_added_tokens_decoder()
        self._markers = {t.content: (i, t) for i, t in added.items() if t.content and _is_marker(t, profile)}
        self._marker_ids = frozenset(i for i, _ in self._markers.values())
        by_length = sorted(self._markers, key=len, reverse=True)
        self._marker = re.compile("|".join(map(re.escape, by_length)) or r"(?!)")
        self._plain = _without(self._whole, self._markers)
        self._context = context
        self._longest = _longest(self._whole)
        self._exact = True
        self._probe()

    # -- what is asked of it ------------------------------------------------------------------------------------------

    def length(self, prompt: Prompt, *, thinking: bool) -> int:
        """Tokens of a prompt; of one whose size alone shows that the context cannot hold it, the fewest it can have.
        Raises `RequestError` where the template refuses the conversation."""
        thinking = thinking and self._profile.thinks
        rendered: Rendered | None = prompt.read.get((self, thinking))
        least: int | None = prompt.read.get((self, thinking, "least"))
        if rendered is None and least is None:
            spans = self._spans(prompt, thinking)
            if spans is not None and self._context is not None and (least := self._least(spans)) > self._context:
                prompt.read[self, thinking, "least"] = least
                return least
            rendered = self._made(prompt, thinking, spans)
        return len(rendered.ids) if rendered is not None else least or 0

    def render(self, prompt: Prompt, *, thinking: bool) -> Rendered:
        """The ids of a prompt that lets the model think, or of one that does not; worked out once, and kept with the
        prompt. Raises `RequestError` where the template refuses the conversation."""
        thinking = thinking and self._profile.thinks
        rendered: Rendered | None = prompt.read.get((self, thinking))
        return self._made(prompt, thinking, self._spans(prompt, thinking)) if rendered is None else rendered

    def _made(self, prompt: Prompt, thinking: bool, spans: list[_Span] | None) -> Rendered:
        if spans is None:
            ids, tail = self._broken_up(prompt, thinking)
        else:
            ids, tail = self._ids(spans, prompt.parts), _tail(spans)
        added, inside = self._ending(tail, thinking)
        rendered = prompt.read[self, thinking] = Rendered((*ids, *self.with_markers(added)), inside)
        return rendered

    def with_markers(self, text: str) -> tuple[int, ...]:
        """The ids of a text of ours, markers as markers."""
        return tuple(self._ids([_Span(text, False)])) if text else ()

    def encoded(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """The ids of pieces of text, (text, a caller's): markers are markers only in what is not a caller's."""
        return self._ids([_Span(text, typed) for text, typed in parts])

    def is_marker(self, text: str) -> bool:
        """A text of ours that is one control token, never merged with what stands beside it."""
        return text in self._markers

    # -- rendering ----------------------------------------------------------------------------------------------------

    def _spans(self, prompt: Prompt, thinking: bool) -> list[_Span] | None:
        """The rendered prompt in pieces; None where the template has changed a placeholder."""
        typed: list[str] = []

        def hide(text: str) -> str:
            """A placeholder, with the text's outer white space around it: what a template trims is trimmed."""
            core = text.strip()
            if not core:
                return text
            typed.append(core)
            at = text.index(core)
            return f'{text[:at]}{_OPEN}aA{len(typed) - 1}"{_CLOSE}{text[at + len(core) :]}'

        text = self._template(_conversation(prompt, self._profile, thinking, hide), prompt, thinking, hide)
        spans: list[_Span] = []
        end = 0
        for found in _PLACEHOLDER.finditer(text):
            if found.start() > end:
                spans.append(_Span(text[end : found.start()], False))
            core = typed[int(found[1])]
            for _ in range(len(found[2]).bit_length()):
                core = json.dumps(core, ensure_ascii=False)[1:-1]
            spans.append(_Span(core, True))
            end = found.end()
        if end < len(text):
            spans.append(_Span(text[end:], False))
        if not self._exact or any(not s.typed and (_OPEN in s.text or _CLOSE in s.text) for s in spans):
            return None
        return spans

    def _broken_up(self, prompt: Prompt, thinking: bool) -> tuple[list[int], str]:
        """For templates that work on what callers typed: their text itself, each marker in it taken apart."""

        def broken(text: str) -> str:
            while self._marker.search(text):
                text = self._marker.sub(lambda found: found[0][1:] and f"{found[0][0]}\u200b{found[0][1:]}", text)
            return text

        text = self._template(_conversation(prompt, self._profile, thinking, broken), prompt, thinking, broken)
        return _encoded(self._whole, text), text[-200:]

    def _template(self, conversation: list[dict[str, Any]], prompt: Prompt, thinking: bool, put: Any) -> str:
        tools: list[dict[str, Any]] | None = [
            {
                "type": "function",
                "function": {
                    "name": put(tool.name),
                    "description": put(tool.description),
                    "parameters": _through(json.loads(tool.parameters), put),
                },
            }
            for tool in prompt.tools
        ] or None
        kwargs = {self._profile.switch: thinking} if self._profile.switch else {}
        try:
            text: Any = self._tokenizer.apply_chat_template(
                conversation, tools=tools, tokenize=False, add_generation_prompt=True, **kwargs
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            said = str(error) if isinstance(error, TemplateError) and _OPEN not in str(error) else type(error).__name__
            raise RequestError(
                f"this model's chat template does not take the conversation ({said[:200]})",
                param="messages",
                code="invalid_messages",
            ) from None
        if not isinstance(text, str):
            raise EngineError(f"the chat template rendered a {type(text).__name__}, not a text")
        return text

    def _ending(self, tail: str, thinking: bool) -> tuple[str, bool]:
        """What has to be put behind the template's own end, and whether the model is then inside a thought."""
        profile = self._profile
        if not profile.thinks:
            return "", False
        if not profile.start:
            return "", thinking
        # An earlier turn's block is closed and followed by more than white space, so it decides nothing here.
        inside = tail.rfind(profile.start) > tail.rfind(profile.end)
        closed = tail.rstrip().endswith(profile.end)
        if thinking:
            if closed:
                raise EngineError(
                    f"profile {profile.name!r} does not fit: the chat template closes the thought when it is to be open"
                )
            return ("" if inside else profile.opening), True
        return ("" if closed else profile.closing if inside else profile.closed), False

    # -- tokenising ---------------------------------------------------------------------------------------------------

    def _ids(self, spans: Sequence[_Span], parts: dict[Any, Any] | None = None) -> list[int]:
        """`parts` keeps the ids of long pieces, for prompts that have them in common."""
        ids: list[int] = []
        for piece in self._cut(spans):
            if isinstance(piece, int):
                ids.append(piece)
            elif parts is None or len(piece) < LONG:
                ids.extend(self._text_ids(piece))
            else:
                if (self, piece) not in parts:
                    parts[self, piece] = self._text_ids(piece)
                ids.extend(parts[self, piece])
        return ids

    def _cut(self, spans: Sequence[_Span]) -> Iterator[str | int]:
        """Cut at the template's markers: their ids, and all the text between two of them as one."""
        text = ""
        strip = False
        for span in spans:
            start = 0
            for found in () if span.typed else self._marker.finditer(span.text):
                number, token = self._markers[found[0]]
                before = text + span.text[start : found.start()]
                if strip:
                    before = before.lstrip()
                yield before.rstrip() if token.lstrip else before
                yield number
                text, start, strip = "", found.end(), token.rstrip
            text += span.text[start:]
        yield text.lstrip() if strip else text

    def _least(self, spans: Sequence[_Span]) -> int:
        """Tokens these cannot have fewer of; 0 where nothing can be said."""
        if self._longest is None:
            return 0
        return sum(1 if isinstance(p, int) else -(-_least_bytes(p) // self._longest) for p in self._cut(spans))

    def _text_ids(self, text: str) -> list[int]:
        if not text:
            return []
        ids = _encoded(self._plain, text)
        if not self._marker_ids.isdisjoint(ids):
            # A vocabulary in which plain text can spell a marker: character by character it cannot.
            ids = [i for char in text for i in self._plain.encode(char, add_special_tokens=False).ids]
        return ids

    def _probe(self) -> None:
        """At start: does the template do what the profile says, and is tokenising in pieces exact for this model?"""
        plain = Prompt((Message("user", "What is 2 + 2?\n\nAnswer with  one number."),))
        for thinking in (True, False) if self._profile.thinks else (False,):
            spans = self._spans(plain, thinking)
            if spans is None:
                log.warning("the chat template changes what callers type; markers in it are taken apart instead")
                break
            text = "".join(span.text for span in spans)
            if self._ids(spans) != self._whole.encode(text, add_special_tokens=False).ids:
                log.warning("this tokenizer cannot work in pieces; markers in what callers type are taken apart")
                self._exact = False
                break
            self._ending(_tail(spans), thinking)


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    if len(text) < LONG:
        return tokenizer.encode(text, add_special_tokens=False).ids
    # Of the two, this one lets go of the interpreter's lock; it costs more for short texts.
    return tokenizer.encode_batch([text], add_special_tokens=False)[0].ids


def _tail(spans: Sequence[_Span]) -> str:
    """The template's own text behind the last span a caller typed."""
    return spans[-1].text if spans and not spans[-1].typed else ""


def _conversation(prompt: Prompt, profile: Profile, thinking: bool, put: Any) -> list[dict[str, Any]]:
    """The messages as templates expect them, each text through `put`."""
    turns: list[dict[str, Any]] = []
    for message in prompt.messages:
        content = message.content if isinstance(message.content, str) else message.content.unseal()
        role = "system" if message.role == "developer" else message.role
        turn: dict[str, Any] = {"role": role, "content": put(content)}
        if message.name:
            turn["name"] = put(message.name)
        if message.thought is not None and profile.shows_thoughts and (thought := message.thought.unseal()):
            turn["reasoning_content"] = put(thought)
        if message.tool_call_id:
            turn["tool_call_id"] = put(message.tool_call_id)
        if message.tool_calls:
            turn["tool_calls"] = [
                {
                    "id": put(call.id),
                    "type": "function",
                    "function": {"name": put(call.name), "arguments": _arguments(call.arguments, put)},
                }
                for call in message.tool_calls
            ]
        turns.append(turn)
    if thinking and profile.instruction:
        if turns and turns[0]["role"] == "system":
            turns[0]["content"] = f"{turns[0]['content']}\n\n{profile.instruction}"
        else:
            turns.insert(0, {"role": "system", "content": profile.instruction})
    return turns


def _arguments(text: str, put: Any) -> Any:
    """Templates want the arguments of a call as an object; what is none is passed as text."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return put(text)
    return _through(value, put) if isinstance(value, dict) else put(text)


def _through(value: Any, put: Any) -> Any:
    """A JSON value with every text in it, keys too, through `put`."""
    if isinstance(value, str):
        return put(value)
    if isinstance(value, dict):
        return {
            (key if key in _SCHEMA else put(key)): _through(inner, put)
            for key, inner in cast("dict[str, Any]", value).items()
        }
    if isinstance(value, list):
        return [_through(inner, put) for inner in cast("list[Any]", value)]
    return value


# Words of JSON schemas that templates look up by name.
_SCHEMA = frozenset(
    {"type", "properties", "required", "description", "enum", "items", "anyOf", "oneOf", "allOf", "$defs", "$ref"}
    | {"default", "title", "nullable", "format", "additionalProperties", "minimum", "maximum"}
)


def _is_marker(token: AddedToken, profile: Profile) -> bool:
    """A control token, and not one of the plain words that some vocabularies add in the same way."""
    text = token.content.strip()
    bracketed = text[:1] in ("<", "[") and text[-1:] in (">", "]")
    return bool(text) and (token.special or bracketed or text in (profile.start, profile.end))


def _without(tokenizer: Tokenizer, markers: Collection[str]) -> Tokenizer:
    """The same tokenizer, knowing none of the markers: it reads all text as plain text."""
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] not in markers]
    data["post_processor"] = data["truncation"] = data["padding"] = None
    return Tokenizer.from_str(json.dumps(data))


def _least_bytes(text: str) -> int:
    """Bytes a text has at least when it is composed (NFC): no character decomposes into more than four."""
    return len(text) if text.isascii() else len(text) // 4


def _longest(tokenizer: Tokenizer) -> int | None:
    """Bytes of text one token stands for at most; None where that cannot be told: where text may go without a token, or
    much of it into one (unknown words, white space beside a marker)."""
    data: dict[str, Any] = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = data["model"]["vocab"] if data["model"]["type"] == "BPE" else {}
    before: dict[str, Any] = data["pre_tokenizer"] or {}
    steps: list[dict[str, Any]] = before.get("pretokenizers", [before])
    added: list[dict[str, Any]] = data["added_tokens"]
    if (
        not set(ByteLevel.alphabet()) <= vocabulary.keys()
        or not {"ByteLevel"} <= {step.get("type") for step in steps} <= {"ByteLevel", "Split", "Digits"}
        or any(step.get("behavior") == "Removed" for step in steps)
        or (data["normalizer"] or {"type": "NFC"})["type"] != "NFC"
        or any(token["lstrip"] or token["rstrip"] for token in added)
    ):
        return None
    return max(*map(len, vocabulary), *(len(token["content"].encode()) for token in added))
