"""Each call to a model is named: which request, which place in its tree, what for."""

from __future__ import annotations

import asyncio

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.execute import execute
from ponder.compute.identity import CallIdentity
from ponder.compute.lengths import Lengths
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection
from ponder.compute.text import Message, Prompt
from ponder.strategies import STRATEGIES
from ponder.testing import Chain, JudgingEngine, ScriptedRewards, always
from ponder.verifiers import VERIFIERS

CHAINS = tuple(Chain(f"line {i}\nmore\n" * (i + 1), f"It is {i}.") for i in range(4))
SEVERAL = (
    *("majority_vote", "best_of_n", "revision", "beam_search", "dvts", "particle_filter", "auto"),
    *("short_m_at_k", "confidence_vote", "universal_self_consistency", "deep_think", "rebase"),
)


def asked(name: str, verifier: str, answer: int = 0, seed: int | None = None) -> tuple[JudgingEngine, ScriptedRewards]:
    async def on_delta(_: Delta) -> None: ...

    plan = Plan(
        Prompt((Message("user", "How many?"),)),
        Selection(name, STRATEGIES[name]()),
        Budget(2000, 100),
        Sampling(0, 0, seed=seed),
        Selection(verifier, VERIFIERS[verifier]()),
    )
    engine, rewards = JudgingEngine(always(*CHAINS), delay=0.0), ScriptedRewards(lambda line: 0.5)
    spending = Spending(plan.budget, "req_1", answer)
    asyncio.run(execute(plan, Resources(engine, Lengths(20, 40), rewards), spending, on_delta))
    assert len(engine.identities) == engine.calls
    return engine, rewards


def test_it_reads_as_one_word() -> None:
    assert str(CallIdentity("req_5f0c", (0, 3), "sample")) == "req_5f0c/0.3/sample"


def test_runs_outside_a_server_have_names_of_their_own() -> None:
    runs = [Spending(Budget(100, 100)) for _ in range(2)]
    one, other = (str(run.reserve("sample", thinking=1, answer=1).identity) for run in runs)
    assert one != other
    assert one.startswith("local_")
    assert one.endswith("/0.0/sample")


def test_a_single_chain_is_the_first_of_its_answer() -> None:
    engine, _ = asked("direct", "agreement", answer=2)
    assert engine.identities == [CallIdentity("req_1", (2, 0), "stream")]


def test_samples_are_children_of_the_answer_and_a_judge_s_questions_say_so() -> None:
    engine, _ = asked("best_of_n", "judge")
    samples = [call.path for call in engine.identities if call.purpose == "sample"]
    assert sorted(samples) == [(0, i) for i in range(8)]
    assert {call.purpose for call in engine.identities} == {"sample", "judge"}


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("name", SEVERAL)
def test_no_two_calls_have_one_name_and_each_continues_a_chain_that_was_begun(name: str, seed: int | None) -> None:
    engine, rewards = asked(name, "prm", answer=1, seed=seed)
    paths = [call.path for call in engine.identities]
    assert len(set(paths)) == len(paths) > 1
    for path in paths:
        assert path[0] == 1
        assert len(path) == 2 or path[:-1] in paths
        # Children are counted: before the third there were two.
        assert path[-1] == 0 or (*path[:-1], path[-1] - 1) in paths
    assert all(call.request == "req_1" for call in [*engine.identities, *rewards.identities])
    assert {call.purpose for call in rewards.identities} <= {"reward"}
    assert {call.path for call in rewards.identities} <= set(paths)
