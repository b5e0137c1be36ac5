"""The estimate of chain lengths in closed loops: shares follow from it, and cut the chains it learns from."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from math import exp, log
from statistics import quantiles

import pytest

from ponder.compute.lengths import Lengths

Draw = Callable[[random.Random, int], float]
"""(chance, number of the request) -> tokens of a chain, were it not cut."""

BUDGETS = (2_000, 8_000, 32_000, 128_000)


def log_normal(median: float, sigma: float) -> Draw:
    return lambda chance, _: median * exp(sigma * chance.gauss(0, 1))


def easy_and_hard(chance: random.Random, _: int) -> float:
    """Nothing like a log-normal: three sorts of questions."""
    return chance.choice((1_200, 9_000, 50_000)) * exp(0.35 * chance.gauss(0, 1))


def then(before: Draw, since: Draw) -> Draw:
    """Habits that change half-way."""
    return lambda chance, request: (before if request < 1000 else since)(chance, request)


def truth(draw: Draw) -> tuple[float, float]:
    chance = random.Random(0)
    cuts = quantiles((draw(chance, 2000) for _ in range(50_000)), n=10)
    return cuts[4], cuts[8]


def loop(lengths: Lengths, draw: Draw, budgets: tuple[int, ...] = BUDGETS, requests: int = 2000, seed: int = 1) -> None:
    """Requests for one chain and for eight, by turns. A chain longer than its share is cut there."""
    chance = random.Random(seed)
    for request in range(requests):
        free = chance.choice(budgets)
        chains = lengths.chains(8 if request % 2 else 1, free)
        for _ in range(chains):
            length = max(2, round(draw(chance, request)))
            if length <= free // chains:
                lengths.saw(length, length // 10 + 1)
            else:
                lengths.censored(free // chains)


HABITS = {
    "light tails": log_normal(8_000, 0.5),
    "heavy tails": log_normal(8_000, 1.0),
    "easy and hard questions": easy_and_hard,
    "habits that change for longer": then(log_normal(8_000, 1.0), log_normal(24_000, 0.7)),
    "habits that change for shorter": then(log_normal(24_000, 0.7), log_normal(8_000, 1.0)),
}


@pytest.mark.parametrize("prior", [(8_000, 28_000), (1_000, 3_500), (64_000, 224_000)], ids=["right", "low", "high"])
@pytest.mark.parametrize("habits", HABITS)
def test_within_a_tenth_of_the_truth_after_two_thousand_requests(habits: str, prior: tuple[int, int]) -> None:
    """In the median over nine loops: one alone has the scatter of its own sample."""
    p50, p90 = truth(HABITS[habits])
    off: list[tuple[float, float]] = []
    for seed in range(9):
        lengths = Lengths(*prior)
        loop(lengths, HABITS[habits], seed=seed)
        off.append((abs(lengths.p50 / p50 - 1), abs(lengths.p90 / p90 - 1)))
    for errors in zip(*off, strict=True):
        assert sorted(errors)[4] < 0.1
        assert max(errors) < 0.3


def test_where_every_chain_is_cut_the_estimate_rises_until_chains_fit() -> None:
    lengths = Lengths(1_000, 3_500)
    for _ in range(16):
        chains = lengths.chains(16, 16_000)
        for _ in range(chains):
            lengths.censored(16_000 // chains)
    assert lengths.p50 > 16_000
    assert lengths.chains(16, 16_000) == 1


@pytest.mark.parametrize("cap", [500, 4_000])
def test_chains_all_cut_at_one_small_budget_never_look_shorter_than_it(cap: int) -> None:
    lengths = Lengths(3_000, 12_000)
    for _ in range(2000):
        lengths.censored(cap)
        assert lengths.p50 >= cap
        assert lengths.p90 >= lengths.p50


def test_answers_that_are_cut_count_as_longer() -> None:
    lengths = Lengths(3_000, 12_000, 64)
    for i in range(100):
        lengths.censored(2_000, 96)
        if i % 4 == 0:
            lengths.saw(1_000, 90)
    assert lengths.answer > 96
    for _ in range(400):
        lengths.saw_answer(600)
    assert lengths.answer == 600


def test_nothing_seen_is_the_prior() -> None:
    lengths = Lengths(3_000, 12_000)
    assert (lengths.p50, lengths.p90) == (3_000, 12_000)
    assert lengths.answer == 3_000
    assert Lengths(3_000, 12_000, 700).answer == 700


def test_a_fresh_one_knows_nothing_of_what_was_seen() -> None:
    lengths = Lengths(100, 200, 30)
    for _ in range(100):
        lengths.saw(10, 3)
    fresh = lengths.prior()
    assert (fresh.p50, fresh.p90, fresh.answer) == (100, 200, 30)
    fresh.saw(500, 5)
    assert (lengths.p50, lengths.p90, lengths.answer) == (10, 10, 3)


def test_shares_never_starve_a_chain() -> None:
    lengths = Lengths(100, 200)
    assert lengths.chains(8, 0) == 0
    assert lengths.chains(8, 1) == 1
    assert lengths.chains(8, 599) == 1
    assert lengths.chains(8, 600) == 2
    assert lengths.chains(8, 10_000) == 8


def test_before_a_chain_was_seen_side_by_side_begin_only_what_eight_times_the_prior_would_not_starve() -> None:
    lengths = Lengths(100, 200)
    assert lengths.at_first(8, 0) == 0
    assert lengths.at_first(8, 1) == 1
    assert lengths.at_first(8, 4_799) == 1
    assert lengths.at_first(8, 4_800) == 2
    lengths.saw(100, 10)
    assert lengths.at_first(8, 4_799) == lengths.chains(8, 4_799) == 8
    assert lengths.prior().at_first(8, 4_799) == 1


def test_the_chains_of_one_request_count_as_one() -> None:
    """Else easy questions, whose chains are short and therefore many, would make chains look short."""
    lengths = Lengths(3_000, 12_000)
    for _ in range(500):
        easy, hard = lengths.request(), lengths.request()
        for _ in range(9):
            easy.saw(1_000, 10)
        hard.saw(50_000, 10)
        lengths.request().saw(9_000, 10)
    assert (lengths.p50, lengths.p90) == (9_000, 50_000)


def test_chains_of_equal_length_are_known_to_the_token() -> None:
    lengths = Lengths(100, 200, window=100)
    for _ in range(200):
        lengths.saw(10, 3)
    assert (lengths.p50, lengths.p90, lengths.answer) == (10, 10, 3)


@pytest.mark.parametrize("length", [1, 10**9])
def test_lengths_far_from_the_prior_are_taken_as_they_are(length: int) -> None:
    lengths = Lengths(100, 200)
    for _ in range(500):
        lengths.saw(length, 1)
        lengths.censored(max(1, length // 2))
    assert lengths.p50 == length


def test_chains_of_one_question_that_come_together_are_no_change_of_habits() -> None:
    """Sixteen chains of each question, which differ far less from one another than questions do."""
    chance = random.Random(2)
    lengths = Lengths(3_000, 12_000)
    medians = [8_000 * exp(chance.gauss(0, 1)) for _ in range(1000)]
    seen: list[float] = []
    for median in medians:
        for _ in range(16):
            length = round(median * exp(0.2 * chance.gauss(0, 1)))
            lengths.saw(length, 1)
            seen.append(length)
        assert lengths.p50 > 1_000
    cuts = quantiles(seen[-4096:], n=10)
    assert abs(log(lengths.p50 / cuts[4])) < 0.25
    assert abs(log(lengths.p90 / cuts[8])) < 0.25


def test_the_cost_of_a_request_does_not_grow_with_the_window() -> None:
    def seconds(window: int) -> float:
        lengths = Lengths(8_000, 28_000, window=window)
        loop(lengths, log_normal(8_000, 1.0), requests=window)
        begun = time.process_time()
        loop(lengths, log_normal(8_000, 1.0), requests=2000)
        return time.process_time() - begun

    seconds(64)
    assert seconds(2048) < 4 * seconds(512)
