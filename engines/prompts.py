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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer

from ponder.compute.errors import EngineError, RequestError
from ponder.compute.text import Message, Prompt
from ponder.engines.channels import ANSWER, END, HEAD, THOUGHT
from ponder.engines.conversations import conversation, through
from ponder.engines.profiles import Profile
from ponder.engines.span_tokens import Span, SpanTokenizer

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
    wrapped: bool = False
    """It leaves the model within what wraps its answer."""


class Prompts:
    """Renders and tokenises the prompts of one model; from any thread."""

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        profile: Profile,
        context: int | None = None,
        tokens: type[SpanTokenizer] = SpanTokenizer,
    ) -> None:
        """`context` in tokens; `tokens` is what tokenises. Raises `EngineError` where there is no chat template, or the
        profile does not fit it."""
        if not tokenizer.chat_template:
            raise EngineError("the model's tokenizer has no chat template: serve a chat or reasoning model")
        self._tokenizer = tokenizer
        self._profile = profile
        self._tokens = tokens(tokenizer.backend_tokenizer, profile)
        self._context = context
        self._exact = True
        self._probe()

    # -- what is asked of it ------------------------------------------------------------------------------------------

    def length(self, prompt: Prompt, *, thinking: bool) -> int:
        """Tokens of a prompt; of one whose size alone shows that it is longer than the context, the fewest it can have.
        Raises `RequestError` where the template refuses the conversation."""
        thinking = thinking and self._profile.thinks
        rendered: Rendered | None = prompt.read.get((self, thinking))
        least: int | None = prompt.read.get((self, thinking, "least"))
        if rendered is None and least is None:
            spans = self._spans(prompt, thinking)
            if spans is not None and self._context is not None and (least := self._tokens.least(spans)) > self._context:
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

    def _made(self, prompt: Prompt, thinking: bool, spans: list[Span] | None) -> Rendered:
        if spans is None:
            ids, tail = self._escaped(prompt, thinking)
        else:
            ids, tail = self._tokens.ids(spans, prompt.parts), _tail(spans)
        added, inside, wrapped = self._ending(tail, thinking, calls=bool(prompt.tools))
        rendered = prompt.read[self, thinking] = Rendered((*ids, *self.with_markers(added)), inside, wrapped)
        return rendered

    def with_markers(self, text: str) -> tuple[int, ...]:
        """The ids of a text of ours, markers as markers."""
        return tuple(self._tokens.ids([Span(text, False)])) if text else ()

    def encoded(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """The ids of pieces of text, (text, a caller's): markers are markers only in what is not a caller's."""
        return self._tokens.ids([Span(text, typed) for text, typed in parts])

    def is_marker(self, text: str) -> bool:
        """A text of ours that is one control token, never merged with what stands beside it."""
        return self._tokens.is_marker(text)

    # -- rendering ----------------------------------------------------------------------------------------------------

    def _spans(self, prompt: Prompt, thinking: bool) -> list[Span] | None:
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

        text = self._template(conversation(prompt, self._profile, thinking, hide), prompt, thinking, hide)
        spans: list[Span] = []
        end = 0
        for found in _PLACEHOLDER.finditer(text):
            if found.start() > end:
                spans.append(Span(text[end : found.start()], False))
            core = typed[int(found[1])]
            for _ in range(len(found[2]).bit_length()):
                core = json.dumps(core, ensure_ascii=False)[1:-1]
            spans.append(Span(core, True))
            end = found.end()
        if end < len(text):
            spans.append(Span(text[end:], False))
        if not self._exact or any(not s.typed and (_OPEN in s.text or _CLOSE in s.text) for s in spans):
            return None
        return spans

    def _escaped(self, prompt: Prompt, thinking: bool) -> tuple[list[int], str]:
        """For templates that work on what callers typed: their text itself, each marker in it taken apart."""

        marker = self._tokens.marker

        def broken(text: str) -> str:
            while marker.search(text):
                text = marker.sub(lambda found: found[0][1:] and f"{found[0][0]}\u200b{found[0][1:]}", text)
            return text

        text = self._template(conversation(prompt, self._profile, thinking, broken), prompt, thinking, broken)
        return self._tokens.whole(text), text[-200:]

    def _template(self, turns: list[dict[str, Any]], prompt: Prompt, thinking: bool, put: Any) -> str:
        tools: list[dict[str, Any]] | None = [
            {
                "type": "function",
                "function": {
                    "name": put(tool.name),
                    "description": put(tool.description),
                    "parameters": through(json.loads(tool.parameters), put),
                },
            }
            for tool in prompt.tools
        ] or None
        kwargs = self._profile.variables(thinking)
        try:
            text: Any = self._tokenizer.apply_chat_template(
                turns, tools=tools, tokenize=False, add_generation_prompt=True, **kwargs
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

    def _ending(self, tail: str, thinking: bool, *, calls: bool = False) -> tuple[str, bool, bool]:
        """What has to be put behind the template's own end, whether the model is then inside a thought, and whether it
        is within what wraps its answer. `calls`: it may call tools."""
        profile = self._profile
        if not profile.thinks:
            return "", False, False
        if profile.channels:
            return *_in_channels(tail, thinking, calls), False
        start, end = profile.start.strip(), profile.end.strip()
        if not start:
            return "", thinking, False
        # An earlier turn's block is closed and followed by more than white space, so it decides nothing here.
        inside = tail.rfind(start) > tail.rfind(end)
        closed = tail.rstrip().endswith(end)
        if thinking:
            if closed:
                raise EngineError(
                    f"profile {profile.name!r} does not fit: the chat template closes the thought when it is to be open"
                )
            return "" if inside else profile.opening, True, False
        added = "" if closed else profile.closing if inside else profile.closed
        wrapper = profile.wrapper[0]
        if not wrapper or not (closed or end in added):
            return added, False, False
        if wrapper.strip() not in added:
            added += wrapper
        return added, False, True

    def turn_ends(self, single: bool) -> list[int]:
        """The control token that the template puts behind an answer; none where it puts none, or where a turn is not a
        `single` message."""
        said = "It is 19."
        turns = [{"role": role, "content": text} for role, text in (("user", "12 + 7?"), ("assistant", said))]
        try:
            text: Any = self._tokenizer.apply_chat_template([*turns, turns[0]], tokenize=False) if single else ""
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
            return []
        profile = self._profile
        behind = text.rpartition(said)[2].lstrip().removeprefix(profile.wrapper[1].strip())
        found = self._tokens.marker.match(behind.lstrip())
        # What a thought is opened or closed with ends no turn.
        within = "".join((profile.opening, profile.closing, profile.closed, *profile.wrapper))
        return list(self.with_markers(found[0])) if found and found[0] not in within else []

    def _probe(self) -> None:
        """At start: does the template do what the profile says, and is tokenising in pieces exact for this model?"""
        plain = Prompt((Message("user", "What is 2 + 2?\n\nAnswer with  one number."),))
        for thinking in (True, False) if self._profile.thinks else (False,):
            spans = self._spans(plain, thinking)
            if spans is None:
                log.warning("the chat template changes what callers type; markers in it are taken apart instead")
                break
            text = "".join(span.text for span in spans)
            if self._tokens.ids(spans) != self._tokens.whole(text):
                log.warning("this tokenizer cannot work in pieces; markers in what callers type are taken apart")
                self._exact = False
                break
            self._ending(_tail(spans), thinking)


def _tail(spans: Sequence[Span]) -> str:
    """The template's own text behind the last span a caller typed."""
    return spans[-1].text if spans and not spans[-1].typed else ""


def _in_channels(tail: str, thinking: bool, calls: bool) -> tuple[str, bool]:
    """What has to be put behind the head of a message, or behind what the template puts there itself, and whether the
    model is then inside a thought. Where it may call tools and is not to think, it chooses the channel."""
    inside = tail.endswith(THOUGHT)
    if thinking:
        if tail.endswith(ANSWER):
            raise EngineError("the chat template opens the answer when the thought is to be open")
        return "" if inside else THOUGHT, True
    if tail.endswith(ANSWER):
        return "", False
    return (END + HEAD if inside else "") + ("" if calls else ANSWER), False
