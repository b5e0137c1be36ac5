"""Ways in which a conversation becomes the text of a prompt, cut into what the template wrote and what a caller typed.

Most models bring a chat template (`JinjaTemplate`). Some are prompted by a program that comes with vLLM
(`CodeTemplate`), and Mistral's own tokenizers make token ids themselves (`MistralTemplate`).
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, cast

from jinja2.exceptions import TemplateError

from ponder.compute.errors import EngineError, RequestError
from ponder.engines.span_tokens import Span, any_of, apart, taken_apart
from ponder.engines.written import Written, compiled

log = logging.getLogger(__name__)

Put = Callable[[str], str]
Turns = list[dict[str, Any]]
Made = Callable[[Put], tuple[Turns, Turns | None]]
"""Messages and tools as templates expect them, each text a caller typed passed through a function."""


Sample = tuple[Made, Mapping[str, Any]]
"""A conversation, and the variables of the template."""


class Template(Protocol):
    """How one model's prompts are rendered."""

    def spans(self, made: Made, variables: Mapping[str, Any]) -> list[Span]:
        """The prompt of a conversation in pieces. Raises `RequestError` where the template refuses it."""
        ...


def template_of(
    tokenizer: Any, markers: Collection[str], samples: Sequence[tuple[Made, Mapping[str, Any]]]
) -> Template:
    """The way that fits a tokenizer, found by what it makes of some conversations; `markers` are its control tokens.
    Raises `EngineError` where there is none."""
    if is_mistrals(tokenizer):
        return MistralTemplate(tokenizer)
    code = CodeTemplate(tokenizer, markers)
    if tokenizer.chat_template:
        jinja = JinjaTemplate(tokenizer)
        marker = any_of(markers)
        if all(_alike(jinja, code, marker, made, variables) for made, variables in samples):
            return jinja
        log.warning("the chat template does not show which text is its own: each prompt is rendered twice")
    elif not _taken(code, samples):
        raise EngineError(
            "the model's tokenizer has no chat template: serve a chat or reasoning model, or put a chat_template.jinja "
            "into the model's folder (the makers of some, as of Kimi-K3 and Inkling, publish program code in its place)"
        )
    return code


def is_mistrals(tokenizer: Any) -> bool:
    """It is vLLM's `MistralTokenizer`, or the class of transformers that this holds."""
    return hasattr(getattr(tokenizer, "transformers_tokenizer", tokenizer), "tokenizer") and hasattr(
        getattr(tokenizer, "transformers_tokenizer", tokenizer).tokenizer, "instruct_tokenizer"
    )


def _alike(
    jinja: JinjaTemplate, code: CodeTemplate, marker: re.Pattern[str], made: Made, variables: Mapping[str, Any]
) -> bool:
    """Both ways make the same text of a conversation nobody typed a marker into, if the ordinary one takes it; and its
    markers are the template's."""
    try:
        text = code.rendered(made(_as_it_is), variables)
    except RequestError:
        return True
    try:
        spans = jinja.spans(made, variables)
    except RequestError:
        return False
    return text == "".join(span.text for span in spans) == taken_apart(spans, marker)


def _taken(code: CodeTemplate, samples: Sequence[Sample]) -> bool:
    """It makes something of one of these."""
    for made, variables in samples:
        try:
            if code.rendered(made(_as_it_is), variables):
                return True
        except RequestError:
            continue
    return False


class JinjaTemplate:
    """A chat template of Jinja's, as `apply_chat_template` of transformers renders it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = {name: _written(value) for name, value in tokenizer.special_tokens_map.items()}

    def spans(self, made: Made, variables: Mapping[str, Any]) -> list[Span]:
        turns, tools = made(_as_it_is)
        try:
            text: Any = compiled(self._tokenizer.get_chat_template(None, tools)).render(
                {
                    **self._special,
                    **variables,
                    "messages": [{**turn, "role": _role(turn["role"])} for turn in turns],
                    "tools": tools,
                    "documents": None,
                    "add_generation_prompt": True,
                }
            )
        except _REFUSALS as error:
            raise refusal(error) from None
        return [Span(piece, not own) for piece, own in cast("Written", text).pieces]


class CodeTemplate:
    """A program that renders conversations. It is run twice: with what was typed, and with each typed character that
    a control token has too in a private one's place. Where the second comes to the first with the characters put back,
    it shows which are typed."""

    def __init__(self, tokenizer: Any, markers: Collection[str]) -> None:
        self._tokenizer = tokenizer
        self._markers = any_of(markers)
        # What JSON escapes stays as it is.
        letters = sorted(set("".join(markers)) - set('"\\'))
        self._hidden = {ord(char): 0xE100 + n for n, char in enumerate(letters)}
        self._shown = {hidden: char for char, hidden in self._hidden.items()}
        self._private = re.compile(f"[{re.escape(''.join(map(chr, self._shown)))}]+") if letters else re.compile("(?!)")

    def spans(self, made: Made, variables: Mapping[str, Any]) -> list[Span]:
        text = self.rendered(made(_as_it_is), variables)
        for put in (self._all_hidden, self._suspects_hidden):
            try:
                hidden = self.rendered(made(put), variables)
            except RequestError:
                continue
            if hidden.translate(self._shown) == text and not self._private.search(text):
                return self._cut(hidden)
        return [Span(self.rendered(made(self._taken_apart), variables), False)]

    def _all_hidden(self, text: str) -> str:
        return text.translate(self._hidden)

    def _suspects_hidden(self, text: str) -> str:
        """Words that the program may look for stay."""
        return text if text.isidentifier() and text.islower() and len(text) > 1 else text.translate(self._hidden)

    def _taken_apart(self, text: str) -> str:
        """The last resort, for programs that act on what was typed."""
        return apart(text, self._markers)

    def _cut(self, hidden: str) -> list[Span]:
        spans: list[Span] = []
        at = 0
        for found in self._private.finditer(hidden):
            if found.start() > at:
                spans.append(Span(hidden[at : found.start()], False))
            spans.append(Span(found[0].translate(self._shown), True))
            at = found.end()
        if at < len(hidden):
            spans.append(Span(hidden[at:], False))
        return spans

    def rendered(self, made: tuple[Turns, Turns | None], variables: Mapping[str, Any]) -> str:
        """The text, from messages and tools. Raises `RequestError` where they are refused."""
        turns, tools = made
        try:
            text: Any = self._tokenizer.apply_chat_template(
                turns, tools=tools, tokenize=False, add_generation_prompt=True, **variables
            )
        except _REFUSALS as error:
            raise refusal(error) from None
        if not isinstance(text, str):
            raise EngineError(f"the chat template rendered a {type(text).__name__}, not a text")
        return text


class MistralTemplate:
    """Mistral's own tokenizer, which renders to token ids and never makes a control token of a message."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def spans(self, made: Made, variables: Mapping[str, Any]) -> list[Span]:
        turns, tools = made(_as_it_is)
        known = {name: value for name, value in variables.items() if name == "reasoning_effort"}
        refusals: Any = importlib.import_module("mistral_common.exceptions").MistralCommonException
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                turns, tools=tools, tokenize=True, return_dict=False, **known
            )
        except (AssertionError, refusals, *_REFUSALS) as error:
            raise refusal(error) from None
        return [Span("", True, tuple(ids))]


def refusal(error: Exception) -> RequestError:
    """Words of the template's own are told; what may quote the request is not."""
    told = error.args[0] if isinstance(error, TemplateError) and error.args else None
    own = isinstance(told, Written) and all(own for _, own in told.pieces)
    why = str(told)[:200] if own else type(error).__name__
    return RequestError(
        f"this model's chat template does not take the conversation ({why})",
        param="messages",
        code="invalid_messages",
    )


_REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


_role = lru_cache(maxsize=16)(Written.whole)


def _as_it_is(text: str) -> str:
    return text


def _written(value: Any) -> Any:
    return Written.whole(value) if isinstance(value, str) else [*map(_written, value)] if value else value
