"""What the likelihood of chains and their answers half-way are worth in a vote, and how a model teaches it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any, cast

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.evidence import STAGES, Evidence, Foresight
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.likelihood import Worth, lowest_mean, power
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Selection, Verifier
from ponder.compute.text import Candidate, Hidden, Message, Prompt
from ponder.compute.vote import Vote
from ponder.strategies.auto import Auto
from ponder.strategies.evidence import By, hopeless_below, told_apart, weights
from ponder.testing import Chain, ScriptedEngine, in_virtual_time
from ponder.testing.scripted import Script
from ponder.verifiers.agreement import Agreement
from tests.strategies.test_choices import Runs

PROMPT = Prompt((Message("user", "How many?"),))


def says(answer: str, likelihood: float = -0.1, long: int = 1) -> Chain:
    """A hundred tokens or more, with the end of the thought and the answer."""
    return Chain(answer * (100 * long - 17), f"The answer is {answer}.", likelihood)


def in_turn(*chains: Chain) -> Script:
    """The chains in turn; what is half-written goes on as it began, and takes nobody's turn."""
    turns = count()

    def script(prompt: Prompt, thought: str, call: int) -> Chain:
        if thought:
            return next(chain for chain in chains if chain.thought.startswith(thought))
        return chains[next(turns) % len(chains)]

    return script


@dataclass
class Asked:
    outcome: Outcome
    spending: Spending
    engine: ScriptedEngine
    learned: Evidence

    def tokens(self, purpose: str) -> list[int]:
        return [one.tokens for one in self.spending.reservations if one.purpose == purpose]


def ask(
    *chains: Chain,
    by: By = "likelihood",
    learned: Evidence | None = None,
    n: int = 8,
    verifier: Verifier | None = None,
    strategy: Auto | None = None,
    **wishes: Any,
) -> Asked:
    async def deaf(_: Delta) -> None:
        return

    engine = ScriptedEngine(in_turn(*chains), delay=1.0)
    strategy = strategy or Auto(n=n, evidence=by)
    sampling = Sampling(0, 0, likelihood=strategy.needs_likelihood, **wishes)
    judge = Selection("judge", verifier or Agreement())
    plan = Plan(PROMPT, Selection("auto", strategy), Budget(10_000, 100), sampling, judge)
    lengths = Lengths(100, 150, 16)
    for _ in range(64):
        lengths.saw(100, 16)
    spending, learned = Spending(plan.budget), learned or Evidence()
    outcome = in_virtual_time(execute(plan, Resources(engine, lengths, evidence=learned), spending, deaf))
    assert spending.generated == engine.produced
    assert not spending.overdrawn
    return Asked(outcome, spending, engine, learned)


class Watched:
    """A run that tells when a chain is asked about."""

    def __init__(self, run: Run, seen: list[int]) -> None:
        self._run, self._seen = run, seen

    def prevails(self, chain: Candidate) -> bool:
        self._seen.append(chain.length)
        return self._run.prevails(chain)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)


def telling(auc: float) -> Evidence:
    """Of a model whose likelihood has told answers apart so well."""
    learned = Evidence()
    for _ in range(500):
        learned.worth.saw(auc)
    return learned


# -- likelihood -------------------------------------------------------------------------------------------------------


def test_a_chain_likelier_than_all_others_together_ends_it() -> None:
    asked = ask(says("7", -0.005), says("9"))
    assert (asked.engine.calls, asked.outcome.samples) == (1, 1)
    assert "7" in asked.outcome.answer.text


def test_a_chain_likelier_than_all_others_ends_nothing_where_it_fails_the_check() -> None:
    asked = ask(says("7", -0.005), says("9"), verifier=Runs({"9": 1.0}))
    assert "9" in asked.outcome.answer.text
    asked = ask(says("7", -0.005), says("9"), verifier=Runs({"7": 1.0}))
    assert (asked.engine.calls, asked.outcome.verdict) == (1, "verified")


@pytest.mark.parametrize("wishes", [{"temperature": 1.5}, {"presence_penalty": 0.5}, {"logit_bias": ((65, 1.0),)}])
def test_where_the_model_would_not_have_drawn_it_so_a_likely_chain_ends_nothing(wishes: dict[str, Any]) -> None:
    assert ask(says("7", -0.005), **wishes).outcome.samples == 3


def test_the_others_begin_as_soon_as_the_first_cannot_be_that_likely() -> None:
    """Seven tokens at -0.1 each are below a half; a look comes every four."""
    asked = ask(says("7"))
    assert asked.outcome.samples == 3
    starts = [one.started for one in asked.spending.reservations[:3]]
    assert [round(start - starts[0]) for start in starts] == [0, 8, 8]


def test_a_chain_that_stays_the_likeliest_is_looked_at_ever_more_seldom() -> None:
    def looks(long: int) -> int:
        seen: list[int] = []

        class Looking(Auto):
            async def __call__(self, run: Run) -> Candidate:
                return await super().__call__(cast("Run", Watched(run, seen)))

        assert ask(says("7", -1e-6, long=long), strategy=Looking()).engine.calls == 1
        return len(seen)

    assert looks(32) <= looks(8) + 10


def test_the_first_chain_and_those_that_begin_later_have_equal_shares_of_the_whole_budget() -> None:
    asked = ask(says("7"))
    shares = [one.thinking + one.answer for one in asked.spending.reservations[:3]]
    assert shares == pytest.approx([10_000 / 3] * 3, abs=3)


def test_with_a_seed_as_many_begin_as_without_likelihood_and_a_likely_chain_ends_it_all_the_same() -> None:
    asked = ask(says("7", -0.005), seed=1)
    assert (asked.engine.calls, asked.outcome.samples) == (3, 1)


def test_a_model_of_which_nothing_is_known_votes_evenly() -> None:
    asked = ask(says("7", -0.3), says("7", -0.3), says("9", -0.1), says("7", -0.3))
    assert "7" in asked.outcome.answer.text
    assert asked.outcome.agreement == 0.75


def test_where_likelihood_tells_answers_apart_likely_chains_outweigh_more_unlikely_ones() -> None:
    chains = [says("7", -0.3), says("9", -0.1), says("7", -0.31), says("9", -0.11), says("7", -0.32)]
    assert "7" in ask(*chains, n=5).outcome.answer.text
    assert "9" in ask(*chains, n=5, learned=telling(0.9)).outcome.answer.text
    assert "7" in ask(*chains, n=5, learned=telling(0.9), seed=1).outcome.answer.text, "others show in a seeded answer"


def test_a_chain_that_would_hardly_vote_is_dropped() -> None:
    chains = [says("7", -0.1), says("9", -0.11), says("8", -0.12), *[says("6", -0.9)] * 5]
    asked = ask(*chains, learned=telling(0.9))
    dropped = [one for one in asked.spending.reservations if one.ending == "aborted"]
    assert len(dropped) == 5
    assert all(one.tokens < 40 for one in dropped)
    assert "7" in asked.outcome.answer.text


def test_a_vote_teaches_what_likelihood_is_worth() -> None:
    asked = ask(says("7", -0.1), says("9", -0.3), says("7", -0.2), says("7", -0.25))
    assert asked.learned.worth.auc(0.5) == pytest.approx((8 * 0.5 + 1) / 9)


def test_the_least_likely_window_and_the_power_of_ranks() -> None:
    assert lowest_mean([-1.0, -3.0, -1.0, 0.0], 2) == -2.0
    assert lowest_mean([-1.0, -2.0], 9) == -1.5
    assert [power(auc) for auc in (0.3, 0.5, 0.75)] == [0.0, 0.0, 2.0]


def test_ranks_vote_and_equals_vote_alike() -> None:
    assert weights([-3.0, -1.0, -2.0], 0.5) == [1.0, 1.0, 1.0]
    assert weights([-3.0, None, -2.0], 0.9) == [1.0, 1.0, 1.0]
    assert weights([-4.0, -1.0, -2.0, -2.0], 2 / 3) == pytest.approx([1 / 4, 1, 2.5 / 4, 2.5 / 4])


def test_likelihood_that_is_thought_to_tell_everything_still_leaves_a_vote() -> None:
    heavy = weights([-float(i) for i in range(256)], 1.0)
    assert heavy[0] == 1 > 0.5 > heavy[1] > 0
    assert min(heavy) > 0
    assert hopeless_below([-1.0, -2.0, -3.0], 1.0) == -1.0


def test_a_chain_is_hopeless_where_it_would_have_less_than_half_a_vote() -> None:
    lowest = [-float(i) for i in range(1, 13)]
    assert hopeless_below(lowest, 0.5) is None
    assert hopeless_below(lowest, 2 / 3) == -9.0, "with even power of ranks the lowest quarter has less"
    assert hopeless_below([-1.0], 2 / 3) is None


@pytest.mark.parametrize("wishes", [{"temperature": 1.5}, {"frequency_penalty": 0.5}, {"logit_bias": ((65, 1.0),)}])
def test_chains_that_a_caller_has_bent_teach_nothing(wishes: dict[str, Any]) -> None:
    asked = ask(says("7", -0.1), says("9", -0.3), says("7", -0.2), says("7", -0.25), **wishes)
    assert asked.learned.worth.auc(0.5) == 0.5


def test_how_well_likelihood_tells_answers_apart() -> None:
    def vote(*votes: int | None, counts: tuple[int, ...]) -> Vote:
        one = Candidate(0, PROMPT, Hidden(()), Hidden(""), "", 0, 0, False, "finished")
        return Vote(one, counts, tuple(map(float, counts)), len(votes), votes)

    assert told_apart(vote(0, 0, 1, counts=(2, 1)), [-1.0, -3.0, -2.0]) == 0.5
    assert told_apart(vote(0, 0, None, counts=(2,)), [-1.0, -1.0, -2.0]) == 1.0
    assert told_apart(vote(0, 1, 1, counts=(1, 2)), [-1.0, -3.0, -3.0]) == 0.0, "the most votes, not the most weight"
    assert told_apart(vote(0, 1, counts=(1, 1)), [-1.0, -2.0]) is None
    assert told_apart(vote(0, 0, counts=(2,)), [-1.0, -2.0]) is None
    assert told_apart(vote(0, 0, 1, counts=(2, 1)), [-1.0, None, -2.0]) is None


def test_what_was_learned_fades() -> None:
    worth = Worth()
    for _ in range(2000):
        worth.saw(0.9)
    for _ in range(2000):
        worth.saw(0.6)
    assert 0.59 < worth.auc(0.5) < 0.62


# -- half-written chains ----------------------------------------------------------------------------------------------


def foreseen(held: bool, stages: range = range(STAGES)) -> Evidence:
    """Of a model whose half-written chains have answered as they ended, or not."""
    learned = Evidence()
    for stage in stages:
        for _ in range(200):
            learned.foresight.saw(stage, held=held)
    return learned


def test_half_written_chains_that_agree_end_a_vote_early() -> None:
    chains = [says("7"), says("9"), *[says("7", long=9)] * 6]
    plain, early = ask(*chains, by="votes", n=32), ask(*chains, by="probes", n=32, learned=foreseen(True))
    assert early.tokens("probe")
    assert "7" in early.outcome.answer.text
    assert early.spending.generated < plain.spending.generated


def test_chains_whose_answers_did_not_hold_are_asked_no_more() -> None:
    assert not ask(says("7"), by="probes", learned=foreseen(False)).tokens("probe")
    late = ask(says("7"), by="probes", learned=foreseen(False, range(3)))
    assert late.tokens("probe") == [] or len(late.tokens("probe")) == 3


def test_the_ends_of_chains_teach_at_which_stage_their_answers_hold() -> None:
    asked = ask(says("7"), says("9"), *[says("7", long=9)] * 6, by="probes")
    assert asked.tokens("probe")
    assert any(asked.learned.foresight.holds(stage) > 0.5 for stage in range(STAGES))
    seeded = ask(says("7"), by="probes", seed=1)
    assert not seeded.tokens("probe")


def test_stages_are_quarters_of_a_typical_chain() -> None:
    assert [Foresight.stage(tokens, 100) for tokens in (0, 24, 25, 99, 100, 1000)] == [0, 0, 1, 3, 4, 7]
