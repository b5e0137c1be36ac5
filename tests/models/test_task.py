"""The generator of arithmetic stories: its steps are true, its split is clean, its words say what its steps do."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from ponder.models.lessons import NOTICED, SHARES, SLIPS, lesson, result, thought
from ponder.models.task import (
    HIGHEST,
    LOWEST,
    MAX_STEPS,
    Problem,
    Step,
    judge_lines,
    make,
    read_answer,
    read_line,
    slip,
)
from ponder.models.tokenizer import END, THINK, UNTHINK, load


def some(count: int, seed: int = 5, **wishes: object) -> list[Problem]:
    rng = random.Random(seed)
    return [make(rng, "train", **wishes) for _ in range(count)]  # type: ignore[arg-type]


def test_every_chain_is_true_and_stays_within_its_bounds():
    for problem in some(2000):
        assert 1 <= len(problem.steps) <= MAX_STEPS
        value = problem.steps[0].before
        for step in problem.steps:
            assert step.before == value
            assert eval(str(step).split("=")[0]) == step.after  # the text of a step says what its numbers say
            assert LOWEST <= step.after <= HIGHEST
            value = step.after
        assert problem.answer == value


def test_every_number_of_the_chain_is_in_the_question_or_a_word_for_it():
    for problem in some(1000):
        numbers = [int(n) for n in re.findall(r"\d+", problem.question)]
        for step in problem.steps:
            doubled = step.operand == 2 and step.op in "*/"
            assert step.operand in numbers or doubled


def test_irrelevant_sentences_come_when_asked_for():
    assert all(problem.irrelevant > 0 for problem in some(200, irrelevant=True))
    assert all(problem.irrelevant == 0 and problem.kind == "story" for problem in some(200, irrelevant=False))
    share = sum(problem.irrelevant > 0 for problem in some(1000)) / 1000
    assert 0.25 < share < 0.5


def test_no_chain_is_on_both_sides_of_the_split():
    rng = random.Random(6)
    train = {problem.steps for problem in (make(rng, "train", steps) for steps in (1, 2, 3) * 1000)}
    test = {problem.steps for problem in (make(rng, "test", steps) for steps in (1, 2, 3) * 300)}
    assert not train & test


def test_the_same_seed_makes_the_same_questions():
    assert [p.question for p in some(50, seed=9)] == [p.question for p in some(50, seed=9)]


def test_a_slip_is_never_the_true_line():
    rng = random.Random(7)
    for problem in some(300):
        at = rng.randrange(len(problem.steps))
        assert slip(rng, problem, at, problem.steps[at].before) != problem.lines[at]


def test_a_thought_is_judged_line_by_line_and_a_correction_mends_it():
    steps = (Step(12, "+", 7), Step(19, "-", 3), Step(16, "*", 2))
    problem = Problem("", steps, "bare", 0, ())
    assert judge_lines(problem, ["12 + 7 = 19", "19 - 3 = 16", "16 * 2 = 32"]) == [True, True, True]
    assert judge_lines(problem, ["12 + 7 = 18", "18 - 3 = 15", "15 * 2 = 30"]) == [False, False, False]
    assert judge_lines(problem, ["12 + 7 = 18", "Wait, 12 + 7 = 19", "19 - 3 = 16"]) == [False, True, True]
    assert judge_lines(problem, ["12 + 7 = 19", "Wait, 12 + 7 = 19", "19 - 3 = 16"]) == [True, True, True]
    assert judge_lines(problem, ["12 + 7 = 19", "hm", "16 * 2 = 32"]) == [True, False, False]


@pytest.mark.parametrize(
    ("text", "answer"), [("The answer is \\boxed{117}.", 117), ("The answer is 117.", None), ("\\boxed{x}", None)]
)
def test_an_answer_is_the_integer_in_the_box(text: str, answer: int | None):
    assert read_answer(text) == answer


def test_a_line_that_divides_by_nothing_is_no_step():
    assert read_line("4 / 0 = 4") is None


@pytest.mark.parametrize("kind", list(SHARES))
def test_lessons_end_and_teach_no_slip_where_an_attempt_is_checked(kind: str, tokenizer_folder):
    tokenizer = load(tokenizer_folder)
    rng = random.Random(8)
    for _ in range(100):
        written = lesson(rng, tokenizer, kind)
        assert len(written.ids) == len(written.weights)
        taught = [token for token, weight in zip(written.ids, written.weights, strict=True) if weight]
        assert len(written.ids) < 2048
        assert taught[-1] == END
        if kind in ("think", "check"):
            assert taught[0] == THINK
            assert UNTHINK in taught
        if kind == "check":
            for line in tokenizer.decode(taught[1 : taught.index(UNTHINK)]).strip().split("\n"):
                step, claimed = read_line(line)  # type: ignore[misc]
                assert step.after == claimed


def test_a_first_thought_slips_now_and_then_and_what_it_notices_is_mended():
    rng = random.Random(9)
    steps = slips = noticed = spoiled = 0
    for problem in some(2000):
        lines = thought(rng, problem, SLIPS)
        marks = [wrong for _, wrong in lines]
        assert len(lines) - sum(marks) == len(problem.steps)
        for (_, wrong), (after, _) in itertools.pairwise(lines):
            assert wrong == after.startswith("Wait, ")
        verdicts = judge_lines(problem, [line for line, _ in lines])
        unnoticed = [not good and not wrong for good, wrong in zip(verdicts, marks, strict=True)]
        first = unnoticed.index(True) if any(unnoticed) else len(lines)
        steps += first + any(unnoticed) - sum(marks[:first])
        noticed += sum(marks[:first])
        slips += sum(marks[:first]) + any(unnoticed)
        spoiled += result(lines) != problem.answer
    assert slips / steps == pytest.approx(SLIPS, abs=0.01)
    assert noticed / slips == pytest.approx(NOTICED, abs=0.05)
    assert spoiled > 200
