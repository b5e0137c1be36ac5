"""Many chains at once: as many as the budget feeds, the next when one has left a part of its share.

With a seed they settle in the order they were begun, so that the result can be repeated; else as they finish.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from ponder.compute.budget import Reservation
from ponder.compute.chains import Chains
from ponder.compute.errors import Exhausted, Lost, OutOfQuota
from ponder.compute.groups import TaskGroup
from ponder.compute.text import Candidate, Prompt


@dataclass(eq=False, slots=True)
class _Seat:
    """One chain of a race whose chains settle in the order they were begun."""

    turn: asyncio.Event = field(default_factory=asyncio.Event)
    """It may settle, or try to reserve more."""
    stands: asyncio.Event = field(default_factory=asyncio.Event)
    """It has settled, or the budget could not pay for the rest of its answer."""
    last: bool = False
    """No other chain will give tokens back: it settles as it is."""
    settled: Candidate | Lost | None = None

    async def next(self) -> None:
        self.turn.clear()
        self.stands.set()
        await self.turn.wait()

    async def go(self) -> None:
        """Lets it settle as far as it can."""
        self.turn.set()
        await self.stands.wait()
        self.stands.clear()


class Race:
    """Up to `n` chains, which take the prompts in turn. Its tasks are children of `group`."""

    def __init__(
        self,
        chains: Chains,
        group: TaskGroup,
        prompts: Sequence[Prompt],
        n: int,
        at_once: Callable[[], int] | None,
        known: dict[Prompt, Candidate] | None,
        sharing: Callable[[], int] | None = None,
    ) -> None:
        """`at_once` may want fewer under way than the budget feeds. `known`, where a prompt has but one chain: those
        written so far, to which this race adds. `sharing`: among how many side by side, those that run included, the
        budget is shared, where it feeds so many and fewer are begun."""
        self._chains, self._group, self._n, self._at_once = chains, group, n, at_once
        self._sharing = sharing
        self._written = known
        self._known: list[Candidate] = []
        self._prompts = prompts
        self.alike = False
        """Some would have been the same, and were written once."""
        if known is not None:
            different = list(dict.fromkeys(prompts[i % len(prompts)] for i in range(n)))
            self._known = [known[one] for one in different if one in known]
            self._prompts = [one for one in different if one not in known]
            self.alike = len(different) < n
            self._n = len(self._prompts)
        self._arrived: asyncio.Queue[tuple[int, Candidate | Lost | None] | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._seats: list[_Seat] = []
        self._given = 0
        self.begun: list[int] = []
        """Numbers of the chains in the order they were begun, those still being written included."""
        self.lost: set[int] = set()
        """Of these, the numbers of those whose turn has come and whose end was not seen, and of those dropped."""
        self._whole: list[int] = []
        """Tokens of the chains that came to their own end, as far as their turn has come."""
        self._times: dict[int, tuple[float, float | None]] = {}
        """By number of the chain: when it was begun, and when it ended, in loop time."""
        self.short = False
        """It is over, and the budget did not allow as many as were asked for."""
        self._every: int | None = None
        self._grown = 0
        """Tokens made since somebody was told to look."""
        self._told = False
        """Somebody was told to look, and has not looked yet."""

    def watch(self, every: int) -> None:
        """Has `settled` give None whenever the chains that are being written have grown by so many tokens each, on
        average. With a seed it never does: how far each chain is then depends on what else the
        model does."""
        self._every = None if self._chains.ordered else max(1, every)

    @property
    def running(self) -> list[Candidate]:
        """The chains that are being written, as they stand, in the order they were begun. With a seed none: see
        `watch`."""
        if self._chains.ordered:
            return []
        running = (self._chains.drafts.writing(number) for number in self.begun)
        return [chain for chain in running if chain is not None]

    def stop(self) -> bool:
        """Stops the chains that were not waited for; whether there were any."""
        if self._given == len(self.begun):
            return False
        for task in self._tasks:
            task.cancel()
        return True

    def ages(self) -> list[float]:
        """For each chain still being written how long it has been, where those that have ended took 1 on average. With
        a seed nobody knows: chains settle in order then, however long they take."""
        if self._chains.ordered:
            return []
        took = [end - begun for begun, end in self._times.values() if end is not None]
        if not took:
            return []
        clock, mean = asyncio.get_running_loop().time(), max(sum(took) / len(took), 1e-9)
        return [(clock - begun) / mean for begun, end in self._times.values() if end is None]

    def drop(self, number: int) -> None:
        """Stops a chain that is being written at the engine; no candidate comes of it, and another may begin in its
        place. With a seed nothing is dropped, nor one that has just ended, and none twice."""
        if self._chains.ordered or number not in self.begun:
            return
        task = self._tasks[self.begun.index(number)]
        if task.cancelling():
            return

        def stopped(task: asyncio.Task[None]) -> None:
            if task.cancelled():
                self._arrived.put_nowait((number, None))

        if task.cancel():
            task.add_done_callback(stopped)

    async def settled(self) -> AsyncGenerator[Candidate | None]:
        """The candidates as they finish, or with a seed in order; None where it is time to look at those that are being
        written. Chains that were lost are left out; raises `Lost` where there is no other."""
        ordered = self._chains.ordered
        lost: Lost | None = None
        given = bool(self._known)
        for candidate in self._known:
            yield candidate
        while True:
            if ordered or self._arrived.empty():
                self._fill()
            if self._given == len(self.begun):
                break
            if ordered:
                number, settled = self.begun[self._given], await self._at(self._given)
            else:
                arrived = await self._arrived.get()
                if arrived is None:
                    self._told = False
                    if self._given + self._arrived.qsize() < len(self.begun):
                        yield None
                    continue
                number, settled = arrived
            self._given += 1
            if not isinstance(settled, Candidate):
                self.lost.add(number)
                lost = settled or lost
                continue
            given = True
            if settled.complete and not settled.forced:
                self._whole.append(settled.tokens)
            yield settled
        self.short = len(self.begun) < self._n
        if lost is not None and not given:
            raise OutOfQuota("the quota has no tokens for a chain") if self._chains.spending.out_of_quota else lost

    def _fill(self) -> None:
        """Starts what is wanted now and the budget can feed."""
        spending, lengths = self._chains.spending, self._chains.estimates.current
        free, left = spending.free, self._n - len(self.begun)
        wanted = left if self._at_once is None else min(left, self._at_once() - (len(self.begun) - self._given))
        if wanted < 1:
            return
        if not spending.reservations and lengths.at_first(left, free) <= 1:
            self._start(spending.free_thought, spending.allowance, bound=True)
            return
        free = spending.contested
        if free >= self._usual():
            spending.unbind()
            most = max(1, lengths.at_first(left, free))
            fed = min(wanted, most)
            running = len(self.begun) - self._given
            shares = fed if self._sharing is None else max(fed, min(self._sharing() - running, most))
            for _ in range(fed):
                self._start(*self._chains.shares(free // shares))
        elif not self.begun and not self._known:
            raise Exhausted(f"{self._n} samples asked for, {max(0, free)} thinking tokens left")

    def _usual(self) -> float:
        """Tokens of a usual chain: the model's, or what those of this race took, where that is less."""
        usual = self._chains.estimates.current.p50
        return min(usual, sum(self._whole) / len(self._whole)) if self._whole else usual

    def _start(self, thinking: int, answer: int, bound: bool = False) -> None:
        reservation = self._chains.reserve("sample", thinking=thinking, answer=answer, bound=bound)
        if self._every is not None:
            reservation.grown, reservation.every = self._grow, self._every
        seat = _Seat()
        work = self._one(reservation, self._prompts[len(self.begun) % len(self._prompts)], seat)
        self._tasks.append(self._chains.begin(self._group, reservation, work))
        self._seats.append(seat)
        self.begun.append(reservation.number)
        self._times[reservation.number] = asyncio.get_running_loop().time(), None

    def _grow(self, tokens: int) -> None:
        """A chain has grown. On the path of the tokens, so it is quick."""
        self._grown += tokens
        if self._every is not None and self._grown >= self._every * (len(self.begun) - self._given):
            self._grown = 0
            if not self._told:
                self._told = True
                self._arrived.put_nowait(None)

    async def _one(self, reservation: Reservation, prompt: Prompt, seat: _Seat) -> None:
        chains = self._chains
        try:
            settled = await chains.write_or_lose(reservation, prompt)
            if chains.ordered:
                await seat.turn.wait()
            if isinstance(settled, Candidate):
                settled = await chains.go_on(reservation, settled, seat if chains.ordered else None)
        except asyncio.CancelledError:
            chains.estimates.shared.censored(reservation.tokens)
            reservation.close(forfeit=chains.ordered)
            raise
        except Lost as lost:
            settled = lost
        finally:
            reservation.close()
            begun, _ = self._times[reservation.number]
            self._times[reservation.number] = begun, asyncio.get_running_loop().time()
        if isinstance(settled, Lost):
            chains.estimates.shared.censored(reservation.tokens)
        else:
            chains.learn(settled)
            if self._written is not None:
                self._written[prompt] = settled
        seat.settled = settled
        seat.stands.set()
        self._arrived.put_nowait((reservation.number, settled))

    async def _at(self, place: int) -> Candidate | Lost:
        """The chain at this place of the order. Where the budget cannot pay for the rest of its answer, those begun
        after it settle first, one by one, and leave what they do not need."""
        seat = self._seats[place]
        if seat.settled is None:
            await seat.go()
        for other in self._seats[place + 1 :]:
            if seat.settled is not None:
                break
            if other.settled is None:
                await other.go()
                await seat.go()
        if seat.settled is None:
            seat.last = True
            await seat.go()
        return cast("Candidate | Lost", seat.settled)
