"""The verbs of a run, one by one, on scripted engines."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Grammar, Sampling
from ponder.compute.errors import DeadlinePassed, EngineError, RequestError
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Selection
from ponder.compute.text import Candidate, Hidden, Message, Prompt
from ponder.testing import CARD, Chain, ScriptedEngine, always, in_virtual_time

BUDGET = Budget(1000, 100)
PROMPT = Prompt((Message("user", "How many?"),))


@dataclass
class Asked:
    """One request, its outcome and what was heard."""

    engine: ScriptedEngine
    spending: Spending
    streamed: list[str]
    outcome: Outcome


def ask(
    strategy: Callable[[Run], Awaitable[Candidate]],
    engine: ScriptedEngine,
    budget: Budget = BUDGET,
    *,
    timeout: float | None = None,
    **sampling: Any,
) -> Asked:
    streamed: list[str] = []

    async def hear(delta: Delta) -> None:
        streamed.append(delta.text)

    class Given:
        async def __call__(self, run: Run) -> Candidate:
            return await strategy(run)

    plan = Plan(PROMPT, Selection("given", Given()), budget, Sampling(0, 0, **sampling), timeout=timeout)
    spending = Spending(budget)
    running = execute(plan, Resources(engine, Lengths(20, 40)), spending, hear)
    outcome = asyncio.run(running) if timeout is None else in_virtual_time(running)
    return Asked(engine, spending, streamed, outcome)


async def first_of_many(run: Run) -> Candidate:
    async with run.sampling(8) as arriving:
        async for candidate in arriving:
            return candidate
    raise AssertionError("nothing arrived")


async def one_of_two(run: Run) -> Candidate:
    return (await run.sample(2))[0]


async def stream(run: Run) -> Candidate:
    return await run.stream()


def test_leaving_a_sampling_block_stops_the_rest_at_the_engine() -> None:
    chains = [Chain("so " * (5 + 100 * i), "7") for i in range(8)]
    asked = ask(first_of_many, ScriptedEngine(always(*chains)), Budget(10_000, 100))
    assert asked.engine.running == 0
    assert asked.outcome.stopped_by == "early_agreement"
    assert (asked.outcome.samples, asked.outcome.samples_requested) == (1, 8)
    assert asked.outcome.spent.generated == asked.engine.produced


def test_a_chosen_answer_cut_at_its_share_is_completed_from_the_allowance() -> None:
    asked = ask(one_of_two, ScriptedEngine(always(Chain("so", "seven " * 15))), Budget(200, 100))
    assert asked.outcome.answer.text == "seven " * 15
    assert asked.outcome.complete
    assert "".join(asked.streamed) == asked.outcome.answer.text


def test_spoken_text_is_heard_as_it_is_written_and_other_text_at_the_end() -> None:
    chain = Chain("so", "seven")
    assert ask(stream, ScriptedEngine(always(chain))).streamed == list("seven")
    assert ask(one_of_two, ScriptedEngine(always(chain))).streamed == ["seven"]


def test_a_question_of_our_own_is_not_bound_by_the_callers_wishes() -> None:
    async def critique(run: Run) -> Candidate:
        await run.ask(run.prompt.then(Message("user", "Is that so?")), "critique")
        return await run.stream()

    wishes: dict[str, Any] = {"stop": ("x",), "grammar": Grammar(), "logprobs": 2, "logit_bias": ((1, 5.0),)}
    own, callers = ask(critique, ScriptedEngine(always(Chain("so", "7"))), **wishes).engine.samplings
    assert (own.stop, own.grammar, own.logprobs, own.logit_bias) == ((), None, None, ())
    assert (callers.stop, callers.grammar, callers.logprobs) == (("x",), Grammar(), 2)


def test_a_prompt_that_outgrows_the_context_ends_in_the_best_so_far() -> None:
    async def grows(run: Run) -> Candidate:
        draft = (await run.sample(2))[0]
        await run.sample(1, run.prompt.then(Message("user", "long " * 400)))
        return draft

    engine = ScriptedEngine(always(Chain("so", "7")), replace(CARD, context=1000))
    asked = ask(grows, engine)
    assert asked.outcome.answer.text == "7"
    assert asked.outcome.stopped_by == "budget"


def test_a_chain_never_asks_for_more_than_the_context_has() -> None:
    engine = ScriptedEngine(always(Chain("so " * 5000, "7")), replace(CARD, context=500))
    ask(stream, engine, Budget(100_000, 100))
    asked = engine.samplings[0]
    assert asked.thinking + asked.answer + engine.length(PROMPT) <= 500


async def in_steps(run: Run) -> Candidate:
    chains = [run.blank]
    for _ in range(40):
        chains = await run.extend(chains, until=64) or chains
    return chains[0]


async def at_once(run: Run) -> Candidate:
    return (await run.sample(2))[0]


@pytest.mark.parametrize("strategy", [in_steps, at_once])
def test_a_thought_that_would_fill_the_context_leaves_the_answer_what_its_limit_allows(
    strategy: Callable[[Run], Awaitable[Candidate]],
) -> None:
    engine = ScriptedEngine(always(Chain("so " * 5000, "7 " * 140)), replace(CARD, context=1000))
    asked = ask(strategy, engine, Budget(6000, 300))
    assert asked.outcome.answer.text.split() == ["7"] * 140
    assert asked.outcome.complete
    assert all(s.thinking <= 1000 - 300 for s in engine.samplings)


def test_each_sample_has_a_seed_of_its_own_and_the_same_each_time() -> None:
    def seeds() -> list[int | None]:
        return [s.seed for s in ask(one_of_two, ScriptedEngine(always(Chain("so", "7"))), seed=5).engine.samplings]

    assert seeds() == seeds()
    assert len(set(seeds())) == 2


def test_time_up_with_nothing_written_is_an_error() -> None:
    engine = ScriptedEngine(always(Chain("so " * 100, "7")), delay=60)
    with pytest.raises(DeadlinePassed):
        ask(stream, engine, timeout=0.2)
    assert engine.running == 0


def test_an_answer_cut_by_time_is_what_was_heard() -> None:
    asked = ask(stream, ScriptedEngine(always(Chain("", "seven " * 90)), delay=0.005), Budget(100, 1000), timeout=0.4)
    assert asked.outcome.stopped_by == "deadline"
    assert not asked.outcome.complete
    assert asked.outcome.answer.text
    assert "".join(asked.streamed) == asked.outcome.answer.text


def test_an_error_in_a_task_comes_out_as_itself() -> None:
    class Refuses(ScriptedEngine):
        def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
            raise RequestError("the template refuses it", param="messages")

    with pytest.raises(RequestError, match="the template refuses it"):
        ask(one_of_two, Refuses(always(Chain("so", "7"))))
    with pytest.raises(EngineError):
        ask(one_of_two, ScriptedEngine(always(Chain("so " * 20, "7")), fail_at=0))


def test_a_ledger_has_numbers_and_no_text() -> None:
    spending = ask(one_of_two, ScriptedEngine(always(Chain("thinking about it", "seven")))).spending
    assert [reservation.purpose for reservation in spending.reservations] == ["sample", "sample"]
    assert spending.chosen == 0
    assert spending.texts == {}
    told = [
        value for reservation in spending.reservations for value in vars(reservation).values() if value is not spending
    ]
    assert all(isinstance(value, int | float | str | None) for value in told)
    assert not {"thinking about it", "seven"} & set(map(str, told))


def test_a_hidden_value_has_no_form_in_which_it_could_leak() -> None:
    hidden = Hidden("secret")
    for form in (repr(hidden), str(hidden), f"{hidden}", f"{hidden:>20}", repr([hidden])):
        assert "secret" not in form
    with pytest.raises(TypeError):
        pickle.dumps(hidden)
    with pytest.raises(TypeError):
        json.dumps(hidden)
    assert Hidden("secret") != hidden
    assert not hasattr(hidden, "__dict__")


def test_chains_without_a_thought_say_nothing_of_lengths_and_those_closed_by_force_that_they_are_longer() -> None:
    lengths = Lengths(60, 110)

    def asked(budget: Budget, chain: Chain) -> None:
        plan = Plan(PROMPT, Selection("speak", Speaks()), budget, Sampling(0, 0))
        resources = Resources(ScriptedEngine(always(chain)), lengths)
        asyncio.run(execute(plan, resources, Spending(budget), deaf))

    for _ in range(100):
        asked(Budget(0, 100), Chain("so", "7"))
    assert (lengths.p50, lengths.p90) == (60, 110)
    for _ in range(100):
        asked(Budget(5, 100), Chain("so " * 20, "7"))
    assert lengths.p50 >= 60
    assert lengths.answer == 1
    for _ in range(100):
        asked(Budget(1000, 100), Chain("so " * 100, "7"))
    assert lengths.p50 == 302


def test_an_answer_that_is_cut_is_learned_from() -> None:
    lengths = Lengths(60, 110, 4)
    plan = Plan(PROMPT, Selection("speak", Speaks()), Budget(1000, 20), Sampling(0, 0))
    resources = Resources(ScriptedEngine(always(Chain("so", "seven " * 50))), lengths)
    for _ in range(50):
        asyncio.run(execute(plan, resources, Spending(plan.budget), deaf))
    assert lengths.answer > 20


class Speaks:
    async def __call__(self, run: Run) -> Candidate:
        return await run.stream()


async def deaf(_: Delta) -> None:
    return


def test_a_question_too_long_for_the_context_is_an_error_of_whoever_asks_it() -> None:
    async def judges(run: Run) -> Candidate:
        candidate = (await run.sample(2))[0]
        with pytest.raises(EngineError, match="does not fit"):
            await run.ask(run.prompt.then(Message("user", "long " * 400)), "judge")
        return candidate

    assert ask(judges, ScriptedEngine(always(Chain("so", "7")), replace(CARD, context=1000))).outcome.complete


def test_seeds_of_continuations_follow_from_the_chain_they_go_on_from() -> None:
    def seeds(order: tuple[int, ...]) -> dict[str, set[int | None]]:
        async def searches(run: Run) -> Candidate:
            beams = await run.extend([run.blank], 2, until=20)
            for i in order:
                await run.extend([beams[i]], 2, until=20)
            return beams[0]

        chains = [Chain(f"{name}\n{name} goes on\n", "7") for name in "ab"]
        engine = ScriptedEngine(always(*chains))
        ask(searches, engine, seed=5)
        found: dict[str, set[int | None]] = {}
        for call, sampling in enumerate(engine.samplings[2:6]):
            found.setdefault("ab"[order[call // 2]], set()).add(sampling.seed)
        return found

    assert seeds((0, 1)) == seeds((1, 0))
    first, second = seeds((0, 1)).values()
    assert len(first | second) == 4
