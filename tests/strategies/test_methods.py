"""The methods of single papers, on scripts where the right choice is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from math import isclose
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import EngineError, Lost
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection
from ponder.compute.text import Hidden, Message, Prompt, ends
from ponder.compute.transcript import Transcript
from ponder.compute.vote import tally
from ponder.engines.replay import ReplayEngine
from ponder.engines.samples import Question, Sample
from ponder.strategies import voting
from ponder.strategies.budget_forcing import BudgetForcing
from ponder.strategies.confidence_vote import ConfidenceVote, chains_to_settle, fair_sample, weighed
from ponder.strategies.deep_think import DeepThink
from ponder.strategies.rebase import Rebase, shared_out
from ponder.strategies.short_m_at_k import ShortMAtK
from ponder.strategies.universal_self_consistency import UniversalSelfConsistency
from ponder.testing import CARD, Chain, ScriptedEngine, always, in_virtual_time
from ponder.verifiers.consensus import Consensus
from tests.strategies.test_choices import BAD, GOOD, ByRewards, Likes, good, outcome, says
from tests.verifiers.hand import candidate
from tests.verifiers.test_consensus import Choosing

# -- budget forcing ---------------------------------------------------------------------------------------------------


def hasty(prompt: Prompt, thought: str, call: int) -> Chain:
    """Thinks a line at a time, and is right when it has looked twice."""
    lines = thought.count("line\n")
    return Chain(f"{thought}line\n", f"The answer is {7 if lines >= 2 else 9}.")


def forced(budget: int, **parameters: Any) -> tuple[Outcome, ScriptedEngine, list[str]]:
    engine = ScriptedEngine(hasty, seeded=True)
    told: list[str] = []

    async def on_delta(delta: Delta) -> None:
        told.append(delta.text)

    plan = Plan(
        Prompt((Message("user", "How many?"),)),
        Selection("budget_forcing", BudgetForcing(**parameters)),
        Budget(budget, 100),
        Sampling(0, 0, seed=3, likelihood=True),
    )
    spending = Spending(plan.budget)
    out = asyncio.run(execute(plan, Resources(engine, Lengths(20, 40)), spending, on_delta))
    assert out.spent.generated == engine.produced == spending.generated
    assert "".join(told) == out.answer.text
    assert len(told) == len(out.answer.text), "the answer was not streamed as it was written"
    return out, engine, told


@pytest.mark.parametrize(("rounds", "answer"), [(1, "9"), (2, "7"), (3, "7")])
def test_a_word_takes_the_place_of_the_end_of_a_thought_and_the_end_is_paid(rounds: int, answer: str) -> None:
    out, engine, _ = forced(10_000, rounds=rounds, word="Hm")
    assert answer in out.answer.text
    assert out.thought.unseal() == "line\n" + "Hmline\n" * rounds
    # Each line, and the token that ends the thought; the word is read, not made.
    assert out.spent.hidden == (1 + rounds) * (len("line\n") + 1)
    assert out.spent.visible == len(out.answer.text)
    assert out.samples == 1
    (chain,) = {identity.path for identity in engine.identities}
    assert chain == (0, 0)


@pytest.mark.parametrize("budget", [30, 31, 60])
def test_the_budget_is_used_to_its_last_token_and_the_thought_is_closed_then(budget: int) -> None:
    out, _, _ = forced(budget)
    assert out.spent.hidden == budget
    assert out.stopped_by == ("budget" if budget % 6 else "finished")
    assert out.complete


def test_behind_as_many_tokens_as_are_wanted_the_model_may_stop() -> None:
    out, _, _ = forced(10_000, min_thinking=13)
    assert out.spent.hidden == 18


def test_without_a_thought_nothing_is_forced() -> None:
    out, engine, _ = forced(0)
    assert engine.calls == 1
    assert out.spent.hidden == 0


def test_an_engine_that_cannot_go_on_with_a_thought_says_so() -> None:
    questions = [Question("q", frozenset({1}), (Sample(1, 60),))]
    replay = ReplayEngine(questions, typical_chain=(40, 80))
    plan = Plan(replay.ask(0, 0), Selection("budget_forcing", BudgetForcing()), Budget(500, 100), Sampling(0, 0))

    async def on_delta(_: Delta) -> None: ...

    with pytest.raises(EngineError, match="cannot go on with a thought that has ended"):
        in_virtual_time(execute(plan, Resources(replay, Lengths(40, 80)), Spending(plan.budget), on_delta))


def test_a_limit_of_all_tokens_bounds_a_thought_that_is_gone_on_with() -> None:
    """What a chain has made before counts once."""
    engine = ScriptedEngine(hasty)
    plan = Plan(
        Prompt((Message("user", "How many?"),)),
        Selection("budget_forcing", BudgetForcing(rounds=4)),
        Budget(40, 30, 60),
        Sampling(0, 0),
    )

    async def on_delta(_: Delta) -> None: ...

    spending = Spending(plan.budget)
    out = asyncio.run(execute(plan, Resources(engine, Lengths(20, 40)), spending, on_delta))
    assert out.answer.text == "The answer is 7."
    assert out.spent.generated == 30 + len(out.answer.text)
    assert engine.calls == 5


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


# -- the shortest of many ----------------------------------------------------------------------------------------------

LONG = [Chain(f"{name} so " * 150, "The answer is 9.") for name in "abc"]
SHORT = [Chain(f"{n} so " * n, "The answer is 7.") for n in (10, 13, 15)]


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_the_shortest_chains_vote_whichever_of_them_finish_first(at_once: int | None, seed: int | None) -> None:
    """One at a time the long ones finish first."""
    engine = ScriptedEngine(always(*LONG, *SHORT), at_once=at_once)
    out = outcome(ShortMAtK(n=6, m=3, every=16), engine, seed=seed)
    assert out.answer.text == "The answer is 7."
    assert out.spent.generated == engine.produced
    if at_once is None:
        assert engine.produced < 6 * 150


@pytest.mark.parametrize("seed", [None, 5])
def test_of_a_tie_among_the_shortest_the_shortest_has_the_casting_vote(seed: int | None) -> None:
    chains = [Chain(f"{n} so " * n, f"The answer is {n}.") for n in (30, 20, 10, 99)]
    out = outcome(ShortMAtK(n=4, m=3, every=16), ScriptedEngine(always(*chains)), seed=seed)
    assert out.answer.text == "The answer is 10."


def test_with_a_seed_chains_that_cannot_be_short_are_written_no_further_than_to_the_next_look() -> None:
    engine = ScriptedEngine(always(*LONG, *SHORT))
    outcome(ShortMAtK(n=6, m=3, every=16), engine, seed=5)
    assert engine.produced < 6 * 120


def test_where_all_are_lost_between_two_looks_there_is_what_was_written_before() -> None:
    engine = ScriptedEngine(always(*LONG), vanish_at={3: 5, 4: 5, 5: 5})
    out = outcome(ShortMAtK(n=3, m=2, every=16), engine, seed=5)
    assert out.answer.text == "The answer is 9."


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


# -- deep thinking ----------------------------------------------------------------------------------------------------


def coordinated(*drafts: str, last: str = "7", **more: Any) -> ScriptedEngine:
    """Drafts that say these things, and chains that read conclusions, which say something else."""

    def script(prompt: Prompt, thought: str, call: int) -> Chain:
        if len(prompt.messages) > 1:
            return Chain("I have read them\n", f"The answer is {last}.")
        return Chain(f"way {call}\nso it is\n", f"The answer is {drafts[call % len(drafts)]}.")

    return ScriptedEngine(script, **more)


def test_the_last_chain_reads_the_conclusions_and_writes_the_answer() -> None:
    engine = coordinated("9", "8", "9", "6")
    out = outcome(DeepThink(), engine)
    assert (out.answer.text, engine.calls) == ("The answer is 7.", 5)
    question, drafts, wish = engine.prompts[4].messages
    assert (question.content, wish.content) == ("How many?", "Check each step and fix any mistake.")
    shown = "Attempt 1:\nThe answer is 9.\n(reached 2 times)\n\nAttempt 2:\nThe answer is 8.\n\n"
    assert drafts.content == f"{shown}Attempt 3:\nThe answer is 6."
    assert drafts.thought is not None
    assert drafts.thought.unseal() == "\n\n".join(f"way {i}\nso it is" for i in range(4))
    assert engine.samplings[4].streamed
    assert out.spent.hidden == sum(map(len, ("way 0\nso it is\n",) * 4)) + 4 * (1 + 16) + len("I have read them\n") + 1


def test_where_all_agree_no_other_chain_is_written_unless_that_is_wanted() -> None:
    engine = coordinated("9")
    assert outcome(DeepThink(), engine).answer.text == "The answer is 9."
    assert engine.calls == 4
    assert outcome(DeepThink(unanimous=False), coordinated("9")).answer.text == "The answer is 7."


def test_a_second_round_reads_the_first_and_the_last_chain_the_second() -> None:
    engine = coordinated("9", "8", "6")
    outcome(DeepThink(chains=3, rounds=2, unanimous=False), engine)
    assert [len(prompt.messages) for prompt in engine.prompts] == [1] * 3 + [3] * 4
    assert engine.prompts[3].messages[1].content == engine.prompts[5].messages[1].content
    assert engine.prompts[6].messages[1].content == "The answer is 7."


@pytest.mark.parametrize("seed", [None, 5])
def test_the_last_chain_has_its_part_of_the_budget_whatever_the_others_use(seed: int | None) -> None:
    endless = [Chain(f"{i} on and on " * 500, f"The answer is {i}.") for i in range(4)]
    engine = ScriptedEngine(always(*endless))
    outcome(DeepThink(), engine, budget=1000, seed=seed)
    assert engine.samplings[-1].streamed
    # Less the answer of a chain that began alone, on the allowance.
    assert engine.samplings[-1].thinking >= 1000 // 5 - len("The answer is 0.")


@pytest.mark.parametrize("room", [4000, 2000])
def test_conclusions_are_shortened_until_they_fit(room: int) -> None:
    def script(prompt: Prompt, thought: str, call: int) -> Chain:
        if len(prompt.messages) > 1:
            return Chain("Read.\n", "The answer is 7.")
        return Chain(f"{call}\n" * 100, f"{'so ' * 100}The answer is {(9, 8, 9, 6)[call]}.")

    engine = ScriptedEngine(script, card=replace(CARD, context=room))
    out = outcome(DeepThink(), engine, budget=6000, answer=500)
    assert (out.answer.text, engine.calls) == ("The answer is 7.", 5)
    shown = engine.prompts[4].messages[1].content
    assert isinstance(shown, str)
    assert "The answer is 6." in shown
    assert (len(shown) < 700) == (room == 2000)


def test_where_the_conclusions_do_not_fit_the_vote_decides() -> None:
    engine = coordinated("9", "8", "9", "6", card=replace(CARD, context=180))
    out = outcome(DeepThink(), engine, budget=6000)
    assert (out.answer.text, engine.calls) == ("The answer is 9.", 4)


def test_where_the_last_chain_is_lost_before_it_says_anything_the_vote_decides() -> None:
    for vanish_at, answer in (({4: 3}, "9"), ({4: 20}, None)):
        engine = coordinated("9", "8", "9", "6", vanish_at=vanish_at)
        if answer is None:
            with pytest.raises(Lost):
                outcome(DeepThink(), engine)
        else:
            out = outcome(DeepThink(), engine)
            assert (out.answer.text, out.stopped_by) == (f"The answer is {answer}.", "engine_error")


def test_the_ends_of_hidden_texts_begin_with_a_whole_line() -> None:
    def shown(*texts: str, characters: int) -> str | None:
        found = ends(map(Hidden, texts), characters)
        return None if found is None else found.unseal()

    assert shown("one\ntwo\nthree\n", "four", characters=10) == "two\nthree\n\nfour"
    assert shown("one\ntwo\nthree", characters=9) == "two\nthree"
    assert shown("one two three", characters=5) == "three"
    assert shown("a", "", characters=0) is None


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
