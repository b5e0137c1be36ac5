"""Many replicas of one model as one engine: which of them writes a chain, and what happens when it goes away meanwhile.

All chains of a request go to one replica, which has read their prompt then, and so do the next turns of a conversation
(`routing`). Where that replica is full, or away, the next one has them. A chain whose replica went away goes on on
another from the tokens that came (`ponder.compute.chains`). Which requests end replicas is found out as for an engine
that is started here (`ponder.engines.quarantine`), except that nobody tells here whether a process was killed: only a
server that says that its engine died, or makes no token though it says that it lives, speaks against what it was
writing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from ponder.compute.clock import now
from ponder.compute.engine import Checked, Delta, ModelCard, ReadsWishes, Reopens, Sampling, State
from ponder.compute.errors import EngineError, Lost, NotNow, PonderError, Unavailable
from ponder.compute.groups import TaskGroup, group_beside
from ponder.compute.replicas import ReplicaFacts
from ponder.compute.slots import Slots
from ponder.compute.text import Candidate, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.quarantine import Quarantine
from ponder.engines.replicas.member import TICK, Member, PoolOptions
from ponder.engines.replicas.membership import Membership
from ponder.engines.replicas.replica import NotTaken, Replica
from ponder.engines.replicas.routing import BOUND, IDLE, beginning, height
from ponder.engines.supervised import TRIES, refused
from ponder.engines.supervisor import Cause, Death

log = logging.getLogger(__name__)

HOMES = 1 << 14
"""Requests of which it is remembered where their chains are."""
HEARD = 1.0
"""Seconds in which all chains of a replica that died hear of it."""
LONGEST_WAIT = 60.0
"""Seconds after which callers are told to come again, at most."""
FIRST = 600.0
"""Seconds in which the first replica has to answer when the server starts."""


@dataclass(slots=True)
class _Past:
    """What replicas have done to a chain."""

    member: Member
    """The one that was writing it when that broke off."""
    message: str
    failed: set[str] = field(default_factory=set[str])
    """Those that have failed it, though they live: they have it again where no other can."""
    fell: set[str] = field(default_factory=set[str])
    """Those that went away over it: they have it again before those, where no other can."""
    later: float | None = None
    """Seconds after which that one may take it; None where it had taken it."""


class ReplicaPool:
    """Fulfils `ponder.compute.engine.Engine`, `HasSlots`, `ReadsWishes`, `Reopens` and `Recovers`, and is the
    `Supervision` of that. It belongs to one event loop."""

    def __init__(
        self,
        name: str,
        connect: Callable[[str], Awaitable[Replica]],
        membership: Membership,
        options: PoolOptions | None = None,
    ) -> None:
        """`connect` reaches the replica at an address and finds out whether it can be used: raises `EngineError` in
        plain words where it cannot, `Lost` where nobody answers there. Used within `serving`."""
        self.name = name
        self._connect, self._membership, self._options = connect, membership, options or PoolOptions()
        self.members: dict[str, Member] = {}
        """Those that are used or are to be, by address."""
        self._leaving: dict[str, Member] = {}
        """Those that were taken out, and have something to end."""
        self.quarantine = Quarantine()
        self._card: ModelCard | None = None
        self._face: Replica | None = None
        """What is asked of the model that takes no server: its tokenizer, its limits."""
        self._slots: Slots | None = None
        self._homes: OrderedDict[str, Member] = OrderedDict()
        self._pasts: WeakKeyDictionary[Transcript, _Past] = WeakKeyDictionary()
        self._deaths = 0
        self.restarts = 0
        """How often a replica came back when none was there."""
        self._away_since: float | None = now()
        self._event = asyncio.Event()
        self._reread = asyncio.Event()
        self._group = TaskGroup()
        self._keeping: dict[Member, asyncio.Task[None]] = {}

    # -- the contract of an engine ------------------------------------------------------------------------------------

    @property
    def card(self) -> ModelCard:
        """Facts about the model, as the first replica has told them."""
        if self._card is None:
            raise EngineError(f"model {self.name}: no replica has answered yet")
        return self._card

    @property
    def slots(self) -> Slots | None:
        """The places of all replicas that are in use."""
        return self._slots

    @property
    def _model(self) -> Replica:
        if self._face is None:
            raise EngineError(f"model {self.name}: no replica has answered yet")
        return self._face

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        """See the contract. It takes no replica."""
        return self._model.length(prompt, thinking=thinking)

    def asks_to_think(self, prompt: Prompt) -> bool | None:
        """See `ponder.compute.engine.ReadsWishes`."""
        return self._model.asks_to_think(prompt) if isinstance(self._model, ReadsWishes) else None

    def reopened(self, chain: Candidate, words: str) -> Candidate | None:
        """See `ponder.compute.engine.Reopens`."""
        return self._model.reopened(chain, words) if isinstance(self._model, Reopens) else None

    async def accept(self, sampling: Sampling) -> None:
        """See the contract."""
        await self._model.accept(sampling)

    def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        """One chain; see the contract. It waits while no replica can be used. Raises `RequestError` for what replicas
        have died over."""
        if self.quarantine.refused and self.quarantine.knows(prompt, sampling):
            raise refused()
        return self._written(prompt, sampling, transcript)

    async def _written(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        while (chosen := self._choose(prompt, sampling, transcript)) is None:
            transcript.waited = True
            await self._event.wait()
        member, spilled = chosen
        assert member.replica is not None  # noqa: S101 (it is usable)
        call = member.begin(transcript, spilled=spilled)
        try:
            async with aclosing(member.replica.generate(prompt, sampling, transcript)) as stream:
                while True:
                    try:
                        delta = await call.next(stream)
                    except StopAsyncIteration:
                        break
                    yield delta
            if transcript.ending in ("aborted", "lost"):
                raise Lost(f"replica {member.url}: the end of a chain was not seen")
        except (EngineError, NotNow) as error:
            self._failed(member, transcript, error)
            raise Lost(error.message) from None
        except Exception as error:
            if isinstance(error, PonderError) or not call.broken:
                raise
            # Its connections were closed while it was about to use one.
            lost = Lost(f"replica {member.url} was given up")
            self._failed(member, transcript, lost)
            raise lost from None
        finally:
            member.end(call)

    def _failed(self, member: Member, transcript: Transcript, error: EngineError | NotNow) -> None:
        past = self._pasts.setdefault(transcript, _Past(member, ""))
        past.member, past.message = member, error.message
        past.later = error.retry_after if isinstance(error, NotTaken | NotNow) else None
        member.failed(transcript, taken=past.later is None)

    async def recovered(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> None:
        """See `ponder.compute.engine.Recovers`: whether the chain may go on on another replica."""
        past = self._pasts.get(transcript)
        if past is None:
            raise Lost(f"model {self.name}: a chain was lost though its replica goes on")
        fall = await past.member.verdict(transcript)
        past.member.lost += 1
        if fall is None and past.later is not None:
            past.member.refuses(past.later)
            return
        broken = transcript.broke_off()
        (past.failed if fall is None else past.fell).add(past.member.url)
        if fall is None:
            if broken >= TRIES:
                raise EngineError(past.message)
            return
        self.quarantine.lost(transcript, fall.death)
        fall.told(transcript)
        if fall.death.by_itself:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARD):
                    await fall.heard.wait()
        if not await self.quarantine.admit(prompt, sampling, transcript, fall.death):
            raise refused()

    async def check(self) -> Checked | None:
        """See the contract. It is known without asking."""
        if self.state != "up":
            raise Unavailable(
                f"no replica of model {self.name} can be used", code="engine_unavailable", retry_after=self.wait
            )
        return None

    async def close(self) -> None:
        """Idempotent. Replicas are closed at the end of `serving`."""

    # -- how it stands ------------------------------------------------------------------------------------------------

    @property
    def supervision(self) -> ReplicaPool:
        """See `ponder.compute.engine.Recovers`."""
        return self

    @property
    def state(self) -> State:
        """Up where a replica can be used; where none can, one may come back at any time."""
        if self._card is None:
            return "starting"
        return "up" if self._away_since is None else "restarting"

    @property
    def checked(self) -> Checked:
        """Replicas are asked whether they live, which takes no tokens."""
        return Checked(0)

    @property
    def wait(self) -> float:
        """Seconds until a replica is likely to be back: as long again as all have been away."""
        return 0.0 if self._away_since is None else min(LONGEST_WAIT, max(1.0, now() - self._away_since))

    async def ready(self) -> None:
        """Returns when a replica can be used."""
        while self._away_since is not None:
            await self._event.wait()

    @property
    def replicas(self) -> Sequence[ReplicaFacts]:
        """See `ponder.compute.replicas.HasReplicas`."""
        weights = {member.url: member.weight for member in self.members.values() if member.counts}
        whole = sum(weights.values()) or 1.0
        members = [*self.members.values(), *self._leaving.values()]
        return [member.facts(weights.get(member.url, 0.0) / whole) for member in members]

    # -- which replica ------------------------------------------------------------------------------------------------

    def _choose(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> tuple[Member, bool] | None:
        """The replica for a call, and whether another should have had it; None where none can be used now."""
        past = self._pasts.get(transcript)
        able = [member for member in self.members.values() if member.usable]
        if past is not None:
            for shunned in (past.failed, past.fell):
                able = [member for member in able if member.url not in shunned] or able
        if not able:
            return None
        request = transcript.call.request or f"chain {id(transcript)}"
        home = self._homes.get(request)
        if home is not None and home in able and not home.full:
            self._homes.move_to_end(request)
            return home, False
        key = beginning(prompt, sampling.tenant)
        heights = {member: height(key, member.url, member.weight) for member in self.members.values() if member.counts}
        stays = home is not None and self.members.get(home.url) is home and home.counts
        free = [member for member in able if not member.full]
        if not stays:
            free = self._within_bounds(free) or free
        if free:
            chosen = max(free, key=lambda member: heights.get(member, 0.0))
        else:
            chosen = min(able, key=lambda member: member.busy)
        if not stays:
            self._homes[request] = chosen
            self._homes.move_to_end(request)
            while len(self._homes) > HOMES:
                self._homes.popitem(last=False)
        return chosen, chosen is not max(heights, key=lambda member: heights[member], default=chosen)

    def _within_bounds(self, members: Collection[Member]) -> list[Member]:
        """Those that have no more than their share of the work, or little."""
        calls = sum(len(member.calls) for member in members) + 1
        weights = sum(member.weight for member in members)
        return [
            member
            for member in members
            if member.busy < IDLE or len(member.calls) < BOUND * calls * member.weight / weights
        ]

    # -- who belongs to it --------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Watches its replicas within the block, which begins when the first can be used. Raises `EngineError` where
        those there are cannot be."""
        async with group_beside() as group:
            self._group = group
            beside = [group.create_task(self._follow()), group.create_task(self._measure())]
            try:
                await self._first()
                yield
            finally:
                for task in [*beside, *self._keeping.values()]:
                    task.cancel()

    async def _measure(self) -> None:
        """Looks at the tokens of all replicas, again and again."""
        while True:
            await asyncio.sleep(TICK)
            for member in [*self.members.values(), *self._leaving.values()]:
                member.measure()

    @property
    def membership(self) -> Membership:
        """What names its replicas now."""
        return self._membership

    def follow(self, membership: Membership) -> None:
        """From now on its replicas are those that this one names."""
        self._membership = membership
        self._reread.set()

    async def _follow(self) -> None:
        """Reads who belongs to it, again and again."""
        while True:
            self._reread.clear()
            membership = self._membership
            urls = await membership.read()
            if urls is not None and membership is self._membership:
                self._take(urls)
            with suppress(TimeoutError):
                async with asyncio.timeout(membership.interval):
                    await self._reread.wait()

    def _take(self, urls: Sequence[str]) -> None:
        """These are its replicas."""
        for url in [url for url in self.members if url not in urls]:
            member = self._leaving[url] = self.members.pop(url)
            log.info("replica %s is taken out; %d calls go on", url, len(member.calls))
            member.leave()
        for url in dict.fromkeys(urls):
            if url in self.members:
                continue
            if (back := self._leaving.pop(url, None)) is not None and not back.over:
                self.members[url] = back
                back.stay()
                continue
            member = self.members[url] = Member(
                url,
                self._connect,
                self._options,
                prove=self._prove,
                fell=self._fell,
                changed=self._changed,
                peers=lambda: list(self.members.values()),
            )
            task = self._keeping[member] = self._group.create_task(member.keep())
            task.add_done_callback(lambda _, member=member: self._gone(member))
        self._changed()

    def _gone(self, member: Member) -> None:
        self._keeping.pop(member, None)
        if self._leaving.get(member.url) is member:
            del self._leaving[member.url]

    async def _first(self) -> None:
        began = now()
        while self._away_since is not None:
            members = list(self.members.values())
            faults = "; ".join(f"{member.url}: {member.why}" for member in members)
            if members and all(member.refused for member in members):
                raise EngineError(f"model {self.name}: none of its replicas can be used: {faults}")
            if (left := began + FIRST - now()) <= 0:
                raise EngineError(f"model {self.name}: no replica answers: {faults or 'there is none'}")
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._event.wait()

    def _prove(self, one: Replica) -> None:
        """Takes the first for what the model is. Raises `EngineError` where another is another."""
        if self._card is None:
            self._card = one.card
        card = self._card
        if one.card.context < card.context:
            raise EngineError(
                f"its context has {one.card.context} tokens, and that of the model's other replicas {card.context}: "
                f"start it with --max-model-len {card.context}"
            )
        if (other := replace(one.card, context=card.context, created=card.created)) != card:
            names = [name for name in ModelCard.__dataclass_fields__ if getattr(other, name) != getattr(card, name)]
            told = ", ".join(f"{name} {getattr(other, name)} for {getattr(card, name)}" for name in names)
            raise EngineError(f"it is another model than the other replicas have ({told})")
        self._face = one

    def _fell(self, cause: Cause) -> Death:
        death = Death(self._deaths, cause)
        self._deaths += 1
        return death

    def _changed(self) -> None:
        """A replica may be used that could not, or the other way round."""
        in_use = [member for member in self.members.values() if member.counts]
        if in_use and self._away_since is not None:
            self.restarts += self._slots is not None
            self._away_since = None
        elif not in_use and self._away_since is None:
            self._away_since = now()
            log.error("model %s: no replica can be used", self.name)
        if in_use and self._card is not None:
            places = sum(member.places for member in in_use)
            if self._slots is None:
                self._slots = Slots(places, self._card.typical_chain[0])
            elif places != self._slots.places:
                self._slots.resize(places)
        event, self._event = self._event, asyncio.Event()
        event.set()
