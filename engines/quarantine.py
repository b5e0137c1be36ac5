"""Which request ends the engine: found out when it has died with requests in flight, so that it is refused and the
others are not.

Whoever was in flight when an engine died of itself is under suspicion. Suspects go on one after the other: the next has
its turn when the one before has got further, or is over. So the one with which the engine dies again is known. So is a
request that was alone with the engine at two such deaths. An engine that was killed from outside says nothing against
anybody; but a request that got no further between several deaths, of whatever kind, is at their root.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from ponder.compute.transcript import Transcript
from ponder.engines.supervisor import Death

PROOF = 32
"""Tokens by which a chain must have got further for its request to be cleared."""
ALONE = 2
"""Deaths with nobody else in flight that prove it."""
STUCK = 5
"""Deaths in a row between which a request got no further."""
MOST = 4
"""Deaths of the engine by itself that any request may have seen."""
KEPT = 1024
"""Requests that are remembered."""
POLL = 0.02


@dataclass(slots=True)
class _Case:
    """What is known of one request."""

    suspect: bool = False
    guilty: bool = False
    seen: set[int] = field(default_factory=set[int])
    """Deaths by itself with this request in flight, but for those that another is to blame for."""
    alone: int = 0
    """Those with nobody else, up to the one of number `counted`."""
    counted: int = -1
    stuck: int = 0
    last: int = -1
    """The number of the death that was looked at last."""
    moved: bool = False
    """It had got further by then."""


@dataclass(slots=True)
class _Trial:
    """The suspect that goes on, and its chains, in a life of the engine."""

    request: str
    life: int
    chains: list[Transcript] = field(default_factory=list[Transcript])
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def undecided(self) -> bool:
        """Some of its chains have not got further yet."""
        return any(not chain.over and chain.gained < PROOF for chain in self.chains)


class Quarantine:
    """Keeps the suspects of one engine apart."""

    def __init__(self) -> None:
        self._cases: OrderedDict[str, _Case] = OrderedDict()
        self._in_flight: dict[int, set[str]] = {}
        """Requests that a death was told of, by its number; the last few deaths."""
        self._latest = -1
        """The number of the last death."""
        self._trial: _Trial | None = None

    def lost(self, transcript: Transcript, death: Death) -> None:
        """This chain was being written when the engine died. Told before anybody is asked for `admit`."""
        request = _request(transcript)
        self._latest = max(self._latest, death.number)
        self._in_flight.setdefault(death.number, set()).add(request)
        for number in [number for number in self._in_flight if number <= death.number - 8]:
            del self._in_flight[number]
        case = self._cases.setdefault(request, _Case())
        self._cases.move_to_end(request)
        while len(self._cases) > KEPT:
            self._cases.popitem(last=False)
        if case.last != death.number:
            case.last, case.moved = death.number, False
            case.stuck += 1
            if death.by_itself:
                case.seen.add(death.number)
                case.suspect = True
        if transcript.got and not case.moved:
            case.moved, case.stuck = True, 1
        trial = self._trial
        if trial is not None and (trial.request, trial.life) == (request, death.number):
            case.guilty = case.guilty or (death.by_itself and transcript.got < PROOF)

    async def admit(self, transcript: Transcript, death: Death) -> bool:
        """Whether it may go on now that the engine is up again; waits for its turn among suspects."""
        request = _request(transcript)
        case = self._cases.setdefault(request, _Case())
        others = self._in_flight.get(death.number, set())
        if death.by_itself and others == {request} and case.counted != death.number:
            case.counted = death.number
            case.alone += 1
        case.guilty = case.guilty or case.alone >= ALONE or case.stuck >= STUCK or len(case.seen) >= MOST
        if case.guilty:
            self._blame(case)
        if case.guilty or not case.suspect:
            return not case.guilty
        while (other := self._others_turn(request)) is not None:
            # A transcript tells nobody of its tokens. Of those who wait, who may be a thousand, one looks.
            async with other.looking:
                while self._others_turn(request) is other:  # noqa: ASYNC110
                    await asyncio.sleep(POLL)
        life = self._latest + 1
        if self._trial is None or (self._trial.request, self._trial.life) != (request, life):
            self._trial = _Trial(request, life)
        self._trial.chains.append(transcript)
        return True

    def _blame(self, guilty: _Case) -> None:
        """The deaths that this request has seen are explained: they say nothing against the others any more."""
        for case in self._cases.values():
            if case is not guilty and case.seen & guilty.seen:
                case.seen -= guilty.seen
                case.suspect = bool(case.seen)

    def _others_turn(self, request: str) -> _Trial | None:
        """That of another suspect which goes on, and of which it is not known yet how it ends."""
        trial = self._trial
        if trial is None or trial.request == request or trial.life <= self._latest:
            return None
        if trial.undecided:
            return trial
        if (case := self._cases.get(trial.request)) is not None:
            case.suspect = False
        return None


def _request(transcript: Transcript) -> str:
    """The id of its request; outside a server each chain is one."""
    return transcript.call.request or f"chain {id(transcript)}"
