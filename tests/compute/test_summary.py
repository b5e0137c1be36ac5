"""A summary is the model's own words, paid from the thinking budget, and changes nothing of the answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from ponder.compute.budget import Budget
from ponder.compute.cost import CostLimit
from ponder.compute.engine import Delta, Sampling
from ponder.compute.outcome import Outcome, SummaryLength
from ponder.compute.summary import LETTERS, RUN, SPELT, TOKENS, own_words, shared
from ponder.compute.text import Hidden, Prompt
from ponder.compute.transcript import Transcript
from ponder.strategies import STRATEGIES
from ponder.testing import CARD, MARKER, Chain, JudgingEngine, ScriptedEngine, in_virtual_time
from ponder.testing.case import CHAINS, Case, Setting
from ponder.testing.scripted import question

THOUGHT = (
    f"Let me see, {MARKER}: the train leaves at nine and takes two hours and forty minutes, so it would arrive at "
    "eleven forty, unless the stop in between counts twice. It does not, I think, because the table says departure "
    "to arrival. So eleven forty it is, and the second train, which is slower, comes ten minutes later than that."
)
OWN = "Both journeys were added to their departures, and the later one decides. A doubt about the halt was dismissed."


def asks_for_a_summary(prompt: Prompt) -> bool:
    return question(prompt).startswith("Between the marks stands")


def told(prompt: Prompt) -> str:
    """The thought that a summary is asked of."""
    found = re.search(r"<reasoning (\w+)>\n(.*)\n</reasoning \1>", question(prompt), re.DOTALL)
    assert found is not None
    return found[2]


def engine(*summaries: str, thought: str = THOUGHT, **more: Any) -> ScriptedEngine:
    """A model that thinks THOUGHT, and writes these summaries in turn; `copies` are of its thought."""
    left = list(summaries)

    def script(prompt: Prompt, so_far: str, call: int) -> Chain:
        if not asks_for_a_summary(prompt):
            return Chain(thought, "It is 12.")
        summary = left.pop(0) if len(left) > 1 else left[0]
        return Chain("", told(prompt) if summary == "copies" else summary)

    return JudgingEngine(script, more.pop("card", CARD), **more)


def case(
    model: ScriptedEngine,
    strategy: str = "direct",
    thinking: int = 5000,
    length: SummaryLength = "auto",
    *,
    seed: int | None = 1,
    total: int | None = None,
    cost: CostLimit | None = None,
    timeout: float | None = None,
) -> Case:
    made = Case(Setting(STRATEGIES[strategy]), Budget(thinking, 100, total, cost), model, timeout=timeout)
    made.plan = replace(made.plan, summary=length, sampling=replace(made.plan.sampling, seed=seed))
    return made


def asked(made: Case) -> Outcome:
    outcome = asyncio.run(made.run())
    made.check(outcome)
    assert outcome.summary is not None
    return outcome


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.casefold())


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_has_one_which_is_paid_from_its_budget_and_no_token_of_the_answer_s(strategy: str) -> None:
    made = case(engine(OWN), strategy)
    outcome = asked(made)
    assert outcome.summary is not None
    assert outcome.summary.text == OWN
    call = made.spending.reservations[-1]
    assert (call.purpose, call.visible) == ("summary", len(OWN))
    assert outcome.spent.visible == len("It is 12.")
    assert outcome.spent.hidden == sum(one.tokens for one in made.spending.reservations) - len("It is 12.")
    assert MARKER in told(made.engine.prompts[-1])


@pytest.mark.parametrize("thinking", [30, 200, 330, 345, 700, 5000])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_seeded_answer_is_the_same_with_and_without_it(strategy: str, thinking: int) -> None:
    outcomes: list[tuple[object, ...]] = []
    for length in (None, "auto"):
        made = case(engine(OWN, seeded=True), strategy, thinking)
        made.plan = replace(made.plan, summary=length)
        outcome = asyncio.run(made.run())
        made.check(outcome)
        chains = [vars(one)["made"] or (one.purpose, one.hidden, one.visible) for one in made.spending.reservations]
        outcomes.append((outcome.answer, outcome.stopped_by, [one for one in chains if one[0] != "summary"]))
    assert outcomes[0] == outcomes[1]


def test_where_nothing_is_left_there_is_none_and_that_is_said() -> None:
    for thinking in (20, len(THOUGHT), len(THOUGHT) + 10):
        outcome = asked(case(engine(OWN), thinking=thinking))
        assert outcome.summary is not None
        assert (outcome.summary.text, outcome.summary.missing) == (None, "no_budget")
        assert outcome.answer.text == "It is 12."


def test_without_a_seed_a_small_part_is_kept_for_it_beforehand() -> None:
    thinking = 1600
    long = engine(OWN, thought="On and on. " * 1000)
    outcome = asked(case(long, thinking=thinking, seed=None))
    assert outcome.summary is not None
    assert outcome.summary.text is not None
    assert outcome.complete
    assert thinking - 100 <= outcome.spent.hidden <= thinking
    made = case(engine(OWN, thought="On and on. " * 1000), thinking=100, seed=None)
    assert asked(made).spent.hidden == 100


def test_the_most_that_all_may_have_binds_it_too() -> None:
    outcome = asked(case(engine(OWN), total=len(THOUGHT) + 1 + len("It is 12.") + 20))
    assert outcome.summary is not None
    assert len(outcome.summary.text or "") <= 20
    outcome = asked(case(engine(OWN), total=len(THOUGHT) + 1 + len("It is 12.") + 5))
    assert outcome.summary is not None
    assert outcome.summary.missing == "no_budget"


def test_it_costs_no_more_than_the_request_may() -> None:
    for amount in range(300, 1200, 50):
        asked(case(engine(OWN), cost=CostLimit(1, 2, 1, amount), seed=None))


@pytest.mark.parametrize("length", TOKENS)
def test_its_length_is_bounded_and_a_cut_one_ends_with_a_sentence(length: SummaryLength) -> None:
    outcome = asked(case(engine("A step was taken. " * 200, thought=THOUGHT * 9), thinking=9000, length=length))
    assert outcome.summary is not None
    assert outcome.summary.text is not None
    assert len(outcome.summary.text) <= TOKENS[length]
    assert outcome.summary.text.endswith("taken.")


# -- never the thought ------------------------------------------------------------------------------------------------


COPIES = [
    "copies",
    THOUGHT.upper(),
    THOUGHT.replace(" ", "  \n"),
    THOUGHT.replace(" ", " - "),
    " ".join(THOUGHT),
    "My reasoning was this. " + THOUGHT[20:200] + " That is all.",
    "".join(f"{one}\u200b" for one in THOUGHT),
    f'I thought: "{THOUGHT}"',
    f"<think>{THOUGHT}</think>",
]


@pytest.mark.parametrize("copy", COPIES, ids=range(len(COPIES)))
@pytest.mark.parametrize("strategy", ["direct", "majority_vote", "revision"])
def test_a_model_that_copies_its_thought_shows_none_of_it(copy: str, strategy: str) -> None:
    outcome = asked(case(engine(copy), strategy, length="detailed"))
    assert outcome.summary is not None
    assert MARKER not in (outcome.summary.text or "")
    assert not grams(outcome.summary.text or "", RUN) & grams(THOUGHT, RUN)
    letters = ["".join(words(text)) for text in (outcome.summary.text or "", THOUGHT)]
    assert not any(letters[0][i : i + LETTERS] in letters[1] for i in range(len(letters[0]) - LETTERS + 1))
    assert outcome.answer.text == "It is 12."


def test_of_a_short_thought_a_part_is_too_much() -> None:
    for chain in CHAINS:
        for copy in (chain.thought, chain.thought[: len(chain.thought) // 2]):
            outcome = asked(case(engine(copy, thought=chain.thought)))
            assert outcome.summary is not None
            assert MARKER not in (outcome.summary.text or "")


def test_sentences_that_repeat_a_passage_go_and_the_others_stay() -> None:
    mixed = f"{OWN} The train leaves at nine and takes two hours and forty minutes. Then they were compared."
    outcome = asked(case(engine(mixed)))
    assert outcome.summary is not None
    assert outcome.summary.text == f"{OWN} Then they were compared."


def test_one_that_is_mostly_copied_is_drawn_once_more() -> None:
    made = case(engine("copies", OWN))
    outcome = asked(made)
    assert outcome.summary is not None
    assert outcome.summary.text == OWN
    assert [one.purpose for one in made.spending.reservations][-2:] == ["summary", "summary"]
    made = case(engine("copies"))
    outcome = asked(made)
    assert outcome.summary is not None
    assert (outcome.summary.text, outcome.summary.missing) == (None, "too_close")
    assert [one.purpose for one in made.spending.reservations].count("summary") == 2


def test_scripts_without_spaces_count_by_characters() -> None:
    thought = "首先我们计算圆的面积因为半径是五厘米所以面积等于二十五乘以圆周率然后再减去正方形的面积得到结果。" * 2
    copied = thought[10:40] + "。"
    assert own_words(f"先求出整体。{copied}", thought) == "先求出整体。"
    assert not list(shared(thought[: SPELT - 1], thought))
    assert list(shared(thought[:SPELT], thought))


def test_no_control_tokens_come_through() -> None:
    told = "A <|im_end|>first step.\x1b[0m \u202eThen<think>, [TOOL_CALLS] a <<|x|>|im_start|>second one</s>."
    outcome = asked(case(engine(told)))
    assert outcome.summary is not None
    text = outcome.summary.text or ""
    assert not re.search(r"<\S*>|\[[A-Z_]+\]|[\x00-\x09\x0b-\x1f\u202e]", text)
    assert "first step" in text


def test_what_the_caller_has_typed_is_no_part_of_the_question() -> None:
    made = case(engine(OWN))
    message = replace(made.plan.prompt.messages[0], content="Spell it backwards")
    made.plan = replace(made.plan, prompt=Prompt((message,)))
    asked(made)
    (prompt,) = [one for one in made.engine.prompts if asks_for_a_summary(one)]
    assert "backwards" not in question(prompt)
    assert all(isinstance(one.content, Hidden) for one in prompt.messages)
    sampling = made.engine.samplings[-1]
    assert (sampling.thinking, sampling.grammar, sampling.stop, sampling.streamed) == (0, None, (), False)


def test_a_thought_that_does_not_fit_is_shortened_in_its_middle() -> None:
    card = replace(CARD, context=2600)
    made = case(engine(OWN, thought="".join(f"step {n}. " for n in range(260)), card=card), thinking=3000)
    outcome = asked(made)
    assert outcome.summary is not None
    assert outcome.summary.text == OWN
    shortened = told(made.engine.prompts[-1])
    assert shortened.startswith("step 0.")
    assert shortened.rstrip().endswith("step 259.") or outcome.stopped_by == "budget"
    assert "\n...\n" in shortened


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_think_has_none() -> None:
    outcome = asked(case(engine(OWN, thought="", card=replace(CARD, thinks=False))))
    assert outcome.summary is not None
    assert outcome.summary.missing == "no_thought"


class Breaks(JudgingEngine):
    """Raises something of no family where it is asked for a summary."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        if asks_for_a_summary(prompt):
            raise ValueError(MARKER)
        async with aclosing(super().generate(prompt, sampling, transcript)) as stream:
            async for delta in stream:
                yield delta


@pytest.mark.parametrize("how", ["fails", "vanishes", "breaks"])
def test_where_the_model_fails_the_answer_is_good(how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    failing: dict[str, dict[str, Any]] = {"fails": {"fail_at": 1}, "vanishes": {"vanish_at": {1: 5}}, "breaks": {}}
    model = engine(OWN, **failing[how])
    if how == "breaks":
        model = Breaks(model.script, CARD)
    outcome = asked(case(model))
    assert outcome.summary is not None
    assert (outcome.summary.text, outcome.summary.missing) == (None, "engine_error")
    assert (outcome.answer.text, outcome.stopped_by) == ("It is 12.", "finished")
    assert MARKER not in caplog.text


@pytest.mark.parametrize("how", ["deadline", "draining"])
def test_where_the_time_is_up_the_answer_is_good(how: str) -> None:
    async def cut() -> Outcome:
        # The answer takes 332 of these, the summary what a thousand would.
        made = case(engine("word " * 500, delay=0.01), length="detailed", timeout=4 if how == "deadline" else 1000)
        if how == "draining":
            asyncio.get_running_loop().call_later(3.6, made.stop_signal.set, "draining")
        outcome = await made.run()
        made.check(outcome)
        return outcome

    outcome = in_virtual_time(cut())
    assert outcome.summary is not None
    assert (outcome.summary.text, outcome.summary.missing) == (None, "no_time")
    assert (outcome.answer.text, outcome.complete, outcome.stopped_by) == ("It is 12.", True, "finished")


@pytest.mark.parametrize("strategy", ["direct", "majority_vote"])
def test_cut_short_there_is_none(strategy: str) -> None:
    async def cut() -> Outcome:
        made = case(engine(OWN, thought="On and on. " * 9000, delay=0.01), strategy, 500_000, timeout=10)
        outcome = await made.run()
        made.check(outcome)
        return outcome

    outcome = in_virtual_time(cut())
    assert outcome.stopped_by == "deadline"
    assert outcome.summary is not None
    assert outcome.summary.missing == "no_time"


def test_cancelled_in_the_middle_of_it_nothing_runs_on() -> None:
    async def cancelled() -> None:
        made = case(engine("word " * 500, delay=0.01, tail=3), length="detailed")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(made.run())
            await asyncio.sleep(4)
            assert made.engine.running == 1
            assert made.spending.reservations[-1].purpose == "summary"
            task.cancel()
        made.check(None)

    in_virtual_time(cancelled())


def test_of_nothing_comes_nothing() -> None:
    assert own_words("one two three", "") == "one two three"
    assert own_words("", THOUGHT) == ""
