"""Two servers on one PostgreSQL, in networks of their own, whose links to it are cut and mended under load: the limit
of a key holds, who comes to the one that is cut off is refused, and all that was made is billed once."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import pytest

from ponder.server.auth.keys import digest
from tests.metering.databases import postgresql
from tests.metering.ledgers import leases, rows
from tests.server.resent import soon
from tests.server.serving import ASK, PATH
from tests.server.several import Door, Network, door, most_at_once, networks

LIMIT, CALLERS = 10, 64
DELAY = 0.01
"""Seconds of a token."""


@dataclass
class Caller:
    """Asks one server, one request after the other."""

    door: Door
    stream: bool
    seen: Counter[int]
    """Statuses, of all callers of its server."""
    answered: dict[str, int] = field(default_factory=dict[str, int])
    """Hidden tokens of its answers, by the ids of their requests."""

    async def call(self, over: asyncio.Event) -> None:
        chance = random.Random(id(self))
        limits = httpx.Timeout(30)
        async with httpx.AsyncClient(base_url=self.door.url, timeout=limits, trust_env=False) as client:
            while not over.is_set():
                body: dict[str, Any] = ASK | {"strategy": "direct", "thinking_budget": 200, "stream": self.stream}
                response = await client.post(PATH["path"], json=body, headers={"authorization": "Bearer caller"})
                self.seen[response.status_code] += 1
                if response.status_code == 200:
                    # A stream that breaks off has no end.
                    assert not self.stream or response.text.endswith("data: [DONE]\n\n")
                    hidden = 0 if self.stream else self._hidden(response.json())
                    self.answered[response.headers["x-request-id"]] = hidden
                    continue
                assert response.status_code in (429, 503), response.text
                assert response.json()["error"]["code"] in ("rate_limit_exceeded", "ledger_unavailable")
                assert float(response.headers["retry-after"]) >= 0
                await asyncio.sleep(0.3 + 0.4 * chance.random())

    def _hidden(self, answer: Any) -> int:
        return answer["usage"]["completion_tokens_details"]["reasoning_tokens"]


Cut = tuple[int, Network, float]
"""Which server is cut off, and for how many seconds at least."""


@contextmanager
def two() -> Generator[tuple[Sequence[Door], Sequence[Network], str]]:
    """Two servers in networks of their own, and the address of their ledger for whoever is on this machine."""
    with ExitStack() as stack:
        made = stack.enter_context(networks(2))
        server = stack.enter_context(postgresql(hosts=[network.base for network in made]))
        name = server.new().rpartition("/")[2]
        doors: list[Door] = []
        for network in made:
            key = {"name": "caller", "hash": digest("caller"), "max_inflight": LIMIT}
            settings = {"keys": [key], "ledger": {"url": server.address(name, network.base)}}
            doors.append(stack.enter_context(door(settings, network, delay=DELAY)))
        yield doors, made, server.address(name)


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])])
def test_a_limit_for_10_holds_while_links_to_the_database_are_cut_and_mended(
    times: int, record_property: Callable[[str, object], None]
) -> None:
    with two() as (doors, made, address):
        cuts: list[Cut] = [(0, made[0], 0.0)] if times == 1 else [(i, made[i], 0.0) for i in (0, 1)] * times
        answered, seen = asyncio.run(under_load(doors, cuts))
        for one in doors:
            one.stop()
        found, leased = rows(address), leases(address)
    most = most_at_once(doors)
    for word, value in (("most at once", most), ("seen", str(seen)), ("answered", len(answered))):
        record_property(word, value)
    assert LIMIT - 2 <= most <= LIMIT
    assert leased["inflight 0"] == (0, 0)
    assert not [row for row in found.values() if row["settled_ms"] is None]
    for id, hidden in answered.items():
        assert found[id]["outcome"] == "answered"
        assert hidden in (0, found[id]["thinking"])
    assert sum(one.produced for one in doors) == sum(row["thinking"] + row["answer"] for row in found.values())


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_server_that_is_cut_off_for_longer_than_its_lease_goes_on_within_the_limit(
    record_property: Callable[[str, object], None],
) -> None:
    """It is taken for dead meanwhile, and what it ran then is settled once, by the other."""
    with two() as (doors, made, address):
        answered, seen = asyncio.run(under_load(doors, [(0, made[0], 100.0)]))
        for one in doors:
            one.stop()
        found, log = rows(address), doors[0].log.read_text()
    most = most_at_once(doors)
    for word, value in (("most at once", most), ("seen", str(seen)), ("answered", len(answered))):
        record_property(word, value)
    assert "another server took this one for dead" in log
    assert most <= LIMIT
    assert not [row for row in found.values() if row["settled_ms"] is None]
    assert {found[id]["outcome"] for id in answered} == {"answered", "lost"}
    assert sum(one.produced for one in doors) > sum(row["thinking"] + row["answer"] for row in found.values())


async def under_load(doors: Sequence[Door], cuts: Sequence[Cut]) -> Any:
    over, seen = asyncio.Event(), [Counter[int]() for _ in doors]
    callers = [Caller(doors[i % 2], bool(i // 2 % 2), seen[i % 2]) for i in range(CALLERS)]
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(caller.call(over))
        for which, network, seconds in cuts:
            await soon(more(seen, 200, 5))
            # The other has places that it keeps; what the one has then it has until it is back.
            await soon(partial(runs, doors[1 - which], 3))
            network.cut()
            # Those that run there are answered, and those that come are refused. Elsewhere nobody notices, or for five
            # seconds at most: as long as a transaction that was cut keeps its locks.
            await soon(more(seen, 503, 10, which))
            await soon(more(seen, 200, 5, 1 - which))
            refusing = time.monotonic_ns()
            await soon(more(seen, 503, 10, which))
            await asyncio.sleep(seconds)
            begun = [at for at, change, _ in doors[which].calls if change == 1]
            assert not begun or max(begun) < refusing
            await soon(more(seen, 200, 5, 1 - which))
            network.mend()
            await soon(more(seen, 200, 5, which))
            seen[which][503] = 0
        over.set()
    return {id: hidden for caller in callers for id, hidden in caller.answered.items()}, seen


def runs(one: Door, least: int) -> bool:
    """So many calls to its engine are under way."""
    return sum(change for _, change, _ in one.calls) >= least


def more(seen: Sequence[Counter[int]], status: int, times: int, *which: int) -> Callable[[], bool]:
    """So many more were answered so, at these servers; left out, at each."""
    before = [one[status] for one in seen]
    return lambda: all(seen[i][status] - before[i] >= times for i in which or range(len(seen)))
