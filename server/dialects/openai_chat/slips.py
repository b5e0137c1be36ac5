"""Keys of a request that have no effect: those that were meant for one of ours are refused, the others reported."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel

from ponder.compute.errors import RequestError
from ponder.server.dialects.openai_chat.schema import (
    FIELDS,
    ChatRequest,
    Choice,
    Reasoning,
    Thinking,
    ThinkingConfig,
    WireMessage,
)
from ponder.server.validation import SAFE

OURS = (
    "thinking_budget",
    "thinking_token_budget",
    "thinking_budget_tokens",
    "max_answer_tokens",
    "max_cost_usd",
    "include_reasoning",
    "enable_thinking",
    "reasoning_effort",
    "max_completion_tokens",
    "on_overflow",
    "strategy",
    "verifier",
    "reasoning",
    "thinking",
    "thinking_config",
)
"""Names that matter for the budget: what nearly is one of them is a slip, not somebody else's field."""
UNMISTAKABLE = OURS[:8]
"""Those that in another place (`metadata`, say) can only have been meant for the top level."""
OTHER_WORDS = frozenset(
    {"budget_tokens", "thinking_tokens", "max_thinking_tokens"}
    | {"reasoning_budget", "reasoning_tokens", "max_reasoning_tokens"}
)
"""Names nobody sends for anything but a budget."""
OTHER_COSTS = frozenset({"max_cost", "max_usd", "cost_limit", "cost_limit_usd", "budget_usd", "max_budget_usd"})
"""Names nobody sends for anything but a bound on the cost."""
OWN_WORDS: dict[type[BaseModel], tuple[str, ...]] = {
    Reasoning: ("max_tokens", "effort", "enabled"),
    Thinking: ("budget_tokens", "type"),
    ThinkingConfig: ("thinking_budget", "thinking_level"),
}
"""Objects that say how much to think, and how: first the budget."""
NO_SLIP = frozenset({"reasoning_format", "reasoning_split", "reasoning_content", "verbosity"})
"""Fields of others that look like ours."""
NOT_SUPPORTED = {
    "functions": "use tools instead",
    "function_call": "use tool_choice instead",
    "audio": "answers are text",
    "guided_choice": "use response_format with a schema that has an enum",
    "guided_regex": "use response_format with a schema that has a pattern",
    "guided_grammar": "use response_format with a JSON schema",
    "guided_decoding_backend": "the server's operator chooses it",
    "structured_outputs": "of it only json is read; use response_format",
    "repetition_penalty": "use presence_penalty or frequency_penalty",
    "length_penalty": "it belongs to a search that this server does not have",
    "use_beam_search": "name a strategy instead, as GET /v1/strategies lists them",
    "best_of": "use the strategy best_of_n",
    "min_tokens": "an answer ends where the model ends it",
    "stop_token_ids": "use stop, with texts",
    "bad_words": "use logit_bias",
    "allowed_token_ids": "use logit_bias",
    "prompt_logprobs": "there are no log-probabilities of a prompt; logprobs has those of the answer",
    "echo": "an answer is what comes behind the prompt",
    "prompt": "use messages",
    "chat_template": "the template is the model's",
    "documents": "put them into messages",
    "tokens": "use messages",
    "web_search_options": "this server fetches nothing",
    "prediction": "it is not offered",
}
"""What would change the result and is not offered, and what to use instead."""
OFF = {
    "ignore_eos": (False,),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "echo": (False,),
    "use_beam_search": (False,),
    "repetition_penalty": (1, 1.0),
    "length_penalty": (1, 1.0),
    "min_tokens": (0,),
    "best_of": (1,),
    "prompt_logprobs": (0,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
}
"""Values of such fields at which they change nothing."""
UNKNOWN = 64
"""Unknown keys at most."""
LISTED, LONGEST_NAME = 32, 64
"""Names that a header lists at most, and the length of one: proxies bound what all headers may have."""


def nearest(word: str, words: Iterable[str], cutoff: float = 0.82) -> str | None:
    """The one of `words` that `word` was meant to be, if any. Other ways of writing (camel case, dashes) count."""
    if len(word) > 64:
        return None
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).replace("-", "_").lower()
    found = difflib.get_close_matches(plain, list(words), n=1, cutoff=cutoff)
    return found[0] if found else None


def misspelt(body: dict[str, Any]) -> None:
    """Raises `RequestError` for a key that nearly is one of ours, or is one in the wrong place."""
    unknown = [key for key in body if key not in FIELDS]
    if len(unknown) > UNKNOWN:
        raise RequestError(f"the body has more than {UNKNOWN} fields that are not known", code="too_many_fields")
    for key in unknown:
        value = body[key]
        if (key in NOT_SUPPORTED or key in OFF) and value not in (None, [], {}, *OFF.get(key, ())):
            words = NOT_SUPPORTED.get(key, "leave it out")
            raise RequestError(f"{key} is not supported: {words}", param=key, code="unsupported_parameter")
        if key not in NO_SLIP and (meant := _ours(key, OURS)):
            raise RequestError(
                f"there is no such field; did you mean {meant}?",
                param=key if SAFE.fullmatch(key) else None,
                code="unknown_parameter",
            )


def _ours(key: str, words: Iterable[str]) -> str | None:
    """The field of ours that a key was meant to be."""
    if key in OTHER_WORDS:
        return "thinking_budget"
    return "max_cost_usd" if key in OTHER_COSTS else nearest(key, words)


@dataclass(frozen=True, slots=True)
class Stray:
    """A key that has no effect where it stands."""

    place: tuple[str, ...]
    """The objects and lists it is in; () is the top level."""
    key: str
    holder: type[BaseModel]

    @property
    def param(self) -> str:
        """Its path, as far as it can be repeated."""
        return ".".join((*self.place, self.key) if SAFE.fullmatch(self.key) else self.place)

    @property
    def name(self) -> str:
        """Its path without the numbers of list items, or `?` where that cannot stand in a header."""
        parts = [part for part in self.place if not part.isdecimal()]
        name = ".".join([*parts, self.key])
        return name if SAFE.fullmatch(self.key) and len(name) <= LONGEST_NAME else "?"


_HOLDERS = (list, BaseModel)
"""What may have keys inside."""


def strays(value: Any, place: tuple[str, ...] = ()) -> Iterator[Stray]:
    """Keys nobody knows, in all that is not a caller's own (metadata, schemas, parameters of a strategy)."""
    if isinstance(value, list):
        for i, inner in enumerate(cast("list[Any]", value)):
            if inner is not None and isinstance(inner, _HOLDERS):
                yield from strays(inner, (*place, str(i)))
    if not isinstance(value, BaseModel) or isinstance(value, Choice):
        return
    for key, inner in (value.model_extra or {}).items():
        if inner is not None:
            yield Stray(place, key, type(value))
    for field, inner in vars(value).items():
        # Most are None, and `isinstance` of a pydantic model is slow.
        if inner is not None and isinstance(inner, _HOLDERS):
            yield from strays(inner, (*place, field))
    if isinstance(value, WireMessage) and isinstance(value.content, list):
        for i, part in enumerate(value.content):
            for key in (key for key in part if key not in ("type", part.get("type"))):
                yield Stray((*place, "content", str(i)), key, WireMessage)


def misplaced(request: ChatRequest, found: Sequence[Stray]) -> None:
    """Raises `RequestError` for a key inside an object of the body that can only have been meant for a budget. `found`
    are its `strays`."""
    theirs = OTHER_WORDS | OTHER_COSTS
    lost = [Stray(("metadata",), key, ChatRequest) for key in request.metadata or () if key not in theirs]
    inner = {(stray.holder, stray.key): stray for stray in found if stray.place}
    for stray in [*lost[:UNKNOWN], *list(inner.values())[:UNKNOWN]]:
        if stray.key not in NO_SLIP and (words := _meant(stray)):
            raise RequestError(words, param=stray.param, code="unknown_parameter")


def _meant(stray: Stray) -> str | None:
    """What to say of a key inside an object, if it was meant for a budget."""
    place, near = ".".join(stray.place), None
    if own := OWN_WORDS.get(stray.holder):
        near = own[0] if stray.key in OTHER_WORDS or stray.key in ("budget", "max_tokens") else nearest(stray.key, own)
    if near:
        return f"there is no such field; did you mean {place}.{near}?"
    top = _ours(stray.key, UNMISTAKABLE)
    return top and f"this has no effect inside {place}; {top} belongs at the top level of the body"


def told(found: Sequence[Stray]) -> Sequence[Stray]:
    """Those of the keys that have a place in the header."""
    by_name: dict[str, Stray] = {}
    for stray in found:
        if len(by_name) == LISTED:
            break
        by_name.setdefault(stray.name, stray)
    return list(by_name.values())


def ignored(request: ChatRequest, found: Sequence[Stray], more: Sequence[str] = ()) -> str:
    """The value of `x-ignored-parameters`: the paths of keys that had no effect, a bounded number of them. `found` are
    its `strays`, `more` fields the plan has found to be without effect."""
    names = [stray.name for stray in found]
    if request.store:
        names.insert(0, "store")
    return ", ".join(list(dict.fromkeys([*more, *names]))[:LISTED])
