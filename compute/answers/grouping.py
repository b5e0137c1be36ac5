"""Which texts answer the same.

Strings first. What they cannot tell, mathematical expressions that look different, goes to math-verify in the worker
pool, side by side; only the first answer of each group is compared with, and verdicts are remembered. Where there is no
verdict, answers count as different for now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cachetools import LRUCache

from ponder.compute.answers.extraction import TAIL, final_answer
from ponder.compute.answers.keys import digest, equal, key
from ponder.compute.errors import NoVerdict
from ponder.compute.pool import pool

PATIENCE = 2.0
"""Seconds of processor time one comparison may take."""
TOGETHER = 15.0
"""Seconds all comparisons of one grouping may take, waiting for a worker included."""
HANGS = 3
"""Comparisons that may use up their time in one grouping; after them, strings decide."""

_verdicts: LRUCache[bytes, bool] = LRUCache(16384)
"""What algebra found, under a hash of the two expressions."""


async def group(texts: Sequence[str], *, tenant: str | None = None, seconds: float = TOGETHER) -> list[int | None]:
    """For each text the number of its group, counted from 0 in order of first appearance; None where it holds no
    answer. Never raises over what a text contains, never holds up the event loop, and takes little more than `seconds`.
    `tenant` is on whose account expressions are compared."""
    answers: list[str | None] = []
    for text in texts:
        answers.append(final_answer(text))
        if len(text) > TAIL // 4:
            await asyncio.sleep(0)
    grouping = _Grouping(list(dict.fromkeys(answer for answer in answers if answer is not None)))
    if not grouping.settled:
        until = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as comparing:
            for _ in range(pool().share):
                comparing.create_task(grouping.compare(tenant, until))
    places = grouping.places()
    return [None if answer is None else places[answer] for answer in answers]


class _Grouping:
    """Answers that differ, each put into the group of the first before it that is the same, in order: as if they were
    compared one after the other, whatever the order in which verdicts come."""

    def __init__(self, answers: Sequence[str]) -> None:
        self._answers = answers
        self._keys = [key(answer) for answer in answers]
        self._places: list[int] = []
        """The groups of the answers that are settled: the first so many."""
        self._firsts: list[int] = []
        """The first answer of each group."""
        self._strings: dict[tuple[int, int], bool | None] = {}
        self._verdicts: dict[tuple[int, int], bool] = {}
        self._asked: set[tuple[int, int]] = set()
        self._hung = 0
        self._settle()

    @property
    def settled(self) -> bool:
        """Each has its group."""
        return len(self._places) == len(self._answers)

    def places(self) -> dict[str, int]:
        """The group of each answer. Those for which no verdict came are different."""
        self._settle(finally_=True)
        return dict(zip(self._answers, self._places, strict=True))

    async def compare(self, tenant: str | None, until: float) -> None:
        """Has pairs compared that matter, one at a time, until there are no more; several do so side by side."""
        clock = asyncio.get_running_loop().time
        while self._hung < HANGS and clock() < until and (pair := self._next()):
            self._asked.add(pair)
            first, second = self._expressions(*pair)
            equal, lasting = False, True
            try:
                equal = await pool().ask("same", first, second, tenant=tenant, seconds=PATIENCE, until=until)
            except NoVerdict as none:
                self._hung += none.reason == "overran"
                lasting = none.lasting
            if lasting:
                _verdicts[digest(f"{first}\0{second}")] = equal
            self._verdicts[pair] = equal
            self._settle()

    def _next(self) -> tuple[int, int] | None:
        """The pair whose verdict is wanted soonest and nobody has asked for."""
        settled = len(self._places)
        for new in range(settled, len(self._answers)):
            rivals = [*self._firsts, *range(settled, new)]
            # What strings put beside an answer that has no group yet may need no algebra.
            if new > settled and any(self._quick(rival, new) for rival in rivals):
                continue
            for pair in ((rival, new) for rival in rivals):
                if pair not in self._asked and self._quick(*pair) is None and self._verdict(*pair) is None:
                    return pair
        return None

    def _settle(self, finally_: bool = False) -> None:
        """Groups answers as far as verdicts are known; finally, without those that are not."""
        while not self.settled:
            new = len(self._places)
            quick = [self._quick(first, new) for first in self._firsts]
            place = quick.index(True) if True in quick else None
            for i, first in enumerate(self._firsts):
                if place is None and quick[i] is None:
                    equal = self._verdict(first, new)
                    if equal is None and not finally_:
                        return
                    place = i if equal else None
            if place is None:
                place = len(self._firsts)
                self._firsts.append(new)
            self._places.append(place)

    def _quick(self, first: int, second: int) -> bool | None:
        """What strings say of two answers."""
        pair = first, second
        if pair not in self._strings:
            self._strings[pair] = equal(self._keys[first], self._keys[second])
        return self._strings[pair]

    def _verdict(self, first: int, second: int) -> bool | None:
        """What algebra has said of them, in this grouping or before; None: nothing yet."""
        pair = first, second
        if pair not in self._verdicts:
            known = _verdicts.get(digest("\0".join(self._expressions(*pair))))
            if known is None:
                return None
            self._verdicts[pair] = known
        return self._verdicts[pair]

    def _expressions(self, first: int, second: int) -> tuple[str, str]:
        a, b = self._keys[first].text, self._keys[second].text
        return (a, b) if a < b else (b, a)
