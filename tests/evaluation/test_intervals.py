"""The intervals of a replay hold what they say, and pairs tell more than two figures do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ponder.evaluation.intervals import difference, joint, mean, mean_of, ratio


def made(seed: int, questions: int, draws: int) -> list[list[float]]:
    """Whether answers are right: each question has a difficulty of its own."""
    chance = np.random.default_rng(seed)
    rates = chance.beta(1, 1, size=questions)
    return (chance.random((questions, draws)) < rates[:, None]).astype(float).tolist()


def test_the_interval_over_questions_holds_the_mean_of_all_questions_as_often_as_it_says() -> None:
    held = sum((one := mean(made(seed, 60, 4))).low <= 0.5 <= one.high for seed in range(200))
    assert 180 <= held <= 199


def test_the_interval_over_resamplings_holds_the_mean_of_these_questions_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        chance = np.random.default_rng(seed)
        rates = chance.beta(1, 1, size=20)
        values = (chance.random((20, 30)) < rates[:, None]).astype(float).tolist()
        one = mean(values)
        held += one.low_here <= rates.mean() <= one.high_here
        assert one.half_here < one.half
    assert 180 <= held <= 199


def test_differences_are_by_pairs() -> None:
    values = made(1, 40, 10)
    fewer = [[0.0, *question[1:]] for question in values]
    paired = difference(fewer, values, 100)
    assert paired.value == pytest.approx(100 * (np.mean(fewer) - np.mean(values)))
    assert paired.high <= 0
    assert paired.half < mean(values, 100).half / 4


def test_a_ratio_is_one_of_means() -> None:
    tokens = [[100.0, 300.0], [200.0, 200.0]]
    half = [[value / 2 for value in question] for question in tokens]
    assert ratio(half, tokens).value == ratio(half, tokens).low == ratio(half, tokens).high_here == 0.5
    assert math.isnan(ratio(tokens, [[0.0, 0.0]] * 2).value)


def test_a_mean_over_several_models_draws_the_questions_that_they_share_together() -> None:
    values = made(1, 60, 10)
    alone, figure, names = mean(values), mean_of(values), [*range(60)]
    shared = joint([figure] * 4, [names] * 4)
    assert (shared.value, shared.half) == (pytest.approx(alone.value), pytest.approx(alone.half, rel=0.05))
    # Resamplings are independent nevertheless.
    assert shared.half_here == pytest.approx(alone.half_here / 2)
    apart = joint([figure] * 4, [[(i, name) for name in names] for i in range(4)])
    assert apart.half == pytest.approx(alone.half / 2, rel=0.1)
    # One set is a part of the other.
    part = joint([figure, mean_of(values[:6])], [names, names[:6]])
    assert apart.half < part.half < mean(values[:6]).half
