"""Dividing answers into groups, whatever order they come in.

To be the same is not transitive: `12 cm` is `12`, and `12` is `12 m`. So each answer is put into one group, with those
it is the same as, and no group holds two that differ. Which group an answer goes to that could go to several hangs on
how many give the others: to the largest. Of equals, on what they say and never on which came first.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from ponder.compute.answers.keys import ENOUGH, Key, rounds, told
from ponder.compute.answers.reading import Dress, Reading


@dataclass(slots=True)
class _Alike:
    """Answers of the same readings, which are never parted."""

    readings: tuple[Reading, ...]
    names: list[str] = field(default_factory=list[str])
    votes: int = 0
    told: str = ""


@dataclass(slots=True)
class _Group:
    worn: dict[str, Hashable] = field(default_factory=dict[str, Hashable])
    members: list[_Alike] = field(default_factory=list[_Alike])
    votes: int = 0

    def takes(self, dress: Dress) -> bool:
        return all(self.worn.get(name, worn) == worn for name, worn in dress)

    def add(self, one: _Alike, dress: Dress) -> None:
        self.worn |= dict(dress)
        self.members.append(one)
        self.votes += one.votes


def partition(
    answers: Mapping[str, int], keys: Mapping[str, Key], equal: Mapping[str, str] | None = None
) -> list[list[str]]:
    """Groups of the answers, which are given with how many gave each. `equal`: what computer algebra has found each of
    some answers to be the same as."""
    alike = _alike(answers, keys, equal or {})
    cores: dict[Hashable, list[_Alike]] = {}
    for one in alike:
        for core in dict.fromkeys(reading.core for reading in one.readings):
            cores.setdefault(core, []).append(one)
    left = {id(one) for one in alike}
    groups: list[list[str]] = []
    while cores:
        core = min(cores, key=lambda core: _rank(core, cores[core]))
        for group in _by_dress(core, cores[core]):
            groups.append([name for one in group.members for name in one.names])
            left -= {id(one) for one in group.members}
        cores = {c: here for c, ones in cores.items() if (here := [one for one in ones if id(one) in left])}
    return groups


def _alike(answers: Mapping[str, int], keys: Mapping[str, Key], equal: Mapping[str, str]) -> list[_Alike]:
    found: dict[tuple[Reading, ...], _Alike] = {}
    exact = [keys[one] for one in answers if not keys[one].significant and keys[one].value is not None]
    for answer, votes in answers.items():
        key = keys[answer]
        readings = key.readings
        if key.significant >= ENOUGH:
            # A decimal that stands for several numbers stands for none.
            stood_for = {other.readings[0] for other in exact if rounds(key, other)}
            readings += tuple(stood_for) if len({one.core for one in stood_for}) == 1 else ()
        if answer in equal:
            readings += keys[equal[answer]].readings[:1]
        one = found.setdefault(readings, _Alike(readings))
        one.names.append(answer)
        one.votes += votes
    for one in found.values():
        one.told = min(one.names)
    return list(found.values())


def _rank(core: Hashable, ones: Sequence[_Alike]) -> tuple[int, int, int, str]:
    """The core that most answers can have goes first; of equals the one that they have in the first place."""
    votes = sum(one.votes for one in ones)
    literal = sum(one.votes for one in ones if one.readings[0].core == core)
    return -votes, -len(ones), -literal, told(core)


def _by_dress(core: Hashable, ones: Sequence[_Alike]) -> list[_Group]:
    """Those that can have a core, apart by what they are dressed in; whoever wears less goes to the largest."""
    worn = [(next(r.dress for r in one.readings if r.core == core), one) for one in ones]
    groups: list[_Group] = []
    for dress, one in sorted(worn, key=lambda pair: (-len(pair[0]), -pair[1].votes, pair[1].told)):
        fitting = [group for group in groups if group.takes(dress)]
        if fitting:
            max(fitting, key=lambda group: group.votes).add(one, dress)
        else:
            groups.append(_Group())
            groups[-1].add(one, dress)
    return groups
