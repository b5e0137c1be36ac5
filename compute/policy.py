"""The numbers by which the server chooses how much to think: those of its own rules, or others learned for a model.

A policy is kept as JSON: `version`, the `model` it was learned for, its `numbers` (those left out are the server's
own), and what is told of how it was learned (`learned`), which nobody reads but people.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from ponder.compute.full_vote import Urn

VERSION = 1
"""Of the form of the file."""

Chance = Annotated[float, Field(ge=0, le=1)]


class WrongPolicy(ValueError):
    """A file that is no policy; the message has one line for each thing that is wrong."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Pace:
    """How many chains are under way while a vote is open."""

    first: Annotated[int, Field(ge=1, le=256)]
    """Chains to begin with."""
    abreast: Annotated[int, Field(ge=1, le=256)]
    """Chains side by side at most."""
    spare: Annotated[float, Field(ge=1, le=64)]
    """Chains side by side for each vote that the leader needs at least."""
    doubt: Chance
    """The part of a vote that a chain which is slow to end counts against the leader: so much when it has been written
    for as long as those took that have ended, and before in proportion. The more there are side by side, the more the
    first to end are the shortest, and no fair sample."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Policy:
    """What the strategy `auto` goes by. The defaults are the built-in rules, chosen over recorded samples of many
    models; `docs/auto.md` says how."""

    chains: Annotated[int, Field(ge=1, le=256)] = 32
    """Chains at most."""
    start: Annotated[int, Field(ge=1, le=256)] = 3
    """Votes for the leader that it takes at least, where nothing but votes tells."""
    lead: Chance = 0.90
    """A vote stops where its leader would win a fair toss against the runner-up with this probability."""
    slope: Chance = 0.27
    """So much less of it is enough by the time that all chains have ended: the later in the vote, the less is left to
    win by going on."""
    likelihood: Annotated[float, Field(ge=0.5, le=1)] = 0.5
    """How well the likelihood of chains is thought to tell answers apart before any vote was seen, as the probability
    that a chain of the winning answer outranks another: 0.5 is not at all, and leaves the votes even."""
    judged_lead: Chance = 0.95
    judged_slope: Chance = 0.15
    """Both where a verifier chooses among the answers: it finds the right one where votes do not, so that more chains
    are worth more."""
    judged_share: Chance = 0.75
    """The part of all scores that an answer has for which the verifier, asked at three to one, is clearly."""
    judged_chains: Annotated[int, Field(ge=1, le=256)] = 8
    """Chains that a verifier chooses among where answers cannot be compared."""
    tokens: Pace = Pace(first=3, abreast=8, spare=1.5, doubt=0.5)
    """For few tokens."""
    latency: Pace = Pace(first=6, abreast=12, spare=4.0, doubt=0.7)
    """For a quick answer."""
    urns: Annotated[tuple[Urn, ...], Field(min_length=1, max_length=64)] = (
        Urn(0.0541, 0.0, 0.1),
        Urn(0.0177, 0.0, 10.0),
        Urn(0.0155, 0.3, 9.7),
        Urn(0.0102, 0.3, 29.7),
        Urn(0.5070, 0.6, -0.5),
        Urn(0.1966, 0.6, -0.3),
        Urn(0.1991, 0.85, -0.75),
    )
    """How far answers to a question scatter: what `confidence` is worked out with (`docs/confidence.md`)."""
    model: str | None = None
    """The model that it was learned for; None: none in particular."""

    @model_validator(mode="after")
    def _fits_together(self) -> Policy:
        if self.start > self.chains:
            raise ValueError(f"start is {self.start}, and there are {self.chains} chains at most")
        return self

    def with_at_most(self, chains: int) -> Policy:
        """The same for votes of no more than so many chains."""
        most = min(chains, self.chains)
        return replace(self, chains=most, start=min(self.start, most))


BUILT_IN = Policy()
"""The server's own rules."""

_NUMBERS = tuple(field.name for field in fields(Policy) if field.name != "model")
_ADAPTER = TypeAdapter(Policy)


def read(text: str | bytes) -> Policy:
    """A policy from its file. Raises `WrongPolicy`."""
    try:
        told: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WrongPolicy(f"it is no JSON ({error})") from None
    if not isinstance(told, dict):
        raise WrongPolicy("it is no JSON object")
    told = cast("dict[str, Any]", told)
    if told.get("version") != VERSION:
        raise WrongPolicy(f"version: it is {told.get('version')!r}, and this server reads version {VERSION}")
    known = ("version", "model", "numbers", "learned")
    wrong = [f"{name}: there is no such field{_nearest(name, known)}" for name in told if name not in known]
    numbers, model = told.get("numbers", {}), told.get("model")
    if not isinstance(model, str | None):
        wrong.append("model: it is no text")
    if not isinstance(numbers, dict):
        wrong.append("numbers: it is no object")
    elif "model" in numbers:
        wrong.append("numbers.model: there is no such number")
    if wrong:
        raise WrongPolicy("\n".join(wrong))
    try:
        policy = _ADAPTER.validate_json(json.dumps(numbers), strict=True)
    except ValidationError as error:
        raise WrongPolicy("\n".join(_words(one) for one in error.errors(include_url=False))) from None
    return replace(policy, model=model)


def _words(error: Mapping[str, Any]) -> str:
    path = [str(part) for part in error["loc"] if not str(part).startswith("function-")]
    place = ".".join(["numbers", *path])
    if error["type"] == "unexpected_keyword_argument":
        of = _NUMBERS if len(path) == 1 else tuple(field.name for field in fields(Pace))
        return f"{place}: there is no such number{_nearest(path[-1], of)}"
    said = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    shown = f" (it is {given!r})" if isinstance(given, int | float) else ""
    return f"{place}: {said[:1].lower()}{said[1:]}{shown}"


def _nearest(word: str, words: tuple[str, ...]) -> str:
    found = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def written(policy: Policy, learned: Mapping[str, Any] | None = None) -> str:
    """The file of a policy: what is the server's own is left out."""
    whole: dict[str, Any] = _ADAPTER.dump_python(policy, mode="json")
    own: dict[str, Any] = _ADAPTER.dump_python(BUILT_IN, mode="json")
    numbers = {name: whole[name] for name in _NUMBERS if whole[name] != own[name]}
    file = {"version": VERSION, "model": policy.model, "numbers": numbers}
    return json.dumps(file | ({"learned": dict(learned)} if learned else {}), indent=1) + "\n"
