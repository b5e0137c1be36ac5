"""Holds API keys to their limits: what a request may still spend is reserved before it is spent.

A server leases a part of each limit from the database (`ponder.metering.leases`) and reserves from that in memory, so
most requests wait for nothing. A request counts in the windows that it came in, whenever it ends, as its row does.

What is reserved is what the next calls may make, not the whole budget: a call draws some thousand tokens, and more when
it has made them (`ponder.compute.chains`). A request with a seed reserves all it may spend before it begins, so that
its answer does not depend on what others do meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from ponder.compute.account import Intent
from ponder.compute.clock import now
from ponder.compute.errors import NotNow, TooBusy, Unavailable, UsedUp
from ponder.compute.price import NANO, TOKENS
from ponder.metering.leases import Ask, Kind, Lease, Window, amount, window

STEP = 4096
"""Tokens that a call draws at a time where the limit has not plenty. A request is begun where these are left for each
of its answers, or its whole budget where that is less."""
LEAST = 1024
"""Tokens that are worth going on for, where the call could use more."""
PLENTY = 8
"""A call draws all it may make where the limit has so many times that."""
IDLE = 1.0
"""Seconds after which a server gives back what it has leased and not needed."""
RECHECK = 0.25
"""Seconds in which a limit that had nothing left is not asked about again: whoever is refused may come back at once."""
WINDOWS = 10.0
"""Seconds between two looks for windows that are over, where nothing runs."""
AGAIN = 5.0
"""Seconds after which room that running requests have reserved may be free."""


class Leases(Protocol):
    """Asks the database, in the order of the calls."""

    def lease(self, ask: Ask, heard: Callable[[Lease | None, int], None]) -> None:
        """`heard` is told of the lease, None where the database does not answer, and of the epoch of this process that
        it holds for."""
        ...

    def give_back(self, window: Window, amount: int, epoch: int, lost: Callable[[], None]) -> None:
        """So much of what was leased under an epoch is not needed. `lost` is called where nobody knows whether the
        database has heard of it."""
        ...


Told = Callable[[str, Kind, int, int], None]
"""Told of each change: whose limit, which, how much it is, how much of it is left."""


@dataclass(eq=False, slots=True)
class Pool:
    """What this server has of one window of a limit, in tokens, nano-USD or requests."""

    window: Window
    limit: int
    leased: int = 0
    spent: int = 0
    """By requests of this server that are settled, durably or not yet."""
    held: int = 0
    """Reserved by those that run."""
    others: int = 0
    """Leased by other servers, or spent by nobody's lease, as last seen; of it `others_spent` is spent."""
    others_spent: int = 0
    epoch: int = 0
    """Of the process, for which the lease holds; 0: there is none yet."""
    dead: bool = False
    """Another process has taken this one for dead and given its leases to others."""
    full: bool = False
    """The last lease was less than was asked for."""
    shared: bool = False
    """Other servers have asked for the limit, as last seen."""
    stale: bool = True
    """What was spent without leases is to be looked up."""
    unsure: bool = False
    """Nobody knows whether the database has heard of the last lease, or of what was given back."""
    wanted: int = 0
    """By all that wait for a lease."""
    asking: asyncio.Future[bool] | None = None
    used: float = 0.0
    """`now()` when anything was asked for last."""

    @property
    def left(self) -> int:
        """What may be reserved at once; below 0 where a limit was lowered."""
        return 0 if self.dead else min(self.leased, self.limit - self.others) - self.spent - self.held

    @property
    def remaining(self) -> int:
        """What is left of the limit as far as is known here."""
        return max(0, self.limit - self.others - self.spent - self.held)

    @property
    def unspent(self) -> int:
        """What would be left if nothing were reserved."""
        return max(0, self.limit - self.others_spent - self.spent)


class _Part:
    """What one request has reserved of one pool."""

    def __init__(self, pool: Pool, base: int, rate: tuple[int, int]) -> None:
        """Tokens cost `rate[0]` for `rate[1]`; `base` comes on top."""
        self.pool, self.base, self.held = pool, base, 0
        self._rate = rate

    def units(self, tokens: int) -> int:
        """What so many tokens take, in units of the pool, the base included."""
        return self.base - -tokens * self._rate[0] // self._rate[1]

    def tokens(self, total: int, *, leased: bool = True) -> int:
        """How many tokens may be reserved beside `total` that are: of what is leased, or of what may be."""
        if not self._rate[0]:
            return sys.maxsize
        room = (self.pool.left if leased else self.pool.remaining) + self.held - self.base
        return max(0, room * self._rate[1] // self._rate[0] - total)

    def set(self, tokens: int) -> None:
        """So many tokens are reserved now."""
        units = self.units(tokens)
        self.pool.held += units - self.held
        self.held = units

    def end(self, units: int) -> None:
        """Nothing is reserved any more, and so much was spent."""
        self.pool.held -= self.held
        self.pool.spent += units
        self.held = 0


class Holding:
    """What one request has reserved. A `Drawing`, for requests that draw as they go."""

    def __init__(self, limits: Limits, parts: Sequence[_Part], first: int, verifier: int, *, told: bool) -> None:
        """`first`: tokens reserved before it begins. `verifier`: nano-USD for a million tokens a reward model reads."""
        self._limits, self._parts, self._told = limits, parts, told
        self._ahead = first
        """Of what is reserved, so much is for calls that have not begun."""
        self._total = first
        self._read, self._to_read, self._verifier = 0, 0, verifier
        self._bases = [part.base for part in parts]
        self._ended = self._revoked = False
        self._stop: Callable[[], None] | None = None

    @property
    def windows(self) -> tuple[Window, ...]:
        """Where it counts."""
        return tuple(part.pool.window for part in self._parts)

    def of(self, epoch: int) -> bool:
        """It has leases of this epoch of the process."""
        return all(part.pool.epoch == epoch and not part.pool.dead for part in self._parts)

    def headers(self) -> Mapping[str, str]:
        """How its limits are now, in the headers that OpenAI has for that."""
        return _headers([part.pool for part in self._parts], self._limits.now()) if self._told else {}

    def when_revoked(self, stop: Callable[[], None]) -> None:
        """`stop` is called, once, when others are about to have its place."""
        self._stop = stop
        if self._revoked:
            stop()

    def revoke(self) -> None:
        """Others are about to have its place."""
        if not self._revoked:
            self._revoked = True
            if self._stop is not None:
                self._stop()

    # -- a `Drawing` --------------------------------------------------------------------------------------------------

    async def draw(self, most: int) -> int:
        room = min(part.tokens(self._total, leased=False) for part in self._parts)
        want = most if most <= STEP or room >= PLENTY * most else STEP
        if self._ahead < want:
            found = await self._limits.more(self._parts, self._total, want - self._ahead)
            ahead = min(self._ahead, want)
            want = ahead + min(found, want - ahead)
            if want < min(most, LEAST):
                return 0
            self._set(self._total + want - ahead)
        self._ahead -= min(self._ahead, want)
        return want

    def give(self, drawn: int, made: int) -> None:
        self._set(self._total - drawn + made)

    def take(self, tokens: int) -> bool:
        ahead = min(self._ahead, tokens)
        if min(part.tokens(self._total) for part in self._parts) < tokens - ahead:
            return False
        self._ahead -= ahead
        self._set(self._total + tokens - ahead)
        return True

    async def hold(self, tokens: int) -> bool:
        usd = [part for part in self._parts if part.pool.window.kind == "usd"]
        for part in usd:
            if not await self._limits.room(part.pool, -(-tokens * self._verifier // TOKENS) + 1):
                return False
        self._to_read += tokens
        self._price_reads()
        return True

    def release(self, tokens: int) -> None:
        self._to_read -= tokens
        self._price_reads()

    def read(self, tokens: int) -> None:
        self._read += tokens
        self._price_reads()

    def _price_reads(self) -> None:
        """Reserves what was read, and what is about to be."""
        tokens = self._read + self._to_read
        for part, base in zip(self._parts, self._bases, strict=True):
            if part.pool.window.kind == "usd":
                part.base = base - -tokens * self._verifier // TOKENS
        self._set(self._total)

    def _set(self, total: int) -> None:
        if not self._ended:
            self._total = total
            for part in self._parts:
                part.set(total)

    # -- its end ------------------------------------------------------------------------------------------------------

    def settle(self, row: Mapping[str, Any]) -> None:
        """It has ended, and its row says what it has spent."""
        if not self._ended:
            self._ended = True
            for part in self._parts:
                part.end(amount(part.pool.window.kind, row))
            self._limits.ended(self, self._parts)

    def drop(self) -> None:
        """It was not begun."""
        self.settle({"thinking": 0, "cost_nano_usd": 0})


class Limits:
    """The limits of all keys, as far as this server takes part in them. On the event loop."""

    def __init__(
        self, leases: Leases, now_ms: Callable[[], int], told: Told, left: Callable[[], float] | None = None
    ) -> None:
        """`left`: seconds until requests that have places must end, for others may have these soon; None: there are no
        others."""
        self._leases, self.now, self._tell, self._left = leases, now_ms, told, left
        self._placed: set[Holding] = set()
        """Those that have one of the places of their key."""
        self._pools: dict[Window, Pool] = {}
        self._epoch = 0
        self._tidying: asyncio.TimerHandle | None = None

    async def begin(self, intent: Intent, at_ms: int) -> Holding | None:
        """Reserves what a request needs to begin; None where its key has no limits. Raises `UsedUp` and `TooBusy`
        where that is not left, and what the leases do."""
        quota, price = intent.quota, intent.price
        if quota is None:
            return None
        parts: list[_Part] = []

        def part(kind: Kind, limit: int | None, base: int, rate: tuple[int, int]) -> None:
            if limit is not None:
                parts.append(_Part(self._pool(window(intent.owner, kind, at_ms), limit), base, rate))

        part("inflight", quota.inflight, 1, (0, 1))
        part("minute", quota.minute, 0, (1, 1))
        part("day", quota.day, 0, (1, 1))
        part("month", quota.month, 0, (1, 1))
        if price is not None:
            # Prompt and answers are paid for at their dearest before it begins; what was too much goes back at its end.
            base = -(-(intent.prompt * max(price.prompt, price.cached) + intent.answer * price.answer) // TOKENS) + 1
            if intent.whole and intent.max_cost is not None:
                # What a reward model reads is within it.
                base = max(base, intent.max_cost - intent.thinking * price.thinking // TOKENS)
            part("usd", quota.nano_usd, base, (price.thinking, TOKENS))
        if not parts:
            return None
        first = intent.thinking if intent.whole else min(intent.thinking, STEP * intent.answers)
        while True:
            for one in parts:
                await self._want(one.pool, one.units(first))
            if any(one.pool.dead for one in parts):
                # Another server has taken this one for dead meanwhile, and it leases anew.
                for one in parts:
                    one.pool = self._pool(one.pool.window, one.pool.limit)
                continue
            short = next((one for one in parts if one.pool.left < one.units(first)), None)
            if short is None:
                break
            if short.pool.full:
                raise self._refusal(short, first, [one.pool for one in parts], told=quota.told)
        holding = Holding(self, parts, first, 0 if price is None else price.verifier, told=quota.told)
        for one in parts:
            one.set(first)
            self._changed(one.pool)
        if self._left is not None and quota.inflight is not None:
            self._placed.add(holding)
            self._tidied(IDLE)
        return holding

    async def more(self, parts: Sequence[_Part], total: int, tokens: int) -> int:
        """How many tokens beside `total` may be reserved at once, `tokens` at most, when leases were asked for. Where
        the database does not answer, what is leased is all there is."""
        with contextlib.suppress(NotNow):
            for part in parts:
                await self._want(part.pool, part.units(total + tokens) - part.held)
        return min(tokens, *(part.tokens(total) for part in parts))

    async def room(self, pool: Pool, units: int) -> bool:
        """So much may be reserved at once, when a lease was asked for. Where the database does not answer, what is
        leased is all there is."""
        with contextlib.suppress(NotNow):
            await self._want(pool, units)
        return pool.left >= units

    def ended(self, holding: Holding, parts: Sequence[_Part]) -> None:
        """A request of these has ended."""
        self._placed.discard(holding)
        for part in parts:
            pool = part.pool
            if pool.window.kind == "inflight" and pool.full and pool.shared and pool.asking is None:
                # Who is refused elsewhere has the same chance of the place as who is refused here.
                self._give_back(pool)
            self._changed(pool)
        self._tidied(IDLE)

    def _tidied(self, seconds: float) -> None:
        """It is tidied in so many seconds, at the latest: also where the next look is for windows that are over, and so
        later."""
        loop = asyncio.get_running_loop()
        if self._tidying is None or self._tidying.when() > loop.time() + seconds:
            self.close()
            self._tidying = loop.call_later(seconds, self._tidy)

    def fenced(self, epoch: int) -> None:
        """The process goes on under another epoch: the leases of earlier ones are not its own any more. What still runs
        has its place all the same."""
        if epoch != self._epoch:
            self._epoch = epoch
            for key, pool in list(self._pools.items()):
                if pool.epoch in (0, epoch):
                    continue
                if pool.window.kind == "inflight" and (pool.held or pool.leased or pool.unsure):
                    pool.epoch, pool.leased, pool.full, pool.stale = 0, 0, False, True
                    # The database keeps these places, and would keep them when all of these requests have ended.
                    self._lost(pool)
                else:
                    pool.dead = True
                    del self._pools[key]

    def close(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()

    # -- leases -------------------------------------------------------------------------------------------------------

    def _pool(self, of: Window, limit: int) -> Pool:
        pool = self._pools.get(of)
        if pool is None:
            pool = self._pools[of] = Pool(of, limit)
        if pool.limit != limit:
            pool.limit, pool.full, pool.stale = limit, False, True
        return pool

    async def _want(self, pool: Pool, units: int) -> None:
        """Sees to it that so much is left, as far as the limit goes."""
        asked = False
        while not pool.dead and (pool.left < units or pool.stale):
            if pool.full and (asked or (not pool.stale and now() - pool.used < RECHECK)):
                return
            pool.wanted += units
            try:
                if pool.asking is None:
                    pool.asking = asyncio.get_running_loop().create_future()
                    # All that begins at the same moment is asked for together.
                    asyncio.get_running_loop().call_soon(self._ask, pool, pool.asking)
                if not await asyncio.shield(pool.asking):
                    raise Unavailable(
                        "the ledger of this server does not answer, so the limits of this API key are not known: try "
                        "again later",
                        code="ledger_unavailable",
                        retry_after=AGAIN,
                    )
            finally:
                pool.wanted -= units
            asked = True

    def _ask(self, pool: Pool, asking: asyncio.Future[bool]) -> None:
        pool.used = now()
        short = max(0, pool.wanted - pool.left)

        def heard(lease: Lease | None, epoch: int) -> None:
            pool.asking = None
            if lease is None:
                self._lost(pool)
            else:
                self._leased(pool, lease, short, epoch)
            if not asking.done():
                asking.set_result(lease is not None)

        self._leases.lease(Ask(pool.window, pool.limit, short, pool.stale), heard)

    def _leased(self, pool: Pool, lease: Lease, short: int, epoch: int) -> None:
        self.fenced(epoch)
        if pool.dead:
            # It was leased under the new epoch, for a pool of an earlier one: the pool that comes after has it.
            pool = self._pool(pool.window, pool.limit)
        pool.stale = False
        # The database knows: what was leased or given back before may have been heard of, or not.
        pool.unsure = False
        if not pool.epoch:
            pool.epoch, pool.leased, pool.spent = epoch, lease.leased, lease.spent
        elif pool.epoch == epoch:
            pool.leased = lease.leased
        pool.others, pool.others_spent = lease.others, lease.others_spent
        pool.full, pool.shared = lease.added < short, lease.shared
        self._changed(pool)
        # Who asked may have gone meanwhile, or be refused for another limit.
        self._tidied(IDLE)

    def _lost(self, pool: Pool) -> None:
        """It is asked what the database knows of the lease: what was leased in vain would be missed by all servers."""
        pool.unsure = True
        self._tidied(IDLE)

    def _tidy(self) -> None:
        """Gives back what is not needed, and forgets windows that are over."""
        self._tidying = None
        if self._left is not None and self._placed and self._left() <= 0:
            for holding in list(self._placed):
                holding.revoke()
        at, again = self.now(), bool(self._placed)
        for of, pool in list(self._pools.items()):
            if pool.asking is not None or now() - pool.used < IDLE:
                again = True
                continue
            over = of.ends_ms is not None and not of.begun_ms <= at < of.ends_ms
            if pool.unsure and not over:
                pool.asking, again = asyncio.get_running_loop().create_future(), True
                self._ask(pool, pool.asking)
                continue
            self._give_back(pool)
            if over and not pool.held:
                del self._pools[of]
                if window(of.key, of.kind, at) not in self._pools:
                    self._tell(of.key, of.kind, pool.limit, pool.limit)
            again = again or bool(pool.held)
        if again or self._pools:
            self._tidied(IDLE if again else WINDOWS)

    def _give_back(self, pool: Pool) -> None:
        """What of its lease is neither spent nor reserved."""
        if (surplus := pool.leased - pool.spent - pool.held) > 0 and pool.epoch and not pool.dead:
            pool.leased -= surplus
            self._leases.give_back(pool.window, surplus, pool.epoch, partial(self._lost, pool))

    def _changed(self, pool: Pool) -> None:
        self._tell(pool.window.key, pool.window.kind, pool.limit, pool.remaining)

    # -- refusals -----------------------------------------------------------------------------------------------------

    def _refusal(self, short: _Part, first: int, pools: Sequence[Pool], *, told: bool) -> NotNow:
        """Why a request is not begun: a limit is used up, or reserved by others for now."""
        pool, at, needs = short.pool, self.now(), short.units(first)
        of, headers = pool.window, _headers(pools, at) if told else {}
        if of.kind == "inflight":
            words = f"{pool.limit} requests of this API key run or wait, which is its limit"
            return TooBusy(words, code="rate_limit_exceeded", retry_after=1, headers=headers)
        seconds = ((of.ends_ms or at) - at) / 1000
        span = "month" if of.kind == "usd" else of.kind
        words = f"the limit of this API key for a {span} has no room for this request"
        if told:
            spent = max(0, pool.limit - pool.unspent)
            words += (
                f": of {_shown(of.kind, pool.limit)} {_shown(of.kind, spent)} are spent, and {_shown(of.kind, needs)} "
                "are wanted to begin"
            )
        if needs <= pool.unspent:
            words += ". What is left is reserved by requests that run: try again when some have ended"
            return TooBusy(words, code="rate_limit_exceeded", retry_after=min(AGAIN, seconds), headers=headers)
        words += f". The next begins at {datetime.fromtimestamp((of.ends_ms or at) / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
        if of.kind == "minute":
            return TooBusy(words, code="rate_limit_exceeded", retry_after=seconds, headers=headers)
        if told and of.kind != "usd" and pool.unspent:
            words += f"; until then a thinking_budget of at most {pool.unspent} may be asked for"
        return UsedUp(words, code="insufficient_quota", retry_after=seconds, headers=headers)


def _shown(kind: Kind, units: int) -> str:
    return f"{units / NANO:.6f} USD" if kind == "usd" else f"{units} thinking tokens"


def _headers(pools: Sequence[Pool], at_ms: int) -> dict[str, str]:
    """Of the limits of tokens the one with the least left; and that of requests at the same time."""
    headers: dict[str, str] = {}
    for pool in sorted(pools, key=lambda pool: -pool.remaining):
        match pool.window.kind:
            case "inflight":
                headers["x-ratelimit-limit-requests"] = str(pool.limit)
                headers["x-ratelimit-remaining-requests"] = str(pool.remaining)
            case "usd":
                pass
            case _:
                headers["x-ratelimit-limit-tokens"] = str(pool.limit)
                headers["x-ratelimit-remaining-tokens"] = str(pool.remaining)
                headers["x-ratelimit-reset-tokens"] = _duration((pool.window.ends_ms or at_ms) - at_ms)
    return headers


def _duration(milliseconds: int) -> str:
    """As OpenAI writes it: 1h2m3s, 17s, 120ms."""
    if milliseconds < 1000:
        return f"{max(0, milliseconds)}ms"
    minutes, seconds = divmod(-(-milliseconds // 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{seconds}s"
