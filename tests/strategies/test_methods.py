"""The methods of single papers, on scripts where the right choice is known."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.compute.engine import Delta, Sampling
from ponder.compute.text import Prompt
from ponder.compute.transcript import Transcript
from ponder.compute.vote import tally
from ponder.strategies import voting
from ponder.strategies.confidence_vote import ConfidenceVote, chains_to_settle, fair_sample, weighed
from ponder.strategies.rebase import Rebase, shared_out
from ponder.strategies.universal_self_consistency import UniversalSelfConsistency
from ponder.testing import Chain, ScriptedEngine, always
from ponder.verifiers.consensus import Consensus
from tests.strategies.test_choices import BAD, GOOD, ByRewards, Likes, good, outcome, says
from tests.verifiers.hand import candidate
from tests.verifiers.test_consensus import Choosing

# -- rebase -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("delay", [0.0, 0.01])
def test_a_balanced_search_follows_the_steps_its_reward_model_likes(delay: float, seed: int | None) -> None:
    engine = ScriptedEngine(always(BAD, GOOD))
    out = outcome(Rebase(beams=4), engine, verifier=ByRewards(), judge=good, delay=delay, seed=seed)
    assert "7" in out.answer.text
    assert out.spent.generated == engine.produced


def test_branches_are_shared_out_by_the_exponential_of_the_scores() -> None:
    assert shared_out(8, [0.5, 0.5], 0.2) == [4, 4]
    assert shared_out(8, [0.9, 0.1], 0.01) == [8, 0]
    assert shared_out(3, [0.4, 0.4], 0.2) == [2, 1]  # the one too many goes to the first
    assert shared_out(10, [1.0, 0.8, 0.0], 0.2) == [7, 3, 0]
    assert shared_out(0, [0.3], 0.2) == [0]
    assert shared_out(5, [], 0.2) == []
    for places in range(9):
        assert sum(shared_out(places, [0.1, 0.7, 0.3, 0.7], 0.3)) == places


def test_a_chain_the_reward_model_doubts_is_not_cut_as_long_as_its_share_is_a_branch() -> None:
    """At rank three of three a beam search of this width would drop it."""
    doubted = Chain("fair start\ngood middle\ngood end\n", "The answer is 7.")
    scores = {"bad start": 0.5, "fair start": 0.4}
    engine = ScriptedEngine(always(BAD, doubted))
    out = outcome(
        Rebase(beams=4, temperature=1), engine, verifier=ByRewards(), judge=lambda line: scores.get(line, good(line))
    )
    assert "7" in out.answer.text


# -- votes weighed by confidence --------------------------------------------------------------------------------------


def test_a_few_sure_chains_outweigh_many_doubtful_ones() -> None:
    engine = ScriptedEngine(says("9", "9", "9", "7", "7"))
    out = outcome(ConfidenceVote(n=5, confidence=1), engine, verifier=Likes({"7": 0.9, "9": 0.2}))
    assert "7" in out.answer.text
    assert isclose(out.agreement or 0, 1.8 / 2.4)


@pytest.mark.parametrize("seed", [None, 5])
def test_a_vote_settled_in_weight_stops_the_chains_that_are_left(seed: int | None) -> None:
    engine = ScriptedEngine(always(*[Chain("so " * (10 + 10 * i), "The answer is 7.") for i in range(32)]))
    out = outcome(ConfidenceVote(n=32), engine, verifier=Likes({"7": 0.3}), seed=seed)
    assert (out.answer.text, out.stopped_by) == ("The answer is 7.", "early_agreement")
    assert engine.running == 0
    assert engine.produced < 32 * 500 // 4


def test_one_heavy_chain_counts_as_one() -> None:
    assert weighed([0, 0, 0, 1], [0.3, 0.3, 0.3, 0.1]).decided(9, 0.8)
    assert not weighed([0, 1, 1], [0.9, 0.02, 0.02]).decided(9, 0.8)
    assert weighed([0, 1, 1], [0.9, 0.02, 0.02]).decided(0, 1)
    assert not weighed([0, 1], [0.5, 0.5]).decided(1, 0.5)
    assert not weighed([0, 0], [0.0, 0.0]).decided(4, 0.5)
    assert not weighed([None], [0.7]).decided(4, 0.5)


@given(
    counts=st.lists(st.integers(0, 2) | st.none(), min_size=1, max_size=12),
    begun=st.integers(0, 6),
    outstanding=st.integers(0, 6),
    confidence=st.sampled_from([0.8, 0.9, 0.95, 1.0]),
)
def test_with_equal_weights_it_is_the_vote_that_counts(
    counts: list[int | None], begun: int, outstanding: int, confidence: float
) -> None:
    """The heaviest possible, so that what is certain in weight is certain in votes."""
    vote = tally([candidate(number=i) for i in range(len(counts))], [1.0] * len(counts), counts)
    votes = {i: (answer, 1.0) for i, answer in enumerate(counts)}
    every = range(len(counts) + begun)
    finished = [candidate(number=i) for i in range(len(counts))]
    plain = voting.fair_sample(vote, finished, every, outstanding, confidence)
    assert fair_sample(votes, every, outstanding, confidence) == plain
    standing = weighed(counts, [1.0] * len(counts))
    if standing.first > standing.second and outstanding:
        assert chains_to_settle(standing, outstanding, confidence) == voting.votes_to_settle(
            vote, outstanding, confidence
        )


# -- universal self-consistency ---------------------------------------------------------------------------------------

ROSES, VIOLETS, TULIPS = "Roses are red, as is the evening.", "Violets are blue.", "Tulips are what I like."


@dataclass
class FondOfRoses(Choosing):
    """Writes what its script says, and finds in every order that the others agree with what is said of roses."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        write = super().generate if sampling.logprobs else partial(ScriptedEngine.generate, self)
        async with aclosing(write(prompt, sampling, transcript)) as stream:
            async for delta in stream:
                yield delta


def fond_of_roses(*answers: str) -> FondOfRoses:
    chains = [Chain(f"thought {i}\n", answer) for i, answer in enumerate(answers)]
    return FondOfRoses(always(*chains), likes=lambda _, text: 0.6 if "Roses" in text else 0.2)


@pytest.mark.parametrize("budget", [200, 100_000])
def test_the_answer_the_model_finds_most_consistent_is_given_and_asking_is_paid(budget: int) -> None:
    """What the chains may spend leaves the tokens for asking."""
    engine = fond_of_roses(VIOLETS, ROSES, TULIPS)
    out = outcome(UniversalSelfConsistency(n=3), engine, verifier=Consensus(), budget=budget)
    assert out.answer.text == ROSES
    assert not out.degraded
    assert out.spent.hidden <= budget


def test_where_the_model_cannot_choose_the_fallback_does() -> None:
    out = outcome(UniversalSelfConsistency(n=3), ScriptedEngine(always(*PROSE)), verifier=Consensus())
    assert out.degraded
    assert out.answer.text == VIOLETS


PROSE = [Chain(f"thought {i}\n", answer) for i, answer in enumerate((VIOLETS, ROSES, TULIPS))]
