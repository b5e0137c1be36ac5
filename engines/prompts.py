"""A conversation becomes token ids, once, and nothing a caller typed becomes a control token on the way.

The chat template is rendered with the real values, and tells which of the text it wrote (`templates`). The marker
tokens are looked for in that alone; everything between two of them is tokenised as plain text. So `<|im_end|>` or
`</think>` in a message stay text, and for a conversation without such strings the ids are the very ones the ordinary
way gives.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ponder.compute.errors import EngineError, RequestError
from ponder.compute.text import Hidden, Image, Message, Prompt, Raw, Tool, ToolCall, joined, without_thoughts
from ponder.engines.channels import ANSWER, END, HEAD, THOUGHT
from ponder.engines.conversations import conversation, offered
from ponder.engines.fast_tokenizers import fast_tokenizer
from ponder.engines.images import Expanded, Form, ImageReader, Shape
from ponder.engines.plain_tools import Shown, plainly
from ponder.engines.profiles import Profile
from ponder.engines.raw_texts import RawTexts
from ponder.engines.span_tokens import Span, SpanTokenizer, taken_apart
from ponder.engines.templates import Made, Put, Turns, template_of

log = logging.getLogger(__name__)


class ChatTokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    chat_template: Any

    def apply_chat_template(self, conversation: list[dict[str, Any]], **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the model reads it."""

    ids: tuple[int, ...]
    inside: bool
    """It leaves the model inside a thought."""
    wrapped: bool = False
    """It leaves the model within what wraps its answer."""
    midway: bool = False
    """It leaves the model in the middle of a text: white space at the beginning of what follows is part of it."""
    media: Any = None
    """What the engine is given beside the ids, where there are images; their tokens are among them."""


class Prompts:
    """Renders and tokenises the prompts of one model; from any thread."""

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        profile: Profile,
        context: int | None = None,
        tokens: type[SpanTokenizer] = SpanTokenizer,
        images: ImageReader | None = None,
    ) -> None:
        """`context` in tokens; `tokens` is what tokenises; `images`: what reads images, for a model that does. Raises
        `EngineError` where there is no chat template, or the profile does not fit it."""
        self._profile = profile
        self.tokenizer = fast_tokenizer(tokenizer)
        """What reads and spells its text."""
        self._tokens = tokens(self.tokenizer, profile)
        self._context = context
        self._arguments_as_text = self._short_ids = self._one_call = self._one_text = False
        self._shape = Shape()
        self._images = images
        self.shown = Shown()
        """What of tools its template shows the model; the rest is written into the text."""
        variables = self.variables(profile.thinks)
        samples = [(self.made_of(prompt, profile.thinks), variables) for prompt in (_PLAIN, _TURNS, _CALLS)]
        self._template = template_of(tokenizer, self._tokens.markers, samples)
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
            spans = self.spans(prompt, thinking)
            if self._context is not None and (least := self._tokens.least(spans)) > self._context:
                prompt.read[self, thinking, "least"] = least
                return least
            rendered = self._made(prompt, thinking, spans)
        return len(rendered.ids) if rendered is not None else least or 0

    def render(self, prompt: Prompt, *, thinking: bool) -> Rendered:
        """The ids of a prompt that lets the model think, or of one that does not; worked out once, and kept with the
        prompt. Raises `RequestError` where the template refuses the conversation."""
        thinking = thinking and self._profile.thinks
        rendered: Rendered | None = prompt.read.get((self, thinking))
        return self._made(prompt, thinking, self.spans(prompt, thinking)) if rendered is None else rendered

    def says(self, prompt: Prompt) -> bool | None:
        """Whether the conversation itself asks the model to think, or not to: in the words of its family ("detailed
        thinking on"), or, as far as it was rendered to think, in words that the template looks for (`/no_think`). None
        where it says nothing. A raw text says it by the thought that it opens or does not."""
        profile = self._profile
        if not profile.thinks:
            return None
        if prompt.raw is not None:
            return self._raw_opens(prompt.raw)
        pairs = (profile.word, profile.system)
        words = [(word, on) for to_think, not_to in pairs for word, on in ((to_think, True), (not_to, False)) if word]
        for message in reversed(prompt.messages) if words else ():
            if message.role in ("system", "developer", "user") and isinstance(message.content, str):
                at, said = max((message.content.rfind(word), on) for word, on in words)
                if at >= 0:
                    return said
        return False if prompt.read.get((self, "declined")) else None

    def _made(self, prompt: Prompt, thinking: bool, spans: list[Span]) -> Rendered:
        if prompt.raw is not None:
            rendered = prompt.read[self, thinking] = self._as_raw(prompt, prompt.raw, spans, thinking)
            return rendered
        if thinking and self._closes(_tail(spans)):
            # Typed words have switched it off, and a field of the request, which counts for more, on.
            prompt.read[self, "declined"] = True
            spans = self._reopened(spans)
        ids = self.tokenised(spans, prompt.parts)
        added, inside, wrapped = self._ending(_tail(spans), thinking, calls=bool(prompt.tools))
        ids = (*ids, *self.with_markers(added))
        if self._images is None or self._shape.form == "none" or not (images := prompt.images):
            rendered = Rendered(ids, inside, wrapped)
        else:
            seen = self._with_images(ids, images, self._images)
            rendered = Rendered(tuple(seen.ids), inside, wrapped, media=seen.media)
        prompt.read[self, thinking] = rendered
        return rendered

    def _as_raw(self, prompt: Prompt, raw: Raw, spans: list[Span], thinking: bool) -> Rendered:
        """A text as it stands. A conversation that was rendered elsewhere ends as one that was rendered here; a thought
        that is open is closed where the model is not to think."""
        if (tail := self._raw_texts.tail(raw)) is not None:
            ids = self.tokenised(spans)
            if self._closes(tail):
                return Rendered(tuple(ids), False)
            added, inside, wrapped = self._ending(tail, thinking)
            return Rendered((*ids, *self.with_markers(added)), inside, wrapped)
        ids = [*self._raw_texts.begin(raw), *self.tokenised(spans, prompt.parts)]
        opened = self._raw_texts.opened(raw)
        if opened and not thinking:
            ids += self.with_markers(self._profile.closing)
        return Rendered(tuple(ids), opened and thinking, midway=not opened)

    def _raw_opens(self, raw: Raw) -> bool | None:
        tail = self._raw_texts.tail(raw)
        if tail is None:
            return self._raw_texts.opened(raw)
        if self._closes(tail):
            return False
        inside = (
            tail.endswith(THOUGHT) if self._profile.channels else tail.rstrip().endswith(self._profile.start.strip())
        )
        return True if inside else None

    def _with_images(self, ids: Sequence[int], images: Sequence[Image], reader: ImageReader) -> Expanded:
        """The prompt with the tokens of its images. Some processors go by the text of a prompt where they do not find
        the place of an image among its ids, and would make control tokens of what was typed: that is refused."""
        seen = reader.expanded(ids, images)
        own = {i for begin, end in seen.ranges for i in seen.ids[begin:end]}
        beside = list(seen.ids)
        for begin, end in reversed(seen.ranges):
            del beside[begin:end]
        markers = self._tokens.marker_ids
        others = markers - own
        if [i for i in ids if i in others] != [i for i in beside if i in markers]:
            raise RequestError(
                f"{images[0].param}: the images of this conversation cannot be put into its prompt",
                param=images[0].param,
                code="invalid_image",
            )
        return seen

    def tokenised(self, spans: Sequence[Span], parts: dict[Any, Any] | None = None) -> list[int]:
        """The ids of a rendered prompt; see `SpanTokenizer.ids`."""
        if self._exact:
            return self._tokens.ids(spans, parts)
        return self._tokens.whole(taken_apart(spans, self._tokens.marker))

    def with_markers(self, text: str) -> tuple[int, ...]:
        """The ids of a text of ours, markers as markers."""
        return tuple(self._tokens.ids([Span(text, False)])) if text else ()

    def encoded(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """The ids of pieces of text, (text, a caller's): markers are markers only in what is not a caller's."""
        return self._tokens.ids([Span(text, typed) for text, typed in parts])

    @property
    def reads_images(self) -> int:
        """Images that a prompt may have; 0 where the model, or its template, takes none."""
        return 0 if self._images is None or self._shape.form == "none" else self._images.most

    def is_marker(self, text: str) -> bool:
        """A text of ours that is one control token, never merged with what stands beside it."""
        return self._tokens.is_marker(text)

    # -- rendering ----------------------------------------------------------------------------------------------------

    def spans(self, prompt: Prompt, thinking: bool) -> list[Span]:
        """The rendered prompt in pieces. Where the template refuses the conversation for its earlier thoughts (one may
        have words in it that the template forbids), it is rendered without them: no caller has written them. Raises
        `RequestError`, which says what is refused: how much to think, or the conversation."""
        try:
            return self._as_it_is(prompt, thinking)
        except RequestError as error:
            refused = error
        if any(message.thought is not None for message in prompt.messages):
            with suppress(RequestError):
                return self._as_it_is(without_thoughts(prompt), thinking)
        if prompt.effort is not None or prompt.budget is not None:
            with suppress(RequestError):
                self._as_it_is(replace(without_thoughts(prompt), effort=None, budget=None), thinking)
                refused = RequestError(f"thinking is not as this model wants it: {refused.message}", param="thinking")
        raise refused

    def _as_it_is(self, prompt: Prompt, thinking: bool) -> list[Span]:
        if prompt.raw is not None:
            return self._raw_texts.spans(prompt.raw)
        return self._template.spans(self.made_of(prompt, thinking), self.variables(thinking, prompt))

    def made_of(self, prompt: Prompt, thinking: bool) -> Made:
        """Messages and tools as this model's template wants them."""

        def turns_of(put: Put) -> tuple[Turns, Turns | None]:
            turns = conversation(
                prompt,
                self._profile,
                thinking,
                put,
                as_text=self._arguments_as_text,
                short_ids=self._short_ids,
                one_call=self._one_call,
                one_text=self._one_text,
                shape=self._shape,
            )
            tools = offered(prompt, put)
            if self.shown.all:
                return turns, tools
            return plainly(turns, tools, self._profile.tools, self.shown), tools if self.shown.tools else None

        def made(put: Put) -> tuple[Turns, Turns | None]:
            try:
                return turns_of(put)
            except RecursionError:
                raise RequestError(
                    "the arguments of an earlier call or a tool's parameters are nested too deeply; send flatter ones",
                    param="messages",
                    code="invalid_messages",
                ) from None

        return made

    def variables(self, thinking: bool, prompt: Prompt | None = None) -> Mapping[str, Any]:
        """What the chat template is given beside messages and tools."""
        if prompt is None:
            return self._profile.variables(thinking)
        return self._profile.variables(thinking, effort=prompt.effort, budget=prompt.budget)

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

    def _closes(self, tail: str) -> bool:
        """The template leaves the model behind a thought."""
        profile = self._profile
        if profile.channels:
            return tail.endswith(ANSWER)
        return bool(profile.start) and tail.rstrip().endswith(profile.end.strip())

    def _reopened(self, spans: Sequence[Span]) -> list[Span]:
        """Without the thought that the template has closed at the end."""
        profile, text = self._profile, _tail(spans)
        if profile.channels:
            text = text.removesuffix(ANSWER)
        else:
            text = text.rstrip().removesuffix(profile.end.strip())
            begun = text.rstrip()
            text = begun.removesuffix(profile.start.strip()) if begun.endswith(profile.start.strip()) else text
        return [*spans[:-1], Span(text, False)]

    def turn_ends(self, single: bool) -> list[int]:
        """The control token that the template puts behind an answer; none where it puts none, or where a turn is not a
        `single` message."""
        said = "It is 19."
        asked = Message("user", "12 + 7?")
        text = self._said(Prompt((asked, Message("assistant", said), asked))) if single else ""
        profile = self._profile
        behind = text.rpartition(said)[2].lstrip().removeprefix(profile.wrapper[1].strip())
        found = self._tokens.marker.match(behind.lstrip())
        # What a thought is opened or closed with ends no turn.
        within = "".join((profile.opening, profile.closing, profile.closed, *profile.wrapper))
        return list(self.with_markers(found[0])) if found and found[0] not in within else []

    def _probe(self) -> None:
        """At start: what the template takes, whether it does what the profile says, and whether tokenising in pieces is
        exact for this model."""
        self._shape = self._shape_of_texts()
        self._arguments_as_text = self._wants_text()
        self.shown = self._what_shows()
        self._short_ids = self._said(_CALLS) != "" and self._said(_OTHERS_CALLS) == ""
        self._one_call = "Rome" in self._said(_CALLS).rpartition(_ASKED)[2] and _SECOND not in self._said(_TWO_CALLS)
        self._one_text = self._takes_one_text()
        if not self._in_pieces():
            self._tokens.tell_beginnings_apart()
            if not self._in_pieces():
                log.warning("this tokenizer cannot work in pieces; markers in what callers type are taken apart")
                self._exact = False
        profile, tails, written = self._profile, dict[str, tuple[int, ...]](), list[int]()
        for thinking in (True, False) if profile.thinks else (False,):
            tail = _tail(self.spans(_PLAIN, thinking))
            written += self.with_markers(self._ending(tail, thinking)[0])
            tails[tail] = self.with_markers(tail)
            for prompt in (_PLAIN, _TURNS, _CALLS):
                with suppress(RequestError):
                    written += self.tokenised(self.spans(prompt, thinking))
        written += self.with_markers("".join((profile.start, profile.end)))
        self._raw_texts = RawTexts(self.tokenizer, self._tokens, profile, list(tails.items()), written)
        if self._images is not None:
            self._shape = self._shape_of_images(self._images)

    def _shape_of_texts(self) -> Shape:
        """Whether texts are to be parts: of a content that is a text some templates show nothing."""
        asked = _PLAIN.messages[0].content
        if isinstance(asked, str) and asked not in self._said(_PLAIN):
            self._shape = Shape(parts=True)
            if asked in self._said(_PLAIN):
                return self._shape
        return Shape()

    def _shape_of_images(self, reader: ImageReader) -> Shape:
        """How the template takes images: in the first way in which the processor finds a place for each, between the
        texts where they belong."""
        samples = reader.samples[: reader.most]
        text, images = joined(["See ", *(part for image in samples for part in (image, " and here."))])
        prompt = Prompt((Message("user", text, images=images),))
        forms: tuple[Form, ...] = ("part", "word")
        for form in forms:
            self._shape = Shape(form, self._shape.parts, reader.words)
            try:
                ids = self.tokenised(self._as_it_is(prompt, self._profile.thinks))
                seen = self._with_images(ids, samples, reader)
            except RequestError:
                continue
            if len(seen.ranges) == len(samples) and len(seen.ids) > len(ids):
                return self._shape
        log.warning("this model reads images, but its chat template shows it none: requests with images are refused")
        return Shape("none", self._shape.parts)

    def _in_pieces(self) -> bool:
        """Tokenised in pieces, conversations have the ids they have as a whole."""
        for prompt in (_PLAIN, _TURNS, _CALLS):
            try:
                spans = self.spans(prompt, self._profile.thinks)
            except RequestError:
                continue
            whole = self._tokens.whole("".join(span.text for span in spans))
            if all(span.ids is None for span in spans) and self._tokens.ids(spans) != whole:
                return False
        return True

    def _wants_text(self) -> bool:
        """The template writes the arguments of a call as they are, so they have to be JSON text: of an object it makes
        nothing, or what Python would print."""
        as_object = self._said(_CALLS)
        if as_object and _PRINTED not in as_object:
            return False
        self._arguments_as_text = True
        return self._said(_CALLS) != ""

    def _said(self, prompt: Prompt) -> str:
        """What is made of a conversation; nothing where it is refused."""
        try:
            spans = self._as_it_is(prompt, self._profile.thinks)
        except RequestError:
            return ""
        return "".join(span.text or "tokens" for span in spans)

    def _what_shows(self) -> Shown:
        """What of tools the template shows; all of it, too, where it would not take the rest as text either."""
        asked = self._said(Prompt((Message("user", _ASKED),), _CALLS.tools))
        behind = self._said(_CALLS).rpartition(_ASKED)[2]
        if asked == "tokens":
            return Shown()
        found = Shown("warmth" in asked, "Rome" in behind, "degrees" in behind)
        for shown in (found, replace(found, system=False), replace(found, tools=True)):
            self.shown = shown
            told, _, behind = self._said(_CALLS).rpartition(_ASKED)
            if shown.all or ("Rome" in behind and "degrees" in behind and (shown.tools or "warmth" in told)):
                return shown
        log.warning("the chat template shows the model none of its calls, and takes them in no other way")
        return Shown()

    def _takes_one_text(self) -> bool:
        """Of a turn with calls, the template takes a text or a thought and not both."""
        if not self._profile.shows_thoughts:
            return False
        both, alone = (_calls("a1b2c3d4e", said=said, thought="Rome, then.") for said in ("I look.", ""))
        return not self._said(both) and bool(self._said(alone))


_PLAIN = Prompt((Message("user", "What is 2 + 2?\n\nAnswer with  one number."),))
_TURNS = Prompt(
    (Message("system", "Be brief."), Message("user", "Who?"), Message("assistant", "I."), Message("user", "Why?"))
)


_ASKED = "Is it warm in Rome?"
_SECOND = "Tallinn"


def _calls(*numbers: str, said: str = "", thought: str = "") -> Prompt:
    """A conversation in which a tool was called under these ids."""
    schema = '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}'
    return Prompt(
        (
            Message("user", _ASKED),
            Message(
                "assistant",
                said,
                thought=Hidden(thought) if thought else None,
                tool_calls=tuple(
                    ToolCall(number, "warmth", f'{{"city": "{city}"}}')
                    for number, city in zip(numbers, ("Rome", _SECOND), strict=False)
                ),
            ),
            *(Message("tool", '{"degrees": 21}', name="warmth", tool_call_id=number) for number in numbers),
        ),
        (Tool("warmth", "How warm it is", schema),),
    )


_CALLS = _calls("a1b2c3d4e")
_TWO_CALLS = _calls("a1b2c3d4e", "f5g6h7i8j")
_OTHERS_CALLS = _calls("call_0123456789abcdef01234567")
_PRINTED = "{'city': 'Rome'}"


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
