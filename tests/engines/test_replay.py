"""Recorded samples through the real strategies: limits, seeds, continuation, and what is learned of lengths."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from statistics import quantiles
from typing import Any

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import EngineError
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection
from ponder.compute.text import Candidate, Message, Prompt, Raw
from ponder.compute.transcript import Transcript
from ponder.engines.replay import RecordedRewards, ReplayEngine
from ponder.engines.samples import Question, Sample, read
from ponder.strategies import STRATEGIES
from ponder.testing.virtual_time import VirtualTimeLoop
from ponder.verifiers import VERIFIERS

REPLAYED = [name for name in STRATEGIES if name != "budget_forcing"]
"""What a recorded chain would have said behind its end nobody knows."""

ONE = [Question("one", frozenset({0}), tuple(Sample(i % 2, 1000 + 100 * i) for i in range(8)))]


def on_virtual_time(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


def engine_of(questions: list[Question] = ONE, **settings: Any) -> ReplayEngine:
    return ReplayEngine(questions, typical_chain=(1000, 2000), answer_tokens=100, **settings)


async def write(
    engine: ReplayEngine, prompt: Prompt, begun: Candidate | None = None, **limits: Any
) -> tuple[Candidate, float]:
    """One chain, and how long it took."""
    reservation = Spending(Budget(1 << 30, 1 << 30)).reserve("test", thinking=1 << 20, answer=1 << 20)
    transcript = Transcript(reservation, prompt, begun)
    since = asyncio.get_running_loop().time()
    sampling = replace(Sampling(1 << 20, 1 << 20), **limits)
    async for _ in engine.generate(prompt, sampling, transcript):
        pass
    return transcript.candidate(), asyncio.get_running_loop().time() - since


def test_time_jumps_to_whatever_is_next_and_threads_are_waited_for() -> None:
    async def work() -> tuple[float, list[int]]:
        order: list[int] = []

        async def after(seconds: int) -> None:
            await asyncio.sleep(seconds)
            order.append(seconds)

        async with asyncio.TaskGroup() as group:
            for seconds in (10**9, 5, 3_600):
                group.create_task(after(seconds))
        assert await asyncio.get_running_loop().run_in_executor(None, sum, (1, 2)) == 3
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time(), order

    assert on_virtual_time(work()) == (10**9 + 60, [5, 3_600, 10**9])


def test_a_pool_is_read_and_equal_answers_have_equal_numbers() -> None:
    lines = [
        {"id": 7, "gold": "1/2", "samples": [["0.5", 400], ["3", 500], ["", 600], ["\\frac{1}{2}", 1]]},
        {"id": "b", "gold_groups": [1], "samples": [{"group": 1, "step_scores": [0.5, 1]}, {"group": 0, "tokens": 9}]},
    ]
    first, second = asyncio.run(read("\n".join(json.dumps(line) for line in lines)))
    answers = [sample.answer for sample in first.samples]
    assert first.right == {answers[0]} == {answers[3]}
    assert answers[2] is None
    assert answers[1] not in (answers[0], None)
    assert [sample.tokens for sample in second.samples] == [128, 9]
    assert second.right == {1}
    with pytest.raises(ValueError, match="line 2"):
        asyncio.run(read(json.dumps(lines[1]) + '\n{"id": 1}'))


def test_every_sample_is_drawn_once_before_any_comes_again_and_a_seed_picks_the_same() -> None:
    async def drawn(seed: int | None, draw: int) -> list[int]:
        engine = engine_of()
        prompt = engine.ask(0, draw)
        return [(await write(engine, prompt, seed=seed and seed + i))[0].tokens for i in range(8)]

    for seed in (None, 3):
        tokens = on_virtual_time(drawn(seed, 0))
        assert sorted(tokens) == [1000 + 100 * i for i in range(8)]
        assert tokens == on_virtual_time(drawn(seed, 0))
        assert tokens != on_virtual_time(drawn(seed, 1))


def test_a_token_takes_one_step_and_every_limit_holds() -> None:
    async def work() -> None:
        engine = engine_of([Question("one", frozenset({0}), (Sample(0, 1000),))])
        prompt = engine.ask(0, 0)
        whole, steps = await write(engine, prompt)
        assert (whole.hidden, whole.visible, whole.ending, whole.forced, steps) == (900, 100, "finished", False, 1000)
        assert engine.right(prompt, whole.text)
        forced, steps = await write(engine, prompt, thinking=300)
        assert (forced.hidden, forced.visible, forced.ending, forced.forced, steps) == (300, 100, "finished", True, 400)
        assert not engine.right(prompt, forced.text)
        cut, _ = await write(engine, prompt, answer=40)
        assert (cut.hidden, cut.visible, cut.ending) == (900, 40, "length")
        assert not engine.right(prompt, cut.text)
        on, steps = await write(engine, prompt, cut)
        assert (on.hidden, on.visible, on.ending, steps) == (0, 60, "finished", 60)
        assert engine.right(prompt, on.text)
        both, _ = await write(engine, prompt, total=950)
        assert (both.hidden, both.visible, both.ending) == (900, 50, "length")
        with pytest.raises(EngineError):
            await write(engine, prompt, logprobs=1)
        with pytest.raises(EngineError):
            await write(engine, Prompt((Message("user", "else"),)))

    on_virtual_time(work())


def test_a_chain_stopped_in_the_middle_has_what_there_was_time_for_and_is_gone_on_with() -> None:
    async def work() -> None:
        engine = engine_of([Question("one", frozenset({0}), (Sample(0, 1000),))])
        prompt = engine.ask(0, 0)
        transcript = Transcript(Spending(Budget(5000, 500)).reserve("test", thinking=4000, answer=500), prompt)

        async def stopped() -> None:
            async with asyncio.timeout(250):
                async for _ in engine.generate(prompt, Sampling(4000, 500), transcript):
                    pass

        with pytest.raises(TimeoutError):
            await stopped()
        half = transcript.candidate()
        assert (half.hidden, half.visible, half.ending, engine.produced) == (250, 0, "aborted", 250)
        rest, steps = await write(engine, prompt, half)
        assert (rest.hidden, rest.visible, steps) == (650, 100, 750)
        assert engine.right(prompt, rest.text)

    on_virtual_time(work())


def unread(tokens: int, cached: int) -> None:
    """Nobody counts what the reward model reads."""


def test_steps_are_where_their_scores_were_recorded() -> None:
    async def work() -> None:
        engine = engine_of([Question("one", frozenset({0}), (Sample(0, 1000, (0.9, 0.8, 0.5)),))])
        prompt = engine.ask(0, 0)
        step, _ = await write(engine, prompt, until="\n\n", answer=0)
        assert (step.hidden, step.ending, step.thinking) == (300, "step", True)
        short, _ = await write(engine, prompt, step, until="\n\n", thinking=100, answer=0)
        assert (short.hidden, short.ending, short.thinking) == (100, "length", True)
        rewards = await RecordedRewards(engine).reward(prompt, [step, short], read=unread)
        assert [reward.steps for reward in rewards] == [(0.9,), (0.9,)]

    on_virtual_time(work())


# -- what it is for ---------------------------------------------------------------------------------------------------


async def deaf(_: Delta) -> None:
    return


async def ask(
    engine: ReplayEngine, lengths: Lengths, name: str, cap: int, question: int, draw: int, seed: int | None
) -> tuple[bool, Outcome]:
    plan = Plan(
        prompt=engine.ask(question, draw),
        strategy=Selection(name, STRATEGIES[name]()),
        budget=Budget(cap, 400),
        sampling=Sampling(0, 0, seed=seed),
        verifier=Selection("agreement", VERIFIERS["agreement"]()),
    )
    spending = Spending(plan.budget)
    outcome = await execute(plan, Resources(engine, lengths), spending, deaf)
    assert outcome.spent.hidden <= cap
    assert not spending.overdrawn
    assert engine.running == 0
    return engine.right(plan.prompt, outcome.answer.text), outcome


def hard_and_easy(questions: int, answers: float = 0.7) -> list[Question]:
    """Questions of different difficulty: the harder, the longer."""
    chance = random.Random(4)
    made: list[Question] = []
    for i in range(questions):
        median = 8_000 * chance.lognormvariate(0, 0.8)
        samples = tuple(
            Sample(int(chance.random() > answers), round(median * chance.lognormvariate(0, 0.6))) for _ in range(40)
        )
        made.append(Question(str(i), frozenset({0}), samples))
    return made


@pytest.mark.soak
@pytest.mark.parametrize("prior", [(8_000, 28_000), (1_000, 3_500)], ids=["right", "low"])
def test_lengths_are_learned_within_a_tenth_from_two_thousand_requests_of_all_sorts(prior: tuple[int, int]) -> None:
    questions = hard_and_easy(400)
    engine = ReplayEngine(questions, typical_chain=prior, answer_tokens=300)
    lengths = Lengths(*prior)
    chance = random.Random(1)

    async def two_thousand() -> None:
        for request in range(2000):
            name = chance.choice(("direct", "majority_vote", "auto"))
            cap = chance.choice((4_000, 16_000, 64_000, 256_000))
            await ask(engine, lengths, name, cap, request % len(questions), request, None)

    on_virtual_time(two_thousand())
    cuts = quantiles((sample.tokens for question in questions for sample in question.samples), n=10)
    assert abs(lengths.p50 / cuts[4] - 1) < 0.1
    assert abs(lengths.p90 / cuts[8] - 1) < 0.1


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("name", ["auto", "majority_vote", "best_of_n"])
@pytest.mark.parametrize(
    "caps", [(8_000, 128_000), pytest.param((16_000, 32_000, 64_000), marks=pytest.mark.soak)], ids=["ends", "between"]
)
def test_a_vote_is_no_worse_than_one_chain_at_any_budget_though_the_prior_is_eight_times_too_low(
    name: str, seeded: bool, caps: Sequence[int]
) -> None:
    questions = hard_and_easy(120, answers=0.8)
    for cap in caps:
        right = dict.fromkeys(("direct", name), 0)

        async def asked(one: str, cap: int = cap, right: dict[str, int] = right) -> None:
            engine = ReplayEngine(questions, typical_chain=(1_000, 3_500), answer_tokens=300)
            lengths = Lengths(1_000, 3_500)
            for i in range(len(questions)):
                right[one] += (await ask(engine, lengths, one, cap, i, 0, i + 1 if seeded else None))[0]

        for one in right:
            on_virtual_time(asked(one))
        assert right[name] >= right["direct"] - 2, f"at {cap}"


# -- all strategies, and deadlines ------------------------------------------------------------------------------------

TOKEN = 0.02
"""Seconds for a token of each chain."""
JUDGED = [
    *((name, "prm") for name in REPLAYED),
    *((name, "agreement") for name in REPLAYED),
    *((name, "rules") for name in ("best_of_n", "revision", "auto")),
]
"""Verifiers that need neither the likelihood of tokens nor the model as a judge, which pools do not hold, nor a
process, which knows no virtual time."""


def with_steps() -> list[Question]:
    """A question whose right chains have better steps, and come second most."""
    chance = random.Random(7)

    def sample(i: int) -> Sample:
        right = i % 5 >= 3
        steps = tuple(chance.uniform(0.7, 1.0) if right else chance.uniform(0.1, 0.6) for _ in range(6))
        return Sample(0 if right else 1, 600 + 40 * i, steps)

    return [Question("steps", frozenset({0}), tuple(map(sample, range(20))))]


def judged(
    name: str, verifier: str, *, timeout: float | None = None, seed: int | None = None
) -> tuple[Outcome, Spending, ReplayEngine, float]:
    """A request over the pool, and how long it took."""

    async def one() -> tuple[Outcome, Spending, ReplayEngine, float]:
        engine = ReplayEngine(with_steps(), typical_chain=(800, 1400), answer_tokens=60, token_seconds=TOKEN)
        made = VERIFIERS[verifier](**({"number": 0} if verifier == "rules" else {}))
        plan = Plan(
            prompt=engine.ask(0, 0),
            strategy=Selection(name, STRATEGIES[name]()),
            budget=Budget(40_000, 100),
            sampling=Sampling(0, 0, seed=seed),
            verifier=Selection(verifier, made),
            fallback=Selection("agreement", VERIFIERS["agreement"]()),
            timeout=timeout,
        )
        spending = Spending(plan.budget)
        resources = Resources(engine, Lengths(*engine.card.typical_chain), RecordedRewards(engine))
        outcome = await execute(plan, resources, spending, deaf)
        return outcome, spending, engine, asyncio.get_running_loop().time()

    return on_virtual_time(one())


@pytest.mark.parametrize(("name", "verifier"), JUDGED)
def test_every_strategy_runs_over_a_pool_by_the_verifiers_it_allows(name: str, verifier: str) -> None:
    outcomes: list[Outcome] = []
    for seed in (None, 3, 3):
        outcome, spending, engine, _ = judged(name, verifier, seed=seed)
        assert outcome.complete
        assert not outcome.degraded
        assert spending.generated == engine.produced
        assert not spending.overdrawn
        assert engine.running == 0
        outcomes.append(outcome)
    _, once, again = outcomes
    assert (again.answer, again.spent, again.stopped_by) == (once.answer, once.spent, once.stopped_by)


@pytest.mark.parametrize("name", ["best_of_n", "beam_search", "dvts"])
def test_a_verifier_that_tells_right_from_wrong_finds_the_right_answer(name: str) -> None:
    outcome, _, engine, _ = judged(name, "prm")
    assert engine.right(engine.ask(0, 0), outcome.answer.text)


@pytest.mark.parametrize("name", REPLAYED)
@pytest.mark.parametrize("timeout", [4.0, 15.0, 22.0])
def test_a_deadline_strikes_in_virtual_time_and_there_is_an_answer_before_it(name: str, timeout: float) -> None:
    unhurried, *_, whole = judged(name, "prm")
    outcome, spending, engine, took = judged(name, "prm", timeout=timeout)
    assert took <= timeout
    assert outcome.answer.text
    assert spending.generated == engine.produced
    assert not spending.overdrawn
    assert engine.running == 0
    if whole > timeout:
        assert outcome.stopped_by == "deadline"
        assert outcome.spent.generated < unhurried.spent.generated
    else:
        assert outcome.answer == unhurried.answer


def test_a_chain_stopped_by_a_deadline_has_the_tokens_there_was_time_for() -> None:
    """Nine tenths of it are for the thought, the rest is for the answer, which it cuts."""
    outcome, spending, _, took = judged("direct", "agreement", timeout=4.0)
    thought, answer = spending.reservations
    assert (thought.tokens, thought.ending) == (round(3.6 / TOKEN), "aborted")
    assert (answer.purpose, answer.visible, answer.ending) == ("answer", round(0.4 / TOKEN), "aborted")
    assert (outcome.stopped_by, outcome.complete, took) == ("deadline", False, pytest.approx(4.0))


def test_a_raw_text_is_none_of_its_questions() -> None:
    with pytest.raises(EngineError, match="none of the questions of the pool"):
        on_virtual_time(write(engine_of(), Prompt((), raw=Raw("So"))))
