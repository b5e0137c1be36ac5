"""Which texts answer the same, whatever order they come in.

What an answer says in itself is read here, at once (`readings`). An expression that only computer algebra may know (an
integral, a sum, a tower of powers) goes to math-verify in the worker pool, side by side with others, and verdicts are
remembered. Where there is no verdict, answers count as different for now.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from cachetools import LRUCache

from ponder.compute.answers.extraction import TAIL, final_answer
from ponder.compute.answers.keys import Key, digest, equal, key
from ponder.compute.answers.partition import partition
from ponder.compute.errors import NoVerdict
from ponder.compute.groups import TaskGroup
from ponder.compute.pool import pool

PATIENCE = 2.0
"""Seconds of processor time one comparison may take."""
TOGETHER = 15.0
"""Seconds all comparisons of one grouping may take, waiting for a worker included."""
HANGS = 3
"""Comparisons that may use up their time in one grouping; after them, what was read decides."""

_verdicts: LRUCache[bytes, bool] = LRUCache(16384)
"""What algebra found, under a hash of the two expressions."""


async def group(
    texts: Sequence[str], *, tenant: str | None = None, seconds: float = TOGETHER, numeric: bool | None = None
) -> list[int | None]:
    """For each text the number of its group, counted from 0 in order of first appearance; None where it holds no
    answer. Which texts share a group does not hang on their order. Never raises over what a text contains, never holds
    up the event loop, and takes little more than `seconds`. `tenant` is on whose account expressions are compared;
    `numeric` is what `final_answer` is told of the question."""
    answers: list[str | None] = []
    for text in texts:
        answers.append(final_answer(text, numeric))
        if len(text) > TAIL // 4:
            await asyncio.sleep(0)
    return await group_answers(answers, tenant=tenant, seconds=seconds)


async def group_answers(
    answers: Sequence[str | None], *, tenant: str | None = None, seconds: float = TOGETHER
) -> list[int | None]:
    """The same of what texts finally answer."""
    counts = Counter(answer for answer in answers if answer is not None)
    keys: dict[str, Key] = {}
    for number, answer in enumerate(counts, 1):
        keys[answer] = key(answer)
        if not number % 8:
            await asyncio.sleep(0)
    found: dict[str, str] = {}
    if any(one.algebra for one in keys.values()):
        comparing = _Comparing(keys)
        until = asyncio.get_running_loop().time() + seconds
        async with TaskGroup() as tasks:
            for _ in range(pool().share):
                tasks.create_task(comparing.work(tenant, until))
        found = comparing.found()
    places = {answer: i for i, group in enumerate(partition(counts, keys, found)) for answer in group}
    order = {place: i for i, place in enumerate(dict.fromkeys(places[a] for a in answers if a is not None))}
    return [None if answer is None else order[places[answer]] for answer in answers]


class _Comparing:
    """Expressions that take computer algebra, each compared with the others until it is the same as one of them. In an
    order of their own, and what is found is read off at the end: so it does not hang on which verdicts come first."""

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self._keys = keys
        mathematical = sorted(a for a, one in keys.items() if not one.algebra and one.kind in ("number", "math"))
        self._rivals: dict[str, list[str]] = {}
        """What each is compared with, in this order."""
        for answer in sorted(a for a, one in keys.items() if one.algebra):
            self._rivals[answer] = [*mathematical, *self._rivals]
        self._verdicts: dict[tuple[str, str], bool] = {}
        self._asked = set[tuple[str, str]]()
        self._hung = 0

    def found(self) -> dict[str, str]:
        """What each is the same as: the first of those it was compared with."""
        same: dict[str, str] = {}
        for answer, rivals in self._rivals.items():
            for rival in rivals:
                if self._verdict(answer, rival):
                    same[answer] = same.get(rival, rival)
                    break
        return same

    async def work(self, tenant: str | None, until: float) -> None:
        """Has pairs compared that matter, one at a time, until there are no more; several do so side by side."""
        clock = asyncio.get_running_loop().time
        while self._hung < HANGS and clock() < until and (pair := next(self._open(), None)):
            self._asked.add(pair)
            first, second = self._expressions(*pair)
            verdict, lasting = False, True
            try:
                verdict = await pool().ask("same", first, second, tenant=tenant, seconds=PATIENCE, until=until)
            except NoVerdict as none:
                self._hung += none.reason == "overran"
                lasting = none.lasting
            if lasting:
                _verdicts[digest(f"{first}\0{second}")] = verdict
            self._verdicts[pair] = verdict

    def _open(self) -> Iterator[tuple[str, str]]:
        """Pairs without a verdict, those wanted soonest first."""
        for answer, rivals in self._rivals.items():
            for rival in rivals:
                verdict = self._verdict(answer, rival)
                if verdict:
                    break
                if verdict is None and (answer, rival) not in self._asked:
                    yield answer, rival

    def _verdict(self, answer: str, rival: str) -> bool | None:
        """What is known of a pair, in this grouping or from one before; None: nothing yet."""
        pair = answer, rival
        if pair not in self._verdicts:
            told = equal(self._keys[answer], self._keys[rival])
            known = _verdicts.get(digest("\0".join(self._expressions(*pair)))) if told is None else told
            if known is None:
                return None
            self._verdicts[pair] = known
        return self._verdicts[pair]

    def _expressions(self, answer: str, rival: str) -> tuple[str, str]:
        a, b = answer.strip().strip("$"), rival.strip().strip("$")
        return (a, b) if a < b else (b, a)
