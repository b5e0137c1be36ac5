"""Random servers that share the limits of a key, reserve, spend, end and die: at no moment is more spent and reserved
than there is, and what is spent is what the rows say."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from ponder.compute.account import Progress
from ponder.compute.errors import NotNow
from ponder.compute.quota import Quota
from ponder.compute.usage import Usage
from ponder.metering.database import database
from ponder.metering.leases import window
from ponder.metering.ledger import Ledger, LedgerBill
from ponder.metering.migrate import migrate
from ponder.metering.tables import limit_leases, limit_windows, requests
from tests.metering.ledgers import a_ledger, execute, intent

T = TypeVar("T")
QUOTA = Quota(minute=6_000, day=20_000, inflight=5)
LIMITS: dict[Any, int] = {"minute": 6_000, "day": 20_000, "inflight": 5}
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
MIDNIGHT = 1_775_001_600_000
"""2026-04-01."""


@dataclass
class Request:
    """One that runs."""

    server: Ledger
    bill: LedgerBill
    budget: int
    whole: bool
    at_ms: int
    made: int = 0
    drawn: list[int] = field(default_factory=list[int])
    """What its open calls may make."""

    @property
    def usage(self) -> Usage:
        return Usage(hidden=self.made)


class Servers(RuleBasedStateMachine):
    """Up to three servers over one ledger."""

    folder: Path
    count = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).count += 1
        # Its tables are made once.
        shutil.copyfile(self.folder / "empty.db", self.folder / f"ledger{self.count}.db")
        self.address = f"sqlite:///{self.folder}/ledger{self.count}.db"
        self.ms = MIDNIGHT - 30_000
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.servers: list[Ledger] = []
        self.running: list[Request] = []
        self.asked = 0
        self.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @precondition(lambda self: len(self.servers) < 3)
    @rule()
    def start(self) -> None:
        self.servers.append(self.run(self.stack.enter_async_context(a_ledger(self.address, clock=lambda: self.ms))))

    @rule(which=st.integers(0, 2), budget=st.integers(0, 9_000), whole=st.booleans())
    def begin(self, which: int, budget: int, whole: bool) -> None:
        server = self.servers[which % len(self.servers)]
        self.asked += 1
        asked = intent(f"req_{self.asked}", thinking=budget, whole=whole, quota=QUOTA)
        try:
            bill = self.run(server.reserve(asked))
        except NotNow:
            return
        request = Request(server, bill, budget, whole, self.ms)
        self.running.append(request)
        bill.follow(lambda: Progress(request.usage, open=len(request.drawn), samples=0, stopped_by=None))

    @precondition(lambda self: bool(self.running))
    @rule(which=st.integers(0, 9), most=st.integers(1, 9_000))
    def call(self, which: int, most: int) -> None:
        request = self.running[which % len(self.running)]
        left = request.budget - request.made - sum(request.drawn)
        if left > 0 and request.bill.drawing is not None and (drawn := self.run(self.draw(request, min(most, left)))):
            request.drawn.append(drawn)

    async def draw(self, request: Request, most: int) -> int:
        assert request.bill.drawing is not None
        return await request.bill.drawing.draw(most)

    @precondition(lambda self: any(request.drawn for request in self.running))
    @rule(which=st.integers(0, 9), part=st.floats(0, 1))
    def end_call(self, which: int, part: float) -> None:
        calling = [request for request in self.running if request.drawn]
        request = calling[which % len(calling)]
        drawn = request.drawn.pop()
        made = int(drawn * part)
        request.made += made
        assert request.bill.drawing is not None
        request.bill.drawing.give(drawn, made)
        self.run(self.looked(request))

    async def looked(self, request: Request) -> None:
        """A checkpoint is on its way."""
        request.bill.look()
        await asyncio.sleep(0)

    @precondition(lambda self: bool(self.running))
    @rule(which=st.integers(0, 9), part=st.floats(0, 1))
    def settle(self, which: int, part: float) -> None:
        request = self.running.pop(which % len(self.running))
        if request.whole:
            request.made = int(request.budget * part)
        self.run(request.bill.settle(request.usage, "answered"))

    @rule(seconds=st.sampled_from([1, 20, 60, -45, 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.ms += seconds * 1000

    @precondition(lambda self: self.asked > 0)
    @rule()
    def idle(self) -> None:
        """What is not needed goes back."""
        for server in self.servers:
            for pool in server._limits._pools.values():  # pyright: ignore[reportPrivateUsage]
                pool.used = float("-inf")
            self.run(self.tidied(server))

    async def tidied(self, server: Ledger) -> None:
        server._limits._tidy()  # pyright: ignore[reportPrivateUsage]

    @precondition(lambda self: len(self.servers) > 1)
    @rule(which=st.integers(0, 2))
    def die(self, which: int) -> None:
        """Its requests are lost, and another server finds that out."""
        dead = self.servers.pop(which % len(self.servers))
        self.run(self.written(dead))
        self.running = [request for request in self.running if request.server is not dead]
        execute(self.address, f"UPDATE servers SET started = started - 1 WHERE id = '{dead.process.id}'")
        finder = self.stack.enter_async_context(a_ledger(self.address, clock=lambda: self.ms))
        self.servers.append(self.run(finder))

    async def written(self, server: Ledger) -> None:
        """All that it had to write is in the database."""
        while server._writer.pending:  # noqa: ASYNC110 # pyright: ignore[reportPrivateUsage]
            await asyncio.sleep(0.001)

    @invariant()
    def nothing_is_beyond_a_limit(self) -> None:
        for server in self.servers:
            self.run(self.written(server))
            for pool in server._limits._pools.values():  # pyright: ignore[reportPrivateUsage]
                assert pool.held >= 0
                assert pool.held + pool.spent <= pool.leased
        leased: dict[tuple[Any, int], int] = {}
        spent: dict[tuple[Any, int], int] = {}
        engine = database(self.address).engine(reads=True)
        with engine.connect() as connection:
            for row in connection.execute(select(limit_windows)).mappings():
                leased[row["kind"], row["begun_ms"]] = spent[row["kind"], row["begun_ms"]] = row["before"]
                assert row["before"] == 0
            for row in connection.execute(select(limit_leases)).mappings():
                assert row["spent"] <= row["leased"]
                leased[row["kind"], row["begun_ms"]] += row["leased"]
                spent[row["kind"], row["begun_ms"]] += row["spent"]
            rows = connection.execute(select(requests)).mappings().all()
        engine.dispose()
        for (kind, begun), amount in leased.items():
            assert amount <= LIMITS[kind], (kind, begun)
            if kind == "inflight":
                continue
            inside = [row for row in rows if window("alice", kind, row["begun_ms"]).begun_ms == begun]
            assert spent[kind, begun] == sum(row["thinking"] for row in inside if row["settled_ms"])
            # Spent, made and reserved.
            going = [r for r in self.running if window("alice", kind, r.at_ms).begun_ms == begun]
            most = sum(r.budget if r.whole else r.made + sum(r.drawn) for r in going)
            assert spent[kind, begun] + most <= LIMITS[kind]
        assert len(self.running) <= LIMITS["inflight"]

    def teardown(self) -> None:
        for request in self.running:
            self.run(request.bill.settle(request.usage, "answered"))
        self.running = []
        self.nothing_is_beyond_a_limit()
        self.run(self.stack.aclose())
        self.runner.close()


@pytest.mark.parametrize("examples", [2, pytest.param(400, marks=pytest.mark.soak)])
def test_servers_that_share_a_limit_are_never_beyond_it(tmp_path: Path, examples: int) -> None:
    empty = database(f"sqlite:///{tmp_path}/empty.db").engine()
    migrate(empty)
    empty.dispose()
    machine = type("Here", (Servers,), {"folder": tmp_path})
    checked = settings(max_examples=examples, stateful_step_count=20, suppress_health_check=SLOW)
    run_state_machine_as_test(machine, settings=checked)  # type: ignore[no-untyped-call]
