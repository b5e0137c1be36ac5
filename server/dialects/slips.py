"""Keys of a request that have no effect: those that were meant for one of ours are refused, the others reported."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from pydantic import BaseModel

from ponder.compute.errors import RequestError
from ponder.server.dialects.thinking_spellings import Reasoning, Thinking, ThinkingConfig
from ponder.server.dialects.wire import Wire
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
IN_PARTS = frozenset({"type", "text", "annotations", "logprobs"})
"""Keys of parts of messages that are known wherever they stand."""
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


@dataclass(frozen=True, slots=True)
class Refused:
    """Fields of others that would change the result and that a dialect does not offer."""

    instead: Mapping[str, str]
    """By their names, what to use instead."""
    off: Mapping[str, tuple[Any, ...]]
    """By their names, the values at which they change nothing."""

    @property
    def described(self) -> dict[str, str]:
        """What to say of each: what to use instead, and the values that are taken because they change nothing."""
        told = {name: self.instead.get(name, "leave it out") for name in sorted({*self.instead, *self.off})}
        for name, values in self.off.items():
            shown = " and ".join(dict.fromkeys(json.dumps(value) for value in values if not isinstance(value, float)))
            told[name] += f"; {shown} changes nothing and is taken"
        return told


@lru_cache
def known_names(model: type[BaseModel]) -> frozenset[str]:
    """The keys that a model knows."""
    return frozenset(field.alias or name for name, field in model.model_fields.items())


def misspelt(body: dict[str, Any], model: type[BaseModel], refused: Refused) -> None:
    """Raises `RequestError` for a key of a request that nearly is one of ours, or is one in the wrong place. `model`:
    what the dialect knows."""
    known = known_names(model)
    unknown = [key for key in body if key not in known]
    if len(unknown) > UNKNOWN:
        raise RequestError(f"the body has more than {UNKNOWN} fields that are not known", code="too_many_fields")
    for key in unknown:
        value, off = body[key], refused.off.get(key, ())
        if (key in refused.instead or off) and value not in (None, [], {}, *off):
            words = refused.instead.get(key, "leave it out")
            raise RequestError(f"{key} is not supported: {words}", param=key, code="unsupported_parameter")
        if key not in NO_SLIP and (meant := _ours(key, [word for word in OURS if word in known])):
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


_HOLDERS = (list, Wire)
"""What may have keys inside."""


def strays(value: Any, place: tuple[str, ...] = ()) -> Iterator[Stray]:
    """Keys nobody knows, in all that is not a caller's own (metadata, schemas, parameters of a strategy)."""
    if isinstance(value, list):
        for i, inner in enumerate(cast("list[Any]", value)):
            if inner is not None and isinstance(inner, _HOLDERS):
                yield from strays(inner, (*place, str(i)))
    if not isinstance(value, Wire) or value.free_keys:
        return
    for key, inner in (value.model_extra or {}).items():
        if inner is not None:
            yield Stray(place, key, type(value))
    for field, inner in vars(value).items():
        # Most are None, and `isinstance` of a pydantic model is slow.
        if inner is not None and isinstance(inner, _HOLDERS):
            yield from strays(inner, (*place, field))
    if value.part_lists is not None and isinstance(parts := getattr(value, value.part_lists), list):
        for i, part in enumerate(cast("list[dict[str, Any]]", parts)):
            for key in (key for key in part if key not in IN_PARTS and key != part.get("type")):
                yield Stray((*place, value.part_lists, str(i)), key, type(value))


def misplaced(request: BaseModel, metadata: Iterable[str], found: Sequence[Stray]) -> None:
    """Raises `RequestError` for a key inside an object of the request that can only have been meant for a budget.
    `metadata` are the keys of that, `found` its `strays`."""
    theirs = OTHER_WORDS | OTHER_COSTS
    lost = [Stray(("metadata",), key, type(request)) for key in metadata if key not in theirs]
    inner = {(stray.holder, stray.key): stray for stray in found if stray.place}
    for stray in [*lost[:UNKNOWN], *list(inner.values())[:UNKNOWN]]:
        if stray.key not in NO_SLIP and (words := _meant(stray)):
            raise RequestError(words, param=stray.param, code="unknown_parameter")


def _meant(stray: Stray) -> str | None:
    """What to say of a key inside an object, if it was meant for a budget."""
    place, near = ".".join(stray.place), None
    if own := next((OWN_WORDS[kind] for kind in stray.holder.__mro__ if kind in OWN_WORDS), None):
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


def ignored(found: Sequence[Stray], more: Sequence[str] = ()) -> str:
    """The value of `x-ignored-parameters`: the paths of keys that had no effect, a bounded number of them. `found` are
    the request's `strays`, `more` fields that are known and without effect."""
    return ", ".join(list(dict.fromkeys([*more, *(stray.name for stray in found)]))[:LISTED])
