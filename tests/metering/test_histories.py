"""Random histories of a server: strategies, hang-ups, models that die, deadlines, a database that goes, a server that
is taken for dead. After each, what stands in the ledger is what the model made, and what the server tells of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from ponder.compute.identity import CallIdentity
from ponder.compute.lengths import Lengths
from ponder.server.registry import Registry
from ponder.testing import Chain, ScriptedRewards, always
from tests.metering.comparing import recovered
from tests.metering.ledgers import execute, rows
from tests.metering.truth import DistantEngine, Truth, truth
from tests.server.ledgered import Ledgered, ledgered
from tests.server.serving import Line, counted

CHAINS = [Chain("think about it\n" * n, f"It is {n}.") for n in (1, 3, 9)]
STRATEGIES = st.sampled_from(sorted(Registry().strategies))
ASKED = st.fixed_dictionaries(
    {"strategy": STRATEGIES, "thinking_budget": st.integers(20, 300), "stream": st.booleans()},
    optional={"n": st.just(2), "seed": st.integers(0, 9), "max_completion_tokens": st.integers(30, 200)},
)
TOKEN = st.integers(0, 120)
"""Which token of a request something happens at."""
GONE = 1 << 30
"""The number of no process."""


@dataclass
class Struck(DistantEngine):
    """Something happens when so many tokens were made."""

    at: int = -1
    then: Callable[[], None] = lambda: None

    async def wait(self, call: CallIdentity) -> None:
        if 0 <= self.at <= self.produced:
            self.at = -1
            self.then()
            await asyncio.sleep(0)
        await super().wait(call)

    def rest(self) -> None:
        """Nothing happens any more."""
        self.at, self.away_at, self.held = -1, {}, lambda: False

    def strike(self, token: int, then: Callable[[], None]) -> None:
        self.at, self.then = self.produced + token, then


@dataclass
class World:
    """One server, and the process of its model."""

    address: str
    made: Truth
    engine: Struck
    on: Ledgered
    runner: asyncio.Runner
    read: int = 0
    """Bytes of the truth that were compared."""
    known: set[str] = field(default_factory=set[str])
    """Requests that were compared."""
    requests: int = 0
    tokens: int = 0
    outcomes: Counter[str] = field(default_factory=Counter[str])

    @property
    def billed(self) -> float:
        kinds = ("reasoning", "visible")
        return sum(counted(self.on.app, f'ponder_billed_tokens_total{{kind="{kind}"}}') for kind in kinds)

    @property
    def drift(self) -> float:
        return counted(self.on.app, "ponder_meter_drift_tokens_total")

    def go(self, *lines: Line, beside: Callable[[], Awaitable[None]] | None = None) -> None:
        """Asks, all at the same time, and holds what comes of it against the truth."""
        before = self.billed, self.drift
        self.runner.run(self._asked(lines, beside))
        with self.made.file.open() as file:
            file.seek(self.read)
            produced = Counter(line.partition("/")[0] for line in file)
            self.read = file.tell()
        new = {name: row for name, row in rows(self.address).items() if name not in self.known}
        self.known |= new.keys()
        assert not produced.keys() - new.keys(), "an intent is lost"
        lost = {name: row for name, row in new.items() if row["outcome"] == "lost"}
        told = drift = 0
        for name, row in new.items():
            made, billed = produced[name], row["thinking"] + row["answer"]
            assert row["settled_ms"], row
            assert 0 <= row["discarded"] <= row["thinking"] <= row["budget"], row
            if name in lost:
                assert billed <= made, row
                drift += made - billed
            else:
                assert (billed, row["uncertain"]) == (made, 0), row
                told += billed
        assert self.billed - before[0] == told, new
        assert self.drift - before[1] == drift
        ledger = self.on.ledger
        assert (ledger.unsettled, ledger.reserved, counted(self.on.app, "ponder_inflight_requests")) == (0, 0, 0)
        self.requests += len(new)
        self.tokens += sum(produced.values())
        self.outcomes.update(row["outcome"] for row in new.values())

    async def _asked(self, lines: tuple[Line, ...], beside: Callable[[], Awaitable[None]] | None) -> None:
        async with asyncio.timeout(120):
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(line.call(self.on.app)) for line in lines]
                if beside is not None:
                    await beside()
                if asking:
                    await asyncio.wait(asking)
            self.engine.rest()
            # A row that was opened too late for its request is closed behind it.
            ledger = self.on.ledger
            writer = ledger._writer  # pyright: ignore[reportPrivateUsage]
            while ledger.away or ledger.unsettled or writer.pending:  # noqa: ASYNC110 - another thread does it
                await asyncio.sleep(0.005)


class Histories(RuleBasedStateMachine):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.engine = world, world.engine
        self.engine.rest()

    @rule(asked=st.lists(ASKED, min_size=1, max_size=3))
    def is_asked(self, asked: list[dict[str, Any]]) -> None:
        lines = [Line(**one) for one in asked]
        self.world.go(*lines)
        assert all(line.sent[0]["status"] in (200, 400) for line in lines)

    @rule(asked=ASKED, beside=st.lists(ASKED, max_size=1), token=TOKEN)
    def a_caller_hangs_up(self, asked: dict[str, Any], beside: list[dict[str, Any]], token: int) -> None:
        line = Line(**asked)
        self.engine.strike(token, line.gone.set)
        self.world.go(line, *(Line(**one) for one in beside))

    @rule(asked=ASKED, call=st.integers(0, 5), token=st.integers(0, 40))
    def the_model_dies(self, asked: dict[str, Any], call: int, token: int) -> None:
        self.engine.away_at = {self.engine.calls + call: token}
        self.world.go(Line(**asked))

    @rule(asked=ASKED, token=TOKEN, late=st.sampled_from([0.0, 0.03, 0.08]))
    def the_time_is_up(self, asked: dict[str, Any], token: int, late: float) -> None:
        """The model stands still from a token on, for longer than there is time or not."""

        def still() -> None:
            loop = asyncio.get_running_loop()
            end = loop.time() + late
            self.engine.held = lambda: loop.time() < end

        self.engine.strike(token, still)
        self.world.go(Line(**asked, timeout=0.05))

    @rule(asked=ASKED, token=TOKEN, behind=ASKED)
    def the_database_goes(self, asked: dict[str, Any], token: int, behind: dict[str, Any]) -> None:
        """In the middle of a request; who comes behind it is refused."""
        address, later = self.world.address, Line(**behind)
        gone = asyncio.Event()

        def goes() -> None:
            execute(address, "ALTER TABLE requests RENAME TO elsewhere")
            gone.set()

        first = Line(**asked)

        async def comes_back() -> None:
            ending = asyncio.create_task(first.call(self.world.on.app))
            await asyncio.wait([ending, reached := asyncio.create_task(gone.wait())], return_when="FIRST_COMPLETED")
            reached.cancel()
            if gone.is_set():
                await later.call(self.world.on.app)
                assert later.sent[0]["status"] in (503, 400)
                await asyncio.wait([ending])
                execute(address, "ALTER TABLE elsewhere RENAME TO requests")
            else:
                await asyncio.wait([ending])

        self.engine.strike(token, goes)
        self.world.go(beside=comes_back)
        assert first.sent[0]["status"] in (200, 400)

    @rule(asked=ASKED, token=TOKEN)
    def the_server_is_taken_for_dead(self, asked: dict[str, Any], token: int) -> None:
        """Another one settles the request, which goes on all the same."""
        address, reached, holds = self.world.address, asyncio.Event(), [False]

        def stands() -> None:
            holds[0] = True
            reached.set()

        async def other() -> None:
            ending = asyncio.create_task(line.call(self.world.on.app))
            await asyncio.wait([ending, there := asyncio.create_task(reached.wait())], return_when="FIRST_COMPLETED")
            there.cancel()
            if reached.is_set():
                execute(address, "UPDATE servers SET pid = :gone WHERE ended_ms IS NULL", gone=GONE)
                assert len(await recovered(address)) == 1
                holds[0] = False
            await asyncio.wait([ending])

        line = Line(**asked)
        self.engine.held = lambda: holds[0]
        self.engine.strike(token, stands)
        self.world.go(beside=other)
        assert line.sent[0]["status"] in (200, 400)


@asynccontextmanager
async def served(address: str, engine: Struck) -> AsyncGenerator[Ledgered]:
    rewards = ScriptedRewards(lambda line: len(line) / 100)
    async with ledgered(engine, address, checkpoint=64, reward_model=rewards, lengths=Lengths(20, 60)) as on:
        yield on


@pytest.mark.parametrize(
    ("histories", "steps"),
    [(6, 10), pytest.param(60, 25, marks=[pytest.mark.soak, pytest.mark.timeout(14_400)])],
)
def test_after_any_history_the_ledger_has_what_was_made(
    tmp_path: Path, histories: int, steps: int, record_property: Callable[[str, object], None]
) -> None:
    address = f"sqlite:///{tmp_path}/ledger.db"
    with truth(tmp_path) as made, asyncio.Runner() as runner:
        engine = Struck(always(*CHAINS), socket=made.socket)
        serving = served(address, engine)
        world = World(address, made, engine, runner.run(serving.__aenter__()), runner)
        factory: Any = lambda: Histories(world)  # noqa: E731 (hypothesis takes one, whatever its types say)
        run_state_machine_as_test(
            factory,
            settings=settings(
                max_examples=histories,
                stateful_step_count=steps,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
            ),
        )
        runner.run(serving.__aexit__(None, None, None))
    assert {"answered", "disconnected", "lost"} <= world.outcomes.keys()
    record_property("requests", world.requests)
    record_property("tokens", world.tokens)
    record_property("outcomes", dict(world.outcomes))
