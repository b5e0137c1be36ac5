"""A policy is learned from a model's samples, judged on questions it was not learned from, and kept where it is surely
better; simulated votes are those of the real strategy."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ponder.__main__ import main
from ponder.compute.full_vote import Urn
from ponder.compute.policy import BUILT_IN, Policy, read
from ponder.engines.samples import Question, Sample
from ponder.evaluation.calibrating import folds
from ponder.evaluation.calibrating.folds import Terms, calibrate, work
from ponder.evaluation.calibrating.scatter import learn, odds, votes
from ponder.evaluation.calibrating.simulating import Simulator, orders
from ponder.evaluation.replaying.replay import Conditions, Setup, replay
from ponder.strategies import stopping

TERMS = Terms(folds=3, draws=2)


def pool(sure: Sequence[float], samples: int = 36, *, likelihood: bool = False, seed: int = 1) -> list[Question]:
    """Questions that a model answers rightly so often, else with one of a few others or with nothing."""
    chance = random.Random(seed)

    def sample(often: float) -> Sample:
        answer = 0 if chance.random() < often else chance.choice([1, 1, 2, 3, None])
        tokens = chance.randrange(900, 9000)
        windows = tuple(chance.gauss(-0.2 - 0.3 * (answer != 0), 0.1) for _ in range(8)) if likelihood else ()
        return Sample(answer, tokens, likelihood=windows, window=tokens // 8 + 1)

    return [
        Question(str(q), frozenset({0}), tuple(sample(often) for _ in range(samples))) for q, often in enumerate(sure)
    ]


@pytest.mark.parametrize("prefer", ["tokens", "latency"])
@pytest.mark.parametrize("policy", [BUILT_IN, Policy(chains=20, lead=0.7, slope=0.1, start=2)])
def test_simulated_votes_are_those_of_the_real_strategy(policy: Policy, prefer: str) -> None:
    questions = pool([0.95, 0.7, 0.5, 0.4, 0.1])
    conditions = Conditions(draws=4, seed=3, policy=policy, verifier="agreement")
    real = replay(questions, Setup.of(f"auto:prefer={prefer}:evidence=votes"), conditions)
    simulator = Simulator(policy, policy.latency if prefer == "latency" else policy.tokens)
    drawn = orders(questions, 4, policy.chains, seed=3)
    for question, requests, of in zip(questions, real.requests, drawn, strict=True):
        for request, samples in zip(requests, of, strict=True):
            voted = simulator.vote(samples)
            assert request.right == (voted.answer in question.right)
            assert request.samples == voted.chains
            assert request.steps == pytest.approx(voted.steps, abs=2)
            assert request.tokens == pytest.approx(voted.tokens, abs=16)


def test_a_model_that_is_always_of_one_mind_is_asked_fewer_times() -> None:
    told: list[int] = []
    found = calibrate([pool([1.0] * 12)], "mine", TERMS, told.append)
    assert sum(told) == work(12, TERMS)
    assert found.thresholds
    assert (found.gain.points.value, found.gain.tokens.high < 0.8) == (0, True)
    assert found.policy.model == "mine"
    assert found.policy.start < BUILT_IN.start
    # Its votes are likelier by what was learned of it.
    assert found.urns.low > 0
    assert found.policy.urns != BUILT_IN.urns
    assert found.likelihood is None


def test_what_is_not_surely_better_stays_the_servers_own() -> None:
    hard = [0.75, 0.6, 0.5, 0.45, 0.4, 0.35] * 2
    found = calibrate([pool(hard)], "mine", replace(TERMS, loss=0.0))
    if not found.thresholds:
        own = BUILT_IN.lead, BUILT_IN.slope, BUILT_IN.start
        assert (found.policy.lead, found.policy.slope, found.policy.start) == own
    assert found.thresholds == found.gain.sure(0.0)


def test_the_worth_of_likelihood_is_learned_where_it_was_recorded() -> None:
    found = calibrate([pool([0.8, 0.6, 0.5, 0.4] * 3, likelihood=True)], None, TERMS)
    assert found.likelihood is not None
    assert found.likelihood.low > 0.7
    assert found.policy.likelihood == round(found.likelihood.value, 3)


def test_no_question_is_scored_by_numbers_that_were_learned_from_it() -> None:
    questions = [*pool([0.9] * 6), *pool([0.9] * 6, seed=2)]
    parts = folds._folds(questions, TERMS)  # pyright: ignore[reportPrivateUsage]
    assert sorted(q for part in parts for q in part) == list(range(12))
    # The same question in two pools is in one fold.
    for part in parts:
        assert {questions[q].name for q in part}.isdisjoint(
            questions[q].name for other in parts if other is not part for q in other
        )


def test_too_few_questions_are_said_to_be() -> None:
    with pytest.raises(ValueError, match="5 questions are too few for 3 folds"):
        calibrate([pool([0.5] * 5)], None, TERMS)


def test_urns_are_learned_towards_what_is_known_of_others() -> None:
    of_one_mind, scattered = pool([1.0] * 8), pool([0.05] * 8)
    for few in (of_one_mind, scattered):
        own, moved = learn([few]), learn([few], BUILT_IN.urns, worth=1000)
        assert sum(urn.weight for urn in own) == pytest.approx(1, abs=0.01)
        gain = [sum(odds(q, urns) for q in few) for urns in (BUILT_IN.urns, moved, own)]
        assert gain == sorted(gain)
    assert votes(of_one_mind[0]) == (36,)
    assert odds(Question("0", frozenset(), (Sample(None, 9),)), (Urn(1.0, 0.5, 1.0),)) == 0
    with pytest.raises(ValueError, match="no question has an answer"):
        learn([[Question("0", frozenset(), (Sample(None, 9),))]])


# -- the command ------------------------------------------------------------------------------------------------------


def line(question: Question) -> str:
    told: Any = [["" if s.answer is None else str(s.answer), s.tokens] for s in question.samples]
    return json.dumps({"id": question.name, "gold": "0", "samples": told})


def test_the_command_writes_a_policy_and_says_what_it_gains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded, file = tmp_path / "mine.jsonl", tmp_path / "policy.json"
    recorded.write_text("\n".join(map(line, pool([1.0] * 10))))
    asked = ["calibrate", str(recorded), "-o", str(file), "--model", "mine", "--draws", "2", "--folds", "2"]
    with pytest.raises(SystemExit) as ended:
        main(asked)
    out = capsys.readouterr()
    assert ended.value.code == 0
    policy = read(file.read_text())
    assert policy.model == "mine"
    assert f"start {policy.start} (the server's own: 0.9, 0.27, 3): kept" in out.out
    assert "tokens 0." in out.out
    assert f"written: {file}" in out.out
    learned = json.loads(file.read_text())["learned"]
    assert (learned["pools"], learned["questions"], learned["folds"]) == (["mine.jsonl"], 10, 2)
    assert learned["gains"]["tokens"][2] < 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.jsonl", "-o", "p.json"], "nowhere.jsonl"),
        ([".", "-o", "p.json"], "there is no *.jsonl in this folder"),
        (["few.jsonl", "-o", "nowhere/p.json"], "nowhere/p.json cannot be written to"),
        (["few.jsonl", "-o", "p.json"], "1 questions are too few for 5 folds"),
        (["few.jsonl", "-o", "p.json", "--folds", "1"], "there are two folds at least"),
        (["few.jsonl", "-o", "p.json", "--loss", "x"], "no number of points"),
        (["few.jsonl"], "-o/--output"),
    ],
)
def test_what_cannot_be_is_said(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == "few.jsonl":
        Path("few.jsonl").write_text(line(pool([0.5])[0]))
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *words])
    assert ended.value.code in (1, 2)
    assert said in capsys.readouterr().err
    assert not Path("p.json").exists()


def test_the_grid_has_the_servers_own_numbers_first() -> None:
    grid = folds._grid(BUILT_IN)  # pyright: ignore[reportPrivateUsage]
    assert grid[0] == BUILT_IN
    assert len({(one.lead, one.slope, one.start) for one in grid}) == len(grid)
    standing = stopping.Standing(4, 0, 4, 32, chains=4)
    assert all(stopping.stops(standing, one) for one in grid if one.lead <= 0.93)
