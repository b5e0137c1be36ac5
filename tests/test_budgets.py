"""What `bench/budgets.py` says of answers whose worth is known, and what `bench/demo.py` draws."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from bench.budgets import AUTO, BUDGETS, FAMILIES, Journal, Rows, drawn, report
from bench.demo import HIGH, chart, points, questions
from bench.strategies import AMPLE, Answered, Setup, answer
from ponder.compute.lengths import Lengths
from ponder.compute.resources import Resources
from ponder.evaluation.asking.questions import read
from ponder.models.task import make
from ponder.testing.scripted import Chain, ScriptedEngine, ScriptedRewards, always
from ponder.testing.virtual_time import in_virtual_time

QUESTIONS = 40


def answered(right: bool, tokens: int) -> Answered:
    return Answered(steps=3, right=right, generated=tokens, verifier=10, seconds=0.1, read_again=0)


def rows(auto: dict[int, tuple[int, int]], others: tuple[int, int]) -> Rows:
    """`auto` at each budget and all others: (right of 100, tokens for each chain that a fixed strategy has)."""
    found: Rows = {}
    for name, setups in FAMILIES.items():
        for k, setup in enumerate(setups):
            percent, tokens = auto[setup.budget] if name == AUTO else (others[0], others[1] * 2**k)
            if setup.budget < AMPLE and name != AUTO:
                percent, tokens = others[0], setup.budget
            for i in range(QUESTIONS):
                found[setup.name, i] = answered(i < QUESTIONS * percent // 100, tokens)
    return found


@pytest.fixture
def figures() -> dict[str, Any]:
    auto = {budget: (50 + 5 * k, budget) for k, budget in enumerate(BUDGETS)}
    return report(drawn(rows(auto, (60, 256)), QUESTIONS, read=False))


def test_a_rise_is_the_difference_over_the_same_questions(figures: dict[str, Any]) -> None:
    rise, low, high = figures["rises"]["64 to 128"]
    assert rise == pytest.approx(5, abs=0.01)
    assert 0 <= low <= rise <= high


def test_auto_is_held_against_the_best_fixed_strategy_at_its_own_tokens(figures: dict[str, Any]) -> None:
    beside = figures["beside_the_best_fixed"]
    assert [one["more"][0] for one in beside.values()] == pytest.approx([-10, -5, 0, 5, 10, 15, 20], abs=0.01)


def test_auto_is_held_against_the_best_fixed_strategy_under_its_own_budget(figures: dict[str, Any]) -> None:
    beside = figures["beside_the_best_under_the_budget"]
    assert list(beside) == ["64", "128", "256", "512", "1024"]
    assert [one["more"][0] for one in beside.values()] == pytest.approx([-10, -5, 0, 5, 10], abs=0.01)
    assert [one["of_its_tokens"][0] for one in beside.values()] == [1.0] * 5


def test_what_is_saved_is_what_auto_takes_for_the_accuracy_of_best_of_n(figures: dict[str, Any]) -> None:
    # `auto` has 60 % at 256 tokens; the fixed ones have it at 256, 512, ..., and a quarter of 1,024 is 256.
    saved = figures["beside_best_of_n"]
    assert [one["times_fewer"][0] for one in saved.values()] == pytest.approx([1, 2, 4, 8, 16], abs=0.01)
    assert saved["best_of_n(8, prm)"]["at_a_quarter"][0] == pytest.approx(0, abs=0.01)


def test_an_accuracy_that_auto_never_has_takes_no_number_of_tokens() -> None:
    auto = {budget: (50, budget) for budget in BUDGETS}
    saved = report(drawn(rows(auto, (60, 256)), QUESTIONS, read=False))["beside_best_of_n"]
    assert {one["times_fewer"][0] for one in saved.values()} == {0.0}


def test_tokens_that_the_verifier_read_count_where_that_is_asked() -> None:
    auto = {budget: (50, budget) for budget in BUDGETS}
    generated, read_too = (
        report(drawn(rows(auto, (60, 256)), QUESTIONS, read=read))["points"]["auto @ 64"]["tokens"][0]
        for read in (False, True)
    )
    assert (generated, read_too) == (64, 74)


def test_a_run_that_was_cut_goes_on_and_another_does_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Journal(path, {"seed": 1}).add("direct", 7, answered(True, 60))
    assert Journal(path, {"seed": 1}).rows == {("direct", 7): answered(True, 60)}
    with pytest.raises(SystemExit, match="another run"):
        Journal(path, {"seed": 2})


def test_the_demo_asks_the_same_questions_each_time_and_they_can_be_read(tmp_path: Path) -> None:
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for file in files:
        questions(file, 60, seed=1)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(read(files[0]).all) == 60


def test_the_demo_draws_what_it_found(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("strategy,budget,right,tokens\ndirect,64,0.5,60\nauto,64,,\nauto,1024,1.0,600\n")
    found = points(table)
    assert found == [("direct", 60, 50), ("auto", 600, 100)]
    lines = chart(found).splitlines()
    assert lines[0].startswith(" 100 % |")
    assert lines[0].endswith("a")
    assert [line for line in lines[:HIGH] if "d" in line] == ["       |d"]
    assert "60" in lines[-2]
    assert "600" in lines[-2]
    assert "d direct, a auto" in lines[-1]


def test_a_strategy_that_goes_by_likelihood_is_given_it() -> None:
    """As by the server, also beside a verifier that does not."""
    engine = ScriptedEngine(always(Chain("so", "It is 7.")), seeded=True)
    resources = Resources(engine, Lengths(20, 40), ScriptedRewards(lambda line: 0.5))
    problem = make(random.Random(1), "test", 2)
    in_virtual_time(answer(problem, 1, Setup("auto", "auto", {"n": 8}, "prm"), resources))
    assert all(sampling.likelihood for sampling in engine.samplings)
