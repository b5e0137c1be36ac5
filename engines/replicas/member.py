"""One replica of a pool: whether it may be used, how full it is, and which calls it works on.

It is asked whether it lives at an interval, and at once where a call of it fails or none of its calls gets a token.
One that went away is asked again, at first soon and then ever later, and proved anew before it is used; then it is
given one call, and more when that has a token. So a replica that fails whatever it is given costs one call at a time.

Seconds of silence are counted in looks, not read off a clock: a server that was itself stopped has not looked.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from ponder.compute.clock import now
from ponder.compute.engine import Delta, HasSlots
from ponder.compute.errors import EngineError, Lost, NotNow
from ponder.compute.replicas import ReplicaFacts, ReplicaState
from ponder.compute.transcript import Transcript
from ponder.engines.replicas.replica import Load, Replica
from ponder.engines.supervisor import Cause, Death

log = logging.getLogger(__name__)

TICK = 0.2
"""Seconds between two looks at the tokens of its calls."""
WROTE = 0.75
"""One that has had a token within this part of its patience is slow to answer, and not away."""
SILENT = 0.4
"""Seconds in which none of its calls has a token, after which it is asked whether it lives."""
PATIENT = 8.0
"""Times the usual patience that it may get at most, where it was taken for dead and was not."""
ALONE = 10.0
"""Seconds without an answer after which a replica is given up though no other answers: it may be the network here."""
FAILURES = 3
"""Calls in a row that fail without a token, though it says that it lives, after which it is not used for a while."""
SOON, LATEST, FLAPPING = 0.25, 5.0, 60.0
"""Seconds until one that went away is asked again: the first time, at most, and at most where it keeps going away."""
SLOW = 2.0
"""One that answers again within so many seconds was slow, and is given more time to answer from then on."""
YOUNG = 30.0
"""Seconds after which one that came back and goes away again is not one that keeps going away."""
TRIAL = 2.0
"""Seconds after which a trial is over where its call has not failed."""
PROVING = 120.0
"""Seconds in which a replica has to show what it is."""
STALE = 3.0
"""What it says of its load is forgotten after so many intervals."""
LOADS = 0.05
"""Seconds between two readings of load, for each replica of the pool: there may be a thousand."""
SMOOTH = 0.1
"""The part of a new reading of its pace in the running mean."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How replicas are watched."""

    places: int = 256
    """Calls that a replica works on at a time, where it does not say."""
    interval: float = 1.0
    """Seconds between two questions whether it lives."""
    patience: float = 1.0
    """Seconds that it may take to answer one."""
    stall: float = 60.0
    """Seconds without a token, though it says that it lives, after which it has hung."""


@dataclass(eq=False, slots=True)
class Fall:
    """A replica went away: how, and which of the chains that it was writing have heard of it."""

    death: Death
    missing: set[Transcript] = field(default_factory=set[Transcript])
    """Those that have not."""
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def told(self, chain: Transcript) -> None:
        """This one has, or is over."""
        self.missing.discard(chain)
        if not self.missing:
            self.heard.set()


class Call:
    """A call that a replica works on."""

    __slots__ = ("_before", "_scope", "broken", "member", "transcript")

    def __init__(self, member: Member, transcript: Transcript) -> None:
        self.member, self.transcript = member, transcript
        self.broken = False
        """Its replica was given up."""
        self._before = transcript.hidden + transcript.visible
        self._scope: asyncio.Timeout | None = None

    @property
    def tokens(self) -> int:
        """Those that came of it."""
        return self.transcript.hidden + self.transcript.visible - self._before

    def break_off(self) -> None:
        """Its replica was given up: whoever waits for its next piece hears it at once."""
        self.broken = True
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def next(self, stream: AsyncGenerator[Delta]) -> Delta:
        """The next piece. Raises `Lost` where its replica was given up meanwhile, `StopAsyncIteration` at the end."""
        if not self.broken:
            try:
                async with asyncio.timeout(None) as self._scope:
                    return await anext(stream)
            except TimeoutError:
                if not self.broken:
                    raise
            finally:
                self._scope = None
        raise Lost(f"{self.member.url} has stopped answering")


class Member:
    """One replica of a pool, which belongs to one event loop."""

    def __init__(
        self,
        url: str,
        connect: Callable[[str], Awaitable[Replica]],
        options: PoolOptions,
        *,
        prove: Callable[[Replica], None],
        fell: Callable[[Cause], Death],
        changed: Callable[[], None],
        peers: Callable[[], list[Member]],
    ) -> None:
        """`connect` reaches it, and raises `EngineError` where it is not what it should be; `prove` raises that where
        it is another model than the others have. `fell` numbers a death; `changed` is told when it may be used, or no
        more; `peers` are all members."""
        self.url = url
        self._connect, self._options, self._prove = connect, options, prove
        self._fell, self._changed, self._peers = fell, changed, peers
        self.replica: Replica | None = None
        self.state: ReplicaState = "joining"
        self.why = "it was not asked yet"
        self.refused = False
        """It answers, and cannot be used as it is."""
        self.over = False
        """It was taken out and has ended its calls: it is closed, and cannot be put in again."""
        self.calls: dict[Call, None] = {}
        """Those that it works on, in the order in which it was given them."""
        self.given = self.spilled = self.lost = self.falls = 0
        self.answered = float("-inf")
        """When it last said that it lives."""
        self.pace = 0.0
        """Tokens a second of one of its calls, running mean; 0 before any came."""
        self._patience = options.patience
        self._trial: Call | None = None
        self._failures = self._broke = 0
        """Calls in a row that failed without a token; of those, since it was asked last."""
        self._failing: set[Transcript] = set()
        """Chains that failed, and of which it is not known yet whether it went away."""
        self._last: Fall | None = None
        self._poked = asyncio.Event()
        self._seen = asyncio.Event()
        """Set, and made anew, when it has been asked whether it lives."""
        self._ended = 0
        """Tokens of calls that are over."""
        self._made = 0
        self._silent = 0.0
        self._measured = now()
        self._unanswered = 0
        self._quiet_since = 0.0
        self._since = 0.0
        """When it came up."""
        self._asked = float("-inf")
        self._pause = 0.0
        self._flaps = 0
        self._away_since = 0.0
        self._anew = True
        """It may be another process than the one that was proved."""
        self._hung = self._stopped = False
        """How it went away."""
        self._load: Load | None = None
        self._loaded = self._load_asked = float("-inf")
        self._own = 0
        """Calls of ours when it said what it has to do."""
        self._not_before = float("-inf")
        """It takes no call until then, by its own word."""
        self._learned: int | None = None
        """Calls that it was seen to work on at most while others waited."""

    # -- how it stands ------------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """It may be given a call now."""
        if self.replica is None or self._failing or now() < self._not_before:
            return False
        return self.state == "up" or (self.state == "trial" and self._trial is None)

    @property
    def counts(self) -> bool:
        """It is in use, or about to be."""
        return self.state in ("up", "trial")

    @property
    def load(self) -> Load | None:
        """What it says it has to do, where it has said so lately."""
        fresh = now() - self._loaded <= STALE * self._every
        return self._load if fresh else None

    @property
    def places(self) -> int:
        """Calls that it works on at a time, as far as is known."""
        slots = self.replica.slots if isinstance(self.replica, HasSlots) else None
        most = self._options.places if slots is None else slots.places
        return most if self._learned is None else max(1, min(most, self._learned))

    @property
    def foreign(self) -> int:
        """Calls of others that it has, as far as is known."""
        load = self.load
        return 0 if load is None else max(0, load.running + load.waiting - self._own)

    @property
    def busy(self) -> float:
        """The part of its places that is taken."""
        return (self.foreign + len(self.calls)) / self.places

    @property
    def full(self) -> bool:
        """What it is given now would wait there."""
        load = self.load
        waits = load is not None and load.waiting > 0 and len(self.calls) >= self._own
        return waits or self.foreign + len(self.calls) >= self.places

    @property
    def weight(self) -> float:
        """What it can carry for this server, in places of the quickest replica."""
        best = max((one.pace for one in self._peers()), default=0.0)
        slower = best / self.pace if self.pace > 0 and best > 0 else 1.0
        # In steps, so that the beginnings that are its own do not change with every reading.
        steps = min(3, int(math.log2(max(1.0, slower))))
        return max(1.0, self.places - self.foreign) / 2**steps

    @property
    def _every(self) -> float:
        """Seconds between two readings of its load."""
        return max(self._options.interval, LOADS * len(self._peers()))

    def facts(self, share: float) -> ReplicaFacts:
        """For who looks at the server."""
        load = self.load
        return ReplicaFacts(
            url=self.url,
            state=self.state,
            why=self.why,
            in_flight=len(self.calls),
            places=self.places,
            weight=share,
            running=None if load is None else load.running,
            waiting=None if load is None else load.waiting,
            cache=None if load is None else load.cache,
            calls=self.given,
            spilled=self.spilled,
            lost=self.lost,
            falls=self.falls,
        )

    # -- its calls ----------------------------------------------------------------------------------------------------

    def begin(self, transcript: Transcript, *, spilled: bool) -> Call:
        """It is given a call; `end` follows."""
        call = Call(self, transcript)
        if not self.calls:
            self._silent, self._measured = 0.0, now()
        self.calls[call] = None
        self.given += 1
        self.spilled += spilled
        if self.state == "trial":
            self._trial = call
        return call

    def end(self, call: Call) -> None:
        """A call is over, however it ended."""
        self.calls.pop(call, None)
        self._ended += call.tokens
        if call.tokens:
            self._wrote()
        if self._trial is call:
            self._trial = None
            self._changed()
        if self.state == "draining" and not self.calls:
            self.poke()

    def failed(self, transcript: Transcript, *, taken: bool = True) -> None:
        """A call of it broke off, or it said that it cannot: it is asked whether it lives, and is given nothing until
        then. `taken`: it had taken the call."""
        self._broke += taken
        if self.counts or self.state == "draining":
            if self._last is None or transcript not in self._last.missing:
                self._failing.add(transcript)
            self.poke()

    def refuses(self, seconds: float) -> None:
        """It lives, and takes no call for so long, by its own word."""
        self._not_before = now() + min(seconds, LATEST)

    def poke(self) -> None:
        """It is looked at now."""
        self._poked.set()

    async def verdict(self, transcript: Transcript) -> Fall | None:
        """How it went away, where a call had failed; None where it lives."""
        with suppress(TimeoutError):
            async with asyncio.timeout(4 * self._patience + ALONE):
                while transcript in self._failing:
                    await self._seen.wait()
        self._failing.discard(transcript)
        fall = self._last
        return fall if fall is not None and transcript in fall.missing else None

    def _wrote(self) -> None:
        self._failures = 0
        if self.state == "trial":
            self._to("up", "")

    # -- watching -----------------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Watches it until it is taken out and has nothing left to do; then it is closed."""
        try:
            while self.state != "draining" or self.calls:
                if self.replica is None or self.state in ("joining", "away"):
                    await self._rest(self._pause * random.uniform(0.75, 1.25))  # noqa: S311
                    if self.state != "draining":
                        await self._try()
                else:
                    await self._rest(TICK)
                    await self._look()
        finally:
            self.over = True
            if self.replica is not None:
                await self.replica.close()

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._poked.wait()

    def leave(self) -> None:
        """It is taken out: what it has begun goes on, and it is given nothing more."""
        self._to("draining", "it was taken out")
        self.poke()

    def stay(self) -> None:
        """It was taken out and is put in again before it had ended."""
        self._pause = 0.0
        self._to("joining" if self.replica is None or self._anew else "trial", "")
        self._since = now()
        self.poke()

    async def _try(self) -> None:
        """Whether it may be used now."""
        self._poked.clear()
        try:
            async with asyncio.timeout(PROVING):
                replica = self.replica
                if replica is None or self._anew:
                    replica = await self._connect(self.url)
                try:
                    self._prove(replica)
                    await replica.health()
                    if self._hung:
                        await replica.check()
                    if self.state == "draining":
                        raise Lost("it was taken out")
                except BaseException:
                    if replica is not self.replica:
                        await replica.close()
                    raise
        except TimeoutError:
            self._not_yet(f"it does not answer within {PROVING:.0f} s", refused=False)
        except (EngineError, NotNow) as error:
            self._not_yet(error.message, refused=not isinstance(error, Lost | NotNow))
        except Exception as error:  # noqa: BLE001 (what a connection raises; whatever it is, it is tried again)
            self._not_yet(f"it cannot be reached: {type(error).__name__}", refused=False)
        else:
            await self._came(replica)

    def _not_yet(self, why: str, *, refused: bool) -> None:
        if why != self.why:
            log.warning("replica %s is not used: %s", self.url, why)
        self.why, self.refused = why, refused
        self._pause = min(max(LATEST, min(FLAPPING, SOON * 2**self._flaps)), self._pause * 2 or SOON)
        self._changed()

    async def _came(self, replica: Replica) -> None:
        old, self.replica = self.replica, replica
        if old is not None and old is not replica:
            await old.close()
        returned = self.state == "away"
        if returned and self._stopped and now() - self._away_since < SLOW:
            self._patience = min(self._patience * 2, PATIENT * self._options.patience)
        self._anew = self._hung = self._stopped = self.refused = False
        self._pause, self._failures, self._unanswered, self._silent = 0.0, 0, 0, 0.0
        self._since = self.answered = self._asked = now()
        log.info("replica %s is %s", self.url, "back" if returned else "used from now on")
        self._to("trial" if returned else "up", "")

    async def _look(self) -> None:
        """Asks it whether it lives, where it is time to."""
        poked = self._poked.is_set()
        self._poked.clear()
        if self._not_before > float("-inf") and now() >= self._not_before:
            self._not_before = float("-inf")
            self._changed()
        if self.state == "trial" and now() - self._since > TRIAL:
            self._to("up", "")
        quiet = self._silent >= SILENT
        soon = SILENT if quiet else self._options.interval * random.uniform(0.8, 1.2)  # noqa: S311
        if not poked and now() - self._asked < soon:
            return
        if quiet:
            # What they answer tells whether it is this one that does not.
            for one in self._peers():
                if one is not self and now() - one.answered > SILENT:
                    one.poke()
        for last in (False, True):
            if await self._ask(last=last):
                break
            await asyncio.sleep(TICK / 4)
        self._sentenced()

    def measure(self) -> None:
        """What its calls have had since they were looked at last; every `TICK`."""
        at = now()
        seconds, self._measured = min(at - self._measured, 2 * TICK), at
        made = self._ended + sum(call.tokens for call in self.calls)
        writing = sum(1 for call in self.calls if call.tokens)
        if made > self._made and writing and seconds > 0:
            pace = (made - self._made) / seconds / writing
            self.pace += (pace - self.pace) * (SMOOTH if self.pace else 1.0)
        if made != self._made or not self.calls:
            self._silent = 0.0
            if made != self._made:
                self._wrote()
        else:
            self._silent += seconds
        self._made = made

    async def _ask(self, *, last: bool) -> bool:
        """Whether it lives, and what it has to do. False: once more, to be sure."""
        replica, began = self.replica, now()
        if replica is None:
            return True
        self._asked = began
        try:
            async with asyncio.timeout(self._patience):
                await replica.health()
            if began - self._load_asked >= self._every:
                self._load_asked = began
                async with asyncio.timeout(self._patience):
                    with suppress(EngineError):  # Whether it lives is not told by that.
                        self._read(await replica.load())
        except TimeoutError:
            if now() - began > self._patience + 1.0:
                return True  # It was this server that did not look.
            await self._no_answer()
            return True
        except Lost as error:
            if last:
                await self.fall("killed", error.message)
            return False
        except EngineError as error:
            if last:
                await self.fall("crashed", error.message)
            return False
        except Exception as error:  # noqa: BLE001 (what a connection raises)
            if last:
                await self.fall("killed", f"it cannot be reached: {type(error).__name__}")
            return False
        self.answered, self._unanswered = now(), 0
        if self._silent >= self._options.stall:
            why = f"none of its calls had a token for {self._silent:.0f} s, though it says that it lives"
            await self.fall("stalled", why)
        return True

    def _read(self, load: Load) -> None:
        """It has said what it has to do."""
        before, self._load, self._own, self._loaded = self._load, load, len(self.calls), now()
        if load.waiting > 0 and load.running > 0 and before is not None and before.waiting > 0:
            self._learned = load.running
        elif self._learned is not None and load.waiting == 0 and load.running >= self._learned:
            self._learned += max(1, self._learned // 4)
        self._changed()

    async def _no_answer(self) -> None:
        """It did not say in time whether it lives."""
        if self.calls and self._silent < WROTE * self._patience:
            return  # It is slow to answer, and writes.
        if not self._unanswered:
            self._quiet_since = now()
        self._unanswered += 1
        seconds = self._patience + 2 * self._options.interval + SILENT
        others = any(one is not self and one.counts and now() - one.answered < seconds for one in self._peers())
        if (others and (self.calls or self._unanswered > 1)) or now() - self._quiet_since >= ALONE:
            await self.fall("stopped", f"it does not say within {self._patience:.0f} s whether it lives")

    async def fall(self, cause: Cause, why: str) -> None:
        """It went away: its calls go on elsewhere."""
        if self.state in ("joining", "away"):
            return
        log.error("replica %s went away: %s", self.url, why)
        self.falls += 1
        young = now() - self._since < YOUNG
        self._flaps = self._flaps + 1 if young else 0
        self._pause = 0.0 if self._flaps < 2 else min(FLAPPING, SOON * 2**self._flaps)
        self._away_since, self._anew = now(), True
        self._hung, self._stopped = cause == "stalled", cause == "stopped"
        self._last = Fall(self._fell(cause), {call.transcript for call in self.calls} | self._failing)
        self._load = None
        if self.state != "draining":
            self._to("away", why)
        for call in self.calls:
            call.broken = True
        # Who ends a call in good order would wait for an answer.
        if self.replica is not None:
            await self.replica.close()
        for call in list(self.calls):
            call.break_off()

    def _sentenced(self) -> None:
        """It was asked whether it lives: those whose calls failed hear of it."""
        if self._failing and self.counts and self.replica is not None and not self._unanswered:
            self._failures += self._broke
            if self._failures >= FAILURES or (self.state == "trial" and self._broke):
                self._away_since, self._anew = now(), False
                self._flaps += 1
                self._pause = min(FLAPPING, SOON * 2**self._flaps)
                self._to("away", "it says that it lives, and its calls fail")
        self._broke = 0
        self._failing.clear()
        seen, self._seen = self._seen, asyncio.Event()
        seen.set()
        self._changed()

    def _to(self, state: ReplicaState, why: str) -> None:
        if state == "away" and self._trial is not None:
            self._trial = None
        self.state, self.why = state, why
        self._changed()
