"""A reward model whose replicas are those of a deployment: each reading goes to the one that has the fewest, and to
another where that goes away. What was not answered was not counted, so nothing is counted twice."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from ponder.compute.clock import now
from ponder.compute.errors import EngineError
from ponder.compute.groups import group_beside
from ponder.engines.ray.meetings import Meet, Meeting, Told
from ponder.engines.replicas.connection import Access
from ponder.engines.replicas.known import tokenizer_of
from ponder.engines.reward import ProcessRewardModel
from ponder.engines.reward_profiles import RewardProfile
from ponder.engines.reward_reader import Reader, Reading
from ponder.engines.reward_remote import reach

FIRST_SECONDS = 600.0
"""Until one of them can be used."""
AGAIN = 0.25
"""Seconds between two looks for the first."""
SMOOTH = 0.1
"""The part of a new reading in the running mean of seconds."""

Reach = Callable[[str, Access], Awaitable[Reader]]
"""Reaches the server at an address. Raises `EngineError`."""


class Readers:
    """The replicas as one; fulfils `ponder.engines.reward_reader.Reader`."""

    def __init__(self, name: str, meet: Meet, reach: Reach, door: str | None = None) -> None:
        self._name, self._reach, self._door = name, reach, door or secrets.token_hex(8)
        self._meeting = Meeting(name, meet, self.told)
        self._readers: dict[str, Reader] = {}
        self._busy: Counter[str] = Counter()
        self._seconds = 0.0
        self._fault = ""

    def told(self) -> Told:
        """What its replicas are told. Readings wait at them and not here."""
        return Told(self._door, 0, self._seconds)

    @property
    def context(self) -> int:
        """See the contract."""
        return min((reader.context for reader in self._readers.values()), default=0)

    async def read(self, ids: Sequence[int], labels: Sequence[int], tenant: str | None, name: str = "check") -> Reading:
        """One reading; see the contract. It is asked of each replica once at most."""
        tried: set[str] = set()
        failed = EngineError(f"no replica of the reward model {self._name} can be used: {self._fault or 'none is met'}")
        while left := self._readers.keys() - tried:
            url = min(left, key=lambda one: self._busy[one])
            tried.add(url)
            self._busy[url] += 1
            began = now()
            try:
                reading = await self._readers[url].read(ids, labels, tenant, name)
            except EngineError as error:
                failed = error
            else:
                taken = now() - began
                self._seconds += (taken - self._seconds) * (SMOOTH if self._seconds else 1.0)
                return reading
            finally:
                self._busy[url] -= 1
        raise failed

    async def close(self) -> None:
        """Lets go of all. Idempotent."""
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            await reader.close()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Meets its replicas within the block, which begins when one of them can be used. Raises `EngineError` where
        none can be in time."""
        try:
            async with group_beside() as group:
                following = group.create_task(self._follow())
                try:
                    await self._first()
                    yield
                finally:
                    following.cancel()
        finally:
            await self.close()

    async def _first(self) -> None:
        end = now() + FIRST_SECONDS
        while not self._readers:
            if now() >= end:
                raise EngineError(
                    f"no replica of the reward model {self._name} answers: {self._fault or 'none is met'}"
                )
            await asyncio.sleep(AGAIN)

    async def _follow(self) -> None:
        while True:
            if (urls := await self._meeting.read()) is not None:
                await self._take(urls)
            await asyncio.sleep(self._meeting.interval if self._readers else AGAIN)

    async def _take(self, urls: Sequence[str]) -> None:
        for url in urls:
            if url not in self._readers:
                try:
                    self._readers[url] = await self._reach(url, self._meeting.access(url))
                except EngineError as error:
                    self._fault = error.message
        for url in self._readers.keys() - set(urls):
            # What is being read there goes on; it is closed when that is over.
            if not self._busy[url]:
                await self._readers.pop(url).close()


@asynccontextmanager
async def deployed_reward(
    path: str, *, name: str, profile: RewardProfile, meet: Meet
) -> AsyncGenerator[ProcessRewardModel]:
    """A process reward model whose replicas are met by `meet`, within the block. `path` is the folder or hub id of its
    tokenizer. Raises `EngineError` in plain words where none can be used."""

    async def one(url: str, access: Access) -> Reader:
        return await reach(url, model=path, key=access.key, profile=profile)

    readers = Readers(name, meet, one)
    tokenizer = await asyncio.to_thread(tokenizer_of, path)
    async with readers.serving():
        yield ProcessRewardModel(readers, tokenizer, profile, name)
