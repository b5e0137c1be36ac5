"""What the model made is what is billed, whatever happens: random requests, ends and faults, against the truth file of
a model in another process."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ponder.compute.lengths import Lengths
from ponder.server.registry import Registry
from ponder.testing import Chain, ScriptedRewards, always
from tests.metering.ledgers import execute
from tests.metering.truth import DistantEngine, Truth, truth
from tests.server.ledgered import Ledgered, ledgered
from tests.server.serving import Line, counted

CHAINS = [Chain("think\nof it\n" * n, f"It is {n}.") for n in (1, 2, 4)]


@dataclass(frozen=True)
class Wish:
    """A request, and what happens to it."""

    strategy: str
    budget: int
    stream: bool
    n: int
    timeout: float
    leaves: float | None
    """After so many seconds the caller hangs up."""

    def line(self) -> Line:
        fields: dict[str, Any] = {"strategy": self.strategy, "thinking_budget": self.budget, "n": self.n}
        return Line(**fields, stream=self.stream, timeout=self.timeout)


WISHES = st.builds(
    Wish,
    strategy=st.sampled_from(sorted(Registry().strategies)),
    budget=st.integers(0, 200),
    stream=st.booleans(),
    n=st.integers(1, 2),
    timeout=st.sampled_from([60.0, 60.0, 0.02]),
    leaves=st.none() | st.floats(0, 0.05),
)


class Meter(RuleBasedStateMachine):
    """A server and its ledger, and everything that can happen to a request."""

    made: Truth
    folder: Path
    count = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).count += 1
        self.address = f"sqlite:///{self.folder}/ledger{self.count}.db"
        self.engine = DistantEngine(always(*CHAINS), socket=self.made.socket)
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.requests: set[str] = set()
        self.earlier = 0.0
        self.on: Ledgered = self.runner.run(self.begin())

    async def begin(self) -> Ledgered:
        rewards = ScriptedRewards(lambda line: len(line) / 100)
        on = ledgered(self.engine, self.address, reward_model=rewards, lengths=Lengths(15, 40), checkpoint=16)
        return await self.stack.enter_async_context(on)

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=3))
    def requests_come(self, wishes: list[Wish]) -> None:
        self.runner.run(self.carry_out(wishes))

    @rule(wishes=st.lists(WISHES, min_size=2, max_size=3), after=st.integers(0, 60))
    def the_model_goes_away(self, wishes: list[Wish], after: int) -> None:
        self.engine.away_at = {self.engine.calls: after}
        self.runner.run(self.carry_out(wishes))

    @rule(wish=WISHES)
    def the_model_fails(self, wish: Wish) -> None:
        self.engine.fail_at = self.engine.calls
        self.runner.run(self.carry_out([wish]))

    @rule(wish=WISHES)
    def the_ledger_is_away_for_a_while(self, wish: Wish) -> None:
        self.runner.run(self.away(wish))

    @rule()
    def the_server_is_started_anew(self) -> None:
        self.earlier += self.billed
        self.runner.run(self.stack.aclose())
        self.on = self.runner.run(self.begin())

    async def away(self, wish: Wish) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.carry_out([wish]))
            await asyncio.sleep(0.01)
            execute(self.address, "ALTER TABLE requests RENAME TO elsewhere")
            await self.carry_out([wish])
            execute(self.address, "ALTER TABLE elsewhere RENAME TO requests")

    async def carry_out(self, wishes: list[Wish]) -> None:
        async with asyncio.TaskGroup() as group:
            for wish in wishes:
                group.create_task(self.one(wish))

    async def written(self) -> None:
        """All that is on its way to the database is there."""
        writer = self.on.ledger._writer  # pyright: ignore[reportPrivateUsage]
        async with asyncio.timeout(30):
            while writer.pending or writer.away or writer.unsettled:  # noqa: ASYNC110 - another thread does it
                await asyncio.sleep(0.005)

    async def one(self, wish: Wish) -> None:
        line = wish.line()
        if wish.leaves is not None:
            asyncio.get_running_loop().call_later(wish.leaves, line.gone.set)
        await line.call(self.on.app)
        for message in line.sent:
            for name, value in message.get("headers", ()):
                if name == b"x-request-id" and message["status"] == 200:
                    self.requests.add(value.decode())

    @property
    def billed(self) -> float:
        kinds = ("reasoning", "visible")
        return sum(counted(self.on.app, f'ponder_billed_tokens_total{{kind="{kind}"}}') for kind in kinds)

    @invariant()
    def what_was_made_is_what_is_billed(self) -> None:
        self.runner.run(self.written())
        rows, made = self.on.rows, self.made.made()
        assert self.requests <= rows.keys()
        for name, row in rows.items():
            assert row["thinking"] + row["answer"] == made[name], row
            assert row["thinking"] <= row["budget"], row
            assert row["settled_ms"] is not None
            assert row["uncertain"] == row["wasted"] == 0
        total = sum(row["thinking"] + row["answer"] for row in rows.values())
        assert total == self.earlier + self.billed
        assert (self.on.ledger.unsettled, self.on.ledger.reserved, self.engine.running) == (0, 0, 0)


def test_what_was_made_is_what_is_billed_whatever_happens(tmp_path: Path) -> None:
    with truth(tmp_path) as made:
        Meter.made, Meter.folder = made, tmp_path
        slow = settings(
            max_examples=6,
            stateful_step_count=6,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            database=None,
        )
        run_state_machine_as_test(Meter, settings=slow)  # pyright: ignore[reportUnknownMemberType]
