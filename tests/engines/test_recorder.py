"""What an engine was asked and what came of it, written down, is replayed to the same answers."""

from __future__ import annotations

import asyncio
import json

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Engine, Sampling
from ponder.compute.errors import Lost
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Selection
from ponder.compute.text import Candidate, Message, Prompt
from ponder.engines.recorder import Recorder
from ponder.engines.replay import ReplayEngine
from ponder.engines.samples import read
from ponder.strategies import STRATEGIES
from ponder.testing import MARKER, Chain, ScriptedEngine, always, check_engine, in_virtual_time
from ponder.verifiers import VERIFIERS

CHAINS = tuple(
    Chain(f"{MARKER} {i}\n{'and so on' * i}\n", answer)
    for i, answer in enumerate(("It is 9.\u2028", "The answer is 7.", "It is 8.", "It is 7.", "I cannot tell."))
)
QUESTION = Prompt((Message("user", "What is three and four?"),))


async def ignored(_: Delta) -> None:
    return


async def ask(engine: Engine, prompt: Prompt, name: str, answer: int = 0, request: str = "req_1") -> Outcome:
    plan = Plan(
        prompt=prompt,
        strategy=Selection(name, STRATEGIES[name]()),
        budget=Budget(3000, 100),
        sampling=Sampling(0, 0),
        verifier=Selection("agreement", VERIFIERS["agreement"]()),
    )
    spending = Spending(plan.budget, request, answer)
    return await execute(plan, Resources(engine, Lengths(20, 40)), spending, ignored)


async def recorded(name: str) -> tuple[list[str], list[Outcome]]:
    """The lines of a request with two answers, and the answers."""
    lines: list[str] = []
    engine = Recorder(ScriptedEngine(always(*CHAINS)), lines.append)
    return lines, [await ask(engine, QUESTION, name, answer) for answer in range(2)]


@pytest.mark.parametrize("name", ["direct", "majority_vote", "best_of_n", "revision", "auto"])
def test_a_request_that_was_written_down_comes_to_the_same_answers(name: str) -> None:
    async def both() -> tuple[list[Outcome], list[Outcome]]:
        lines, outcomes = await recorded(name)
        questions = await read("".join(lines))
        engine = ReplayEngine(questions, typical_chain=(20, 40))
        prompt = engine.ask(0, None)
        return outcomes, [await ask(engine, prompt, name, answer) for answer in range(2)]

    before, again = in_virtual_time(both())
    assert [one.answer.text for one in again] == [one.answer.text for one in before]
    assert [(one.spent.hidden, one.spent.visible) for one in again] == [
        (one.spent.hidden, one.spent.visible) for one in before
    ]


def test_runs_outside_a_server_are_questions_of_their_own() -> None:
    lines: list[str] = []

    async def two() -> list[int]:
        engine = Recorder(ScriptedEngine(always(*CHAINS)), lines.append)
        for _ in range(2):
            await ask(engine, QUESTION, "majority_vote", request="")
        return [len(question.samples) for question in await read("".join(lines))]

    counts = in_virtual_time(two())
    assert len(counts) == 2
    assert sum(counts) == len(lines)


def test_a_line_names_the_call_and_holds_neither_prompt_nor_thought() -> None:
    lines, _ = asyncio.run(recorded("majority_vote"))
    told = [json.loads(line) for line in lines]
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    assert not [line for line in lines if MARKER in line or "three and four" in line]
    paths = [tuple(one["path"]) for one in told]
    assert len(set(paths)) == len(paths)
    assert {path[0] for path in paths} == {0, 1}
    assert sorted(path[1] for path in paths if path[0] == 0) == list(range(sum(path[0] == 0 for path in paths)))
    assert {(one["request"], one["purpose"]) for one in told} == {("req_1", "sample")}
    assert (told[0]["hidden"], told[0]["visible"], told[0]["ending"]) == (
        len(CHAINS[0].thought) + 1,
        len(CHAINS[0].answer),
        "finished",
    )


class Critic:
    """A strategy that asks the model about its answer. The question and what comes back are hidden."""

    async def __call__(self, run: Run) -> Candidate:
        (drafted,) = await run.sample(1)
        await run.ask(run.prompt, "critique")
        return drafted


def test_the_answer_to_a_question_of_our_own_is_hidden_and_not_written_down() -> None:
    lines: list[str] = []
    scripted = ScriptedEngine(always(Chain("so\n", "It is 7."), Chain("hm\n", f"The thought says {MARKER}.")))
    plan = Plan(QUESTION, Selection("critic", Critic()), Budget(3000, 100), Sampling(0, 0))
    resources = Resources(Recorder(scripted, lines.append), Lengths(20, 40))
    asyncio.run(execute(plan, resources, Spending(plan.budget), ignored))
    answered, asked = (json.loads(line) for line in lines)
    assert (answered["purpose"], answered["text"]) == ("sample", "It is 7.")
    assert (asked["purpose"], asked["text"], asked["visible"]) == ("critique", "", len(f"The thought says {MARKER}."))


def test_a_call_that_was_lost_is_written_down_as_such_and_not_replayed() -> None:
    lines: list[str] = []

    async def go() -> None:
        engine = Recorder(ScriptedEngine(always(*CHAINS), vanish_at={0: 5}), lines.append)
        with pytest.raises(Lost):
            await ask(engine, QUESTION, "direct")
        (question,) = await read("".join(lines))
        assert question.samples == ()

    asyncio.run(go())
    (line,) = lines
    told = json.loads(line)
    assert (told["ending"], told["hidden"], told["visible"], told["text"]) == ("lost", 5, 0, "")


def test_it_keeps_the_promises_of_the_engine_it_wraps() -> None:
    lines: list[str] = []
    scripted = ScriptedEngine(always(Chain("a\nbc" * 30, "The answer is 7.")))
    check_engine(lambda: Recorder(scripted, lines.append), vanish=lambda _: setattr(scripted, "gone", True))
    assert scripted.closed
    assert len(lines) == scripted.calls
