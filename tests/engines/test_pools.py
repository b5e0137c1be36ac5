"""Pools are written and read back, a wrong line is named, and what was recorded beside answers is replayed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Selection
from ponder.compute.text import Candidate, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.pools import RecordedQuestion, RecordedSample, line
from ponder.engines.replay import ReplayEngine
from ponder.engines.samples import Question, Sample, read
from ponder.testing import in_virtual_time


def pool(*lines: dict[str, Any]) -> list[Question]:
    return asyncio.run(read("\n".join(json.dumps({"version": 1} | one) for one in lines)))


def test_what_is_written_is_read_back() -> None:
    sample = RecordedSample(
        answer="1/2",
        tokens=300,
        visible=20,
        text="So it is 1/2.",
        likelihood=(-0.5, -0.25),
        step_scores=(0.5, 1.0),
        probes=((100, None), (200, "0.5"), (250, "3")),
    )
    told = RecordedQuestion(
        id="a", question="How much?", answer="0.5", prompt_tokens=31, likelihood_window=150, samples=(sample,)
    )
    (question,) = asyncio.run(read(line(told)))
    assert (question.name, question.text, question.gold, question.prompt_tokens) == ("a", "How much?", "0.5", 31)
    (kept,) = question.samples
    assert (kept.tokens, kept.visible, kept.text, kept.steps) == (300, 20, "So it is 1/2.", (0.5, 1.0))
    assert (kept.likelihood, kept.window) == ((-0.5, -0.25), 150)
    (right,) = question.right
    none, before, other = (answer for _, answer in kept.probes)
    assert kept.answer == before == right
    assert none is None
    assert other not in (None, right)


def test_lines_of_one_question_are_one_question() -> None:
    first, second = pool(
        {"id": 7, "gold": 3, "question": "?", "samples": [{"answer": 3, "tokens": 10}]},
        {"id": "8", "answer": "x", "samples": []},
        {"id": "7", "samples": [{"text": "The answer is 4.", "tokens": 5}, {"answer": "", "tokens": 9}]},
    )
    assert [sample.tokens for sample in first.samples] == [10, 5, 9]
    assert [sample.answer in first.right for sample in first.samples] == [True, False, False]
    assert first.samples[2].answer is None
    assert (second.name, second.samples) == ("8", ())


def test_samples_may_say_themselves_that_they_are_right() -> None:
    good, bad = "def f(): return 1", "def f(): return 2"
    (question,) = pool(
        {"id": 1, "samples": [{"text": t, "right": t == good, "tokens": 9} for t in (good, bad, good)]},
    )
    one, two, three = (sample.answer for sample in question.samples)
    assert one == three != two
    assert question.right == {one}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"version": 2, "id": 1, "samples": []}', "version: Input should be 1"),
        ('{"version": 1, "samples": []}', "id: Field required"),
        ('{"version": 1, "id": 1, "samples": [{"answer": "1"}]}', r"samples\.0\.tokens: Field required"),
        ('{"version": 1, "id": 1, "samples": [{"tokens": 1}]}', r"samples\.0: a sample wants an answer or a text"),
        ('{"version": 1, "id": 1, "samples": [{"answer": "1", "tokens": 1, "visible": 2}]}', "cannot be visible"),
        ('{"version": 1, "id": 1, "samples": [{"answer": "1", "tokens": 1, "likelihood": [-1]}]}', "likelihood_window"),
        (
            '{"version": 1, "id": 1, "samples": [{"answer": "1", "tokens": 9, "probes": [[5, "1"], [4, "1"]]}]}',
            "rising",
        ),
        ('{"version": 1, "id": 1, "samples": [{"answer": "1", "tokens": 9, "step_scores": [2]}]}', r"step_scores\.0"),
        ('{"version": 1, "id": "a", "answer": "2", "samples": []}', "another answer on an earlier line"),
        ('{"id": 1}', "no field 'samples'"),
        ('{"id": 1, "gold": "1", "samples": [5]}', "line 2"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(wrong: str, why: str) -> None:
    whole = json.dumps({"version": 1, "id": "a", "answer": "1", "samples": [{"answer": "1", "tokens": 9}]})
    with pytest.raises(ValueError, match=f"line 2 of the pool: .*{why}|{why} of the pool"):
        asyncio.run(read(f"{whole}\n{wrong}\n"))


# -- replayed ---------------------------------------------------------------------------------------------------------

PROBED = Question(
    "probed",
    frozenset({0}),
    (Sample(0, 1000, visible=100, probes=((200, 1), (500, None), (600, 0)), likelihood=(-1.0, -2.0), window=500),),
)


def engine_of(question: Question = PROBED) -> ReplayEngine:
    return ReplayEngine([question], typical_chain=(1000, 2000))


async def write(engine: ReplayEngine, prompt: Prompt, thinking: int, **wishes: Any) -> Candidate:
    reservation = Spending(Budget(1 << 30, 1 << 30)).reserve("test", thinking=1 << 20, answer=1 << 20)
    transcript = Transcript(reservation, prompt)
    async for _ in engine.generate(prompt, Sampling(thinking, 1 << 20, **wishes), transcript):
        pass
    return transcript.candidate()


def test_a_chain_closed_by_force_answers_what_the_last_probe_has_found() -> None:
    async def answers() -> list[tuple[str, bool]]:
        engine = engine_of()
        prompt = engine.ask(0, 0)
        chains = [await write(engine, prompt, thinking) for thinking in (100, 200, 499, 500, 600, 899, 900)]
        return [(chain.text.removeprefix("So: "), await engine.judge(prompt, chain.text)) for chain in chains]

    nothing, one, zero = (
        ("No answer was reached in the end.", False),
        ("the answer is 1.", False),
        ("the answer is 0.", True),
    )
    assert in_virtual_time(answers()) == [nothing, one, one, nothing, zero, zero, zero]


def test_the_likelihood_of_a_token_is_that_of_its_window_where_it_is_asked_for() -> None:
    async def likely(thinking: int, **wishes: Any) -> tuple[float, ...]:
        engine = engine_of()
        return (await write(engine, engine.ask(0, 0), thinking, **wishes)).likelihood.unseal()

    assert in_virtual_time(likely(1 << 20)) == ()
    assert in_virtual_time(likely(1 << 20, likelihood=True)) == (-1.0,) * 500 + (-2.0,) * 500
    # The token that closes the thought by force is no model's.
    assert in_virtual_time(likely(300, likelihood=True)) == (-1.0,) * 300 + (0.0,) + (-1.0,) * 100


class Asking:
    """Asks its chain what it would answer whenever it has grown by 150 tokens."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str]] = []

    async def __call__(self, run: Run) -> Candidate:
        with ExitStack() as kept:
            kept.enter_context(run.keeping(1000))
            async with run.sampling(1) as arriving:
                async for one in arriving.watched(150):
                    if one is not None:
                        return one
                    # The chain has its share, and what was kept is for asking.
                    kept.close()
                    self.told += await self.answers(run, arriving.running)
        raise AssertionError("there was no chain")

    async def answers(self, run: Run, running: Sequence[Candidate]) -> list[tuple[int, str]]:
        found = await run.probe(running, 20)
        tokens = {chain.number: chain.tokens for chain in running}
        return [(tokens[one.parent], one.text) for one in found if one.parent is not None]


def test_a_chain_that_is_being_written_can_be_asked_what_it_would_answer() -> None:
    engine, strategy = engine_of(), Asking()

    async def deaf(_: Delta) -> None:
        return

    plan = Plan(engine.ask(0, 0), Selection("asking", strategy), Budget(20_000, 400), Sampling(0, 0))
    spending, lengths = Spending(plan.budget), Lengths(1000, 2000)
    for _ in range(64):
        lengths.saw(1000, 100)
    outcome = in_virtual_time(execute(plan, Resources(engine, lengths), spending, deaf))
    assert engine.right(plan.prompt, outcome.answer.text)
    answers = dict(strategy.told)
    assert len(answers) >= 4
    for tokens, text in answers.items():
        wanted = "the answer is 0." if tokens >= 600 else "the answer is 1." if 200 <= tokens < 500 else "So: "
        assert wanted in text
    assert spending.generated == engine.produced
    assert not spending.overdrawn


def test_an_answer_that_nobody_has_recorded_is_compared_with_the_right_one() -> None:
    (question,) = pool(
        {
            "id": 1,
            "answer": "1/2",
            "samples": [{"text": "It must be \\boxed{0.5}, as I said.", "tokens": 40, "visible": 20}],
        }
    )
    engine = engine_of(question)
    prompt = engine.ask(0, 0)
    texts = (question.samples[0].text or "", "It must be \\boxed{\\frac12}", "It must be \\boxed{3}", "It mu", "")
    assert [asyncio.run(engine.judge(prompt, text)) for text in texts] == [True, True, False, False, False]
