"""Which request ends the engine: found out when it has died with requests in flight, so that it is refused and the
others are not.

Whoever was in flight when an engine died of itself is under suspicion. Suspects go on one after the other: the next has
its turn when the one before has got further, or is over. So the one with which the engine dies again is known: unless
another that has had its turn is still in flight, and was as far as at the death before, which speaks against that one.
Then both go on, and the turn of each is longer the next time. So is known a request that was alone with the engine at
two such deaths. An engine that was killed from outside says nothing against anybody; but a request that got no further
between several deaths, of whatever kind, is at their root.

What was refused is refused again, for a while, when the same key sends it again: no engine has to die for it twice
more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from ponder.compute.clock import now
from ponder.compute.engine import Sampling
from ponder.compute.text import Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.supervisor import Death

PROOF = 32
"""Tokens by which a chain must have got further for its request to be cleared, the first time."""
ALONE = 2
"""Deaths with nobody else in flight that prove it."""
STUCK = 5
"""Deaths in a row between which a request got no further."""
MOST = 4
"""Deaths of the engine by itself that any request may have seen."""
AT_ONCE = 4
"""Tokens within which an engine dies at once: what it is given is to blame, not what it makes of it."""
ALIKE = 8
"""A request was as far as at the death before where it differs by an eighth of its tokens, or `AT_ONCE`."""
KEPT = 1024
"""Requests that are remembered."""
AGAIN = 3600.0
"""Seconds in which what was refused is refused when it is sent again."""
POLL = 0.02


@dataclass(slots=True)
class _Case:
    """What is known of one request."""

    suspect: bool = False
    guilty: bool = False
    seen: dict[int, int] = field(default_factory=dict[int, int])
    """Deaths by itself with this request in flight, but for those that another is to blame for, and the tokens it had
    got in the life before each."""
    proof: int = PROOF
    """Tokens by which it must get further to be cleared."""
    alone: int = 0
    """Deaths by itself with nobody else in flight, up to the one of number `counted`."""
    counted: int = -1
    stuck: int = 0
    last: int = -1
    """The number of the death that was looked at last."""
    moved: bool = False
    """It had got further by then."""

    def strays(self, number: int) -> float:
        """How far from where it was at the death before it was at this one, in parts of what it had got then; infinite
        where it saw none before."""
        before = [got for death, got in self.seen.items() if death < number]
        if number not in self.seen or not before:
            return float("inf")
        away = abs(self.seen[number] - before[-1])
        return 0.0 if away <= AT_ONCE else away / max(1, before[-1])

    def repeats(self, number: int) -> bool:
        """It was as far as at the death before."""
        return self.strays(number) <= 1 / ALIKE

    def shares(self, other: _Case, number: int) -> bool:
        """Both saw a death before this one."""
        return any(death < number and death in other.seen for death in self.seen)


@dataclass(slots=True)
class _Trial:
    """The suspect that goes on, and its chains, in a life of the engine."""

    request: str
    life: int
    proof: int
    chains: list[Transcript] = field(default_factory=list[Transcript])
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def undecided(self) -> bool:
        """Some of its chains have not got further yet."""
        return any(not chain.over and chain.gained < self.proof for chain in self.chains)


class Quarantine:
    """Keeps the suspects of one engine apart."""

    def __init__(self) -> None:
        self._cases: OrderedDict[str, _Case] = OrderedDict()
        self._in_flight: dict[int, dict[str, None]] = {}
        """Requests that a death was told of, in the order in which they told, by its number; the last few deaths."""
        self._latest = -1
        """The number of the last death."""
        self._judged = -1
        """The number of the last death of which it was considered who is to blame."""
        self._trial: _Trial | None = None
        self._failed: dict[int, str] = {}
        """Whose turn it was at a death by itself, and had not got further yet; of deaths that are not judged."""
        self.refused: OrderedDict[bytes, float] = OrderedDict()
        """What was refused, as a hash, and until when it is; nothing of what it hashes is kept."""

    def knows(self, prompt: Prompt, sampling: Sampling) -> bool:
        """The same key has sent the same before, and was refused. Ask only where anything was."""
        while self.refused and next(iter(self.refused.values())) < now():
            self.refused.popitem(last=False)
        return bool(self.refused) and _hash(prompt, sampling) in self.refused

    def lost(self, transcript: Transcript, death: Death) -> None:
        """This chain was being written when the engine died. Told before anybody is asked for `admit`."""
        request = _request(transcript)
        self._latest = max(self._latest, death.number)
        self._in_flight.setdefault(death.number, {})[request] = None
        for number in [number for number in self._in_flight if number <= death.number - 8]:
            del self._in_flight[number]
        case = self._cases.setdefault(request, _Case())
        self._cases.move_to_end(request)
        while len(self._cases) > KEPT:
            self._cases.popitem(last=False)
        if case.last != death.number:
            case.last, case.moved = death.number, False
            case.stuck += 1
        if death.by_itself and death.number > self._judged:
            case.seen[death.number] = max(case.seen.get(death.number, 0), transcript.got)
            case.suspect = True
        if transcript.got and not case.moved:
            case.moved, case.stuck = True, 1
        trial = self._trial
        of_trial = trial is not None and (trial.request, trial.life) == (request, death.number)
        if trial is not None and of_trial and death.by_itself and transcript.got < trial.proof:
            self._failed[death.number] = request

    async def admit(self, prompt: Prompt, sampling: Sampling, transcript: Transcript, death: Death) -> bool:
        """Whether it may go on now that the engine is up again; waits for its turn among suspects."""
        request = _request(transcript)
        case = self._cases.setdefault(request, _Case())
        if death.by_itself and death.number > self._judged:
            self._judged = death.number
            self._judge(death.number)
        others = self._in_flight.get(death.number, {})
        if death.by_itself and others.keys() == {request} and case.counted != death.number:
            case.counted = death.number
            case.alone += 1
        if case.alone >= ALONE or case.stuck >= STUCK:
            self._convict(case)
        if case.guilty:
            refused = _hash(prompt, sampling)
            self.refused[refused] = now() + AGAIN
            self.refused.move_to_end(refused)
            while len(self.refused) > KEPT:
                self.refused.popitem(last=False)
        elif case.suspect:
            await self._turn(request, case)
            if self.refused and self.knows(prompt, sampling):
                # It was sent several times, and the first has been refused meanwhile.
                return False
            self._goes_on(request, case, transcript)
        return not case.guilty

    async def _turn(self, request: str, case: _Case) -> None:
        """Waits until no other suspect is at its turn."""
        while case.suspect and (other := self._others_turn(request)) is not None:
            # A transcript tells nobody of its tokens. Of those who wait, who may be a thousand, one looks.
            async with other.looking:
                while self._others_turn(request) is other:  # noqa: ASYNC110
                    await asyncio.sleep(POLL)

    def _goes_on(self, request: str, case: _Case, transcript: Transcript) -> None:
        if not case.suspect:
            return
        life = self._latest + 1
        if self._trial is None or (self._trial.request, self._trial.life) != (request, life):
            self._trial = _Trial(request, life, case.proof)
        self._trial.chains.append(transcript)

    def _judge(self, number: int) -> None:
        """Who is to blame for a death by itself, now that all are known who were in flight."""
        cases = {request: self._cases[request] for request in self._in_flight[number] if request in self._cases}
        tried = cases.get(self._failed.pop(number, ""))
        if tried is not None:
            rivals = [case for case in cases.values() if case is not tried and case.shares(tried, number)]
            certain = tried.seen.get(number, 0) <= AT_ONCE or tried.repeats(number)
            if not rivals or (certain and not any(case.repeats(number) for case in rivals)):
                self._convict(tried)
                return
        often = [case for case in cases.values() if len(case.seen) >= MOST]
        if often:
            self._convict(min(often, key=lambda case: (case.strays(number), case is not tried)))
            return
        for case in cases.values():
            if len(case.seen) > 1:
                case.proof = max(2 * case.proof, case.seen[number] + PROOF if case.repeats(number) else 0)

    def _convict(self, guilty: _Case) -> None:
        """The deaths that this request has seen are explained: they say nothing against the others any more."""
        guilty.guilty = True
        for case in self._cases.values():
            if case is not guilty and case.seen.keys() & guilty.seen.keys():
                case.seen = _without(case.seen, guilty.seen)
                case.suspect = bool(case.seen)
                case.proof = PROOF

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


def _without(seen: dict[int, int], deaths: Iterable[int]) -> dict[int, int]:
    explained = set(deaths)
    return {death: got for death, got in seen.items() if death not in explained}


def _request(transcript: Transcript) -> str:
    """The id of its request; outside a server each chain is one."""
    return transcript.call.request or f"chain {id(transcript)}"


def _hash(prompt: Prompt, sampling: Sampling) -> bytes:
    """Equal for what a key sends again, with whatever seed and limits. Hidden texts are not looked at."""
    if (told := prompt.read.get(_hash)) is None:
        told = prompt.read[_hash] = blake2b(repr(prompt).encode(), digest_size=16).digest()
    wishes = replace(
        sampling,
        thinking=0,
        answer=0,
        tight=False,
        total=None,
        seed=None,
        until=None,
        unclosed=False,
        streamed=False,
        tells_thought=False,
        likelihood=False,
    )
    return blake2b(repr(wishes).encode(), key=told, digest_size=16).digest()
