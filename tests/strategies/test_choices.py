"""Each strategy on scripts where the right choice is known."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from math import isclose
from typing import ClassVar, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import EngineError
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Selection, Strategy
from ponder.compute.text import Candidate, Hidden, Message, Prompt, Score
from ponder.compute.transcript import Transcript
from ponder.compute.vote import Vote
from ponder.strategies import STRATEGIES
from ponder.strategies.beam_search import BeamSearch
from ponder.strategies.best_of_n import BestOfN
from ponder.strategies.dvts import Dvts
from ponder.strategies.majority_vote import MajorityVote
from ponder.strategies.particle_filter import ParticleFilter
from ponder.strategies.revision import Revision
from ponder.strategies.voting import lead_probability, settled, votes_to_settle
from ponder.testing import Chain, Script, ScriptedEngine, ScriptedRewards, VirtualTimeLoop, always, question


def says(*answers: str) -> Script:
    return always(*[Chain(f"thought {i}\n", f"The answer is {a}." if a else "Hm") for i, a in enumerate(answers)])


@dataclass(frozen=True)
class Likes:
    """A verifier that gives each text the score a table names, 0 to others."""

    table: dict[str, float]

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [Score(next((v for k, v in self.table.items() if k in c.text), 0.0)) for c in candidates]


@dataclass(frozen=True)
class Dies:
    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        raise EngineError("the verifier is away")


@dataclass(frozen=True)
class ByRewards:
    """The lowest step score of the reward model."""

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [Score(min(r.steps, default=0.0), r.steps) for r in await run.reward(candidates)]


@dataclass(frozen=True)
class Runs(Likes):
    """The same, as a verifier that runs or checks the answer."""

    exact: ClassVar[bool] = True


@dataclass(frozen=True)
class Hangs:
    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        await asyncio.sleep(3600)
        return []


@dataclass(frozen=True)
class Breaks:
    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        raise ValueError("a defect of a plug-in")


@dataclass(frozen=True)
class Miscounts:
    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [Score(1.0)]


EVEN = Likes({"": 0.5})


async def deaf(_: Delta) -> None:
    return


def outcome(
    strategy: Strategy,
    engine: ScriptedEngine,
    *,
    verifier: object = EVEN,
    budget: int = 100_000,
    judge: Callable[[str], float] | None = None,
    delay: float = 0.0,
    timeout: float | None = None,
    seed: int | None = None,
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    answer: int = 100,
) -> Outcome:
    plan = Plan(
        prompt=Prompt((Message("user", "How many?"),)),
        strategy=Selection("it", strategy),
        budget=Budget(budget, answer),
        sampling=Sampling(thinking=0, answer=0, seed=seed),
        timeout=timeout,
        verifier=Selection("given", verifier),  # pyright: ignore[reportArgumentType]
        fallback=Selection("even", EVEN),
    )
    rewards = ScriptedRewards(judge, delay=delay) if judge else None
    resources = Resources(engine, Lengths(20, 40), rewards)
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(execute(plan, resources, Spending(plan.budget), deaf))


# -- majority vote ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["parallel", "rounds"])
def test_the_answer_of_most_chains_wins(mode: str) -> None:
    strategy = MajorityVote(n=5, mode=mode, confidence=1)  # pyright: ignore[reportArgumentType]
    out = outcome(strategy, ScriptedEngine(says("9", "7", "9", "7", "7")))
    assert "7" in out.answer.text
    assert isclose(out.agreement or 0, 3 / 5)


def test_equal_answers_written_differently_vote_together() -> None:
    out = outcome(MajorityVote(n=3, confidence=1), ScriptedEngine(says("1/2", "9", "0.5")))
    assert isclose(out.agreement or 0, 2 / 3)


@pytest.mark.parametrize("mode", ["parallel", "rounds"])
def test_a_settled_vote_stops_early_and_the_rest_is_not_drawn(mode: str) -> None:
    engine = ScriptedEngine(always(*[Chain("so " * (10 + 10 * i), "The answer is 7.") for i in range(64)]))
    strategy = MajorityVote(n=64, mode=mode, confidence=0.95)  # pyright: ignore[reportArgumentType]
    out = outcome(strategy, engine)
    assert "7" in out.answer.text
    assert engine.running == 0
    assert engine.produced < 64 * 1000 // 3  # all 64 to their ends: 64 * 1000 or so
    if mode == "parallel":
        assert out.stopped_by == "early_agreement"


def test_a_vote_counted_to_the_end_stops_only_when_nobody_can_catch_up() -> None:
    engine = ScriptedEngine(says("7"), delay=0.0)
    out = outcome(MajorityVote(n=9, mode="rounds", first=5, confidence=1), engine)
    assert out.samples == 5


def test_of_a_tie_the_answer_seen_first_wins() -> None:
    out = outcome(MajorityVote(n=4, mode="rounds", confidence=1), ScriptedEngine(says("9", "7", "7", "9")))
    assert "9" in out.answer.text


def test_chains_without_an_answer_do_not_vote_but_are_paid() -> None:
    engine = ScriptedEngine(says("", "", "7"))
    out = outcome(MajorityVote(n=3, confidence=1), engine)
    assert "7" in out.answer.text
    assert out.spent.generated == engine.produced
    assert out.agreement == 1.0


def test_with_no_answers_at_all_the_first_chain_stands() -> None:
    out = outcome(MajorityVote(n=3, confidence=1), ScriptedEngine(says("")))
    assert out.answer.text == "Hm"


def test_the_beta_rule_is_the_tail_of_a_binomial() -> None:
    assert isclose(lead_probability(4, 0), 1 - 0.5**5)
    assert isclose(lead_probability(3, 3), 0.5)
    assert isclose(lead_probability(1, 3), 1 - lead_probability(3, 1))


# -- best of n --------------------------------------------------------------------------------------------------------


def test_best_of_n_adds_up_the_scores_of_equal_answers() -> None:
    engine = ScriptedEngine(says("7", "7", "9"))
    verifier = Likes({"7": 0.4, "9": 0.6})
    assert "7" in outcome(BestOfN(n=3), engine, verifier=verifier).answer.text
    assert "9" in outcome(BestOfN(n=3, select="argmax"), engine, verifier=verifier).answer.text


def test_a_verifier_that_dies_gives_way_to_agreement_and_it_is_said() -> None:
    out = outcome(BestOfN(n=3), ScriptedEngine(says("9", "7", "7")), verifier=Dies())
    assert "7" in out.answer.text
    assert out.degraded
    assert out.verifier == "even"


@pytest.mark.parametrize("verifier", [Breaks(), Miscounts()])
def test_a_verifier_with_a_defect_gives_way_to_agreement_too(verifier: object) -> None:
    out = outcome(BestOfN(n=3), ScriptedEngine(says("9", "7", "7")), verifier=verifier)
    assert "7" in out.answer.text
    assert out.degraded


def test_a_verifier_that_hangs_gives_way_to_agreement_while_there_is_time() -> None:
    out = outcome(BestOfN(n=3), ScriptedEngine(says("9", "7", "7")), verifier=Hangs(), timeout=1.0)
    assert "7" in out.answer.text
    assert (out.degraded, out.stopped_by) == (True, "finished")


def test_where_the_verifier_runs_the_answer_a_failing_one_gains_nothing_by_being_written_often() -> None:
    engine = ScriptedEngine(says("9", "9", "9", "7"))
    assert "7" in outcome(BestOfN(n=4), engine, verifier=Runs({"9": 0.5, "7": 1.0})).answer.text
    several = ScriptedEngine(says("9", "8", "7", "7"))
    assert "7" in outcome(BestOfN(n=4), several, verifier=Runs({"9": 0.5, "8": 1.0, "7": 1.0})).answer.text


def test_answers_that_cannot_be_compared_are_said_to_be_and_the_best_scored_stands() -> None:
    engine = ScriptedEngine(
        always(Chain("a\n", "Roses are red in the garden"), Chain("b\n", "Violets are blue in the garden"))
    )
    out = outcome(BestOfN(n=2), engine, verifier=Likes({"Violets": 0.9, "Roses": 0.1}))
    assert out.ungrouped
    assert out.agreement is None
    assert "Violets" in out.answer.text
    assert not outcome(BestOfN(n=3), ScriptedEngine(says("7"))).ungrouped


PROSE = always(Chain("a\n", "Roses are red in the garden"), Chain("b\n", "Violets are blue in the garden"))
FOND = Likes({"Violets": 0.9, "Roses": 0.1})


@pytest.mark.parametrize("mode", ["parallel", "rounds"])
def test_where_there_is_nothing_to_vote_on_the_first_stands_or_the_verifier_s_favourite(
    mode: Literal["parallel", "rounds"],
) -> None:
    first = outcome(MajorityVote(n=2, mode=mode), ScriptedEngine(PROSE), verifier=FOND)
    assert "Roses" in first.answer.text
    assert first.ungrouped
    liked = outcome(MajorityVote(n=2, mode=mode, unanswered="verifier"), ScriptedEngine(PROSE), verifier=FOND)
    assert "Violets" in liked.answer.text
    assert liked.ungrouped
    assert MajorityVote(unanswered="verifier").judged
    assert not MajorityVote().judged


def test_where_there_is_something_to_vote_on_the_verifier_of_a_vote_is_not_asked() -> None:
    voted = outcome(
        MajorityVote(n=3, unanswered="verifier"), ScriptedEngine(says("7", "7", "9")), verifier=Likes({"9": 1.0})
    )
    assert "7" in voted.answer.text
    assert voted.score is None


def test_a_verifier_that_lies_about_one_chain_is_outvoted() -> None:
    engine = ScriptedEngine(says("7", "7", "9", "7"))
    assert "7" in outcome(BestOfN(n=4), engine, verifier=Likes({"7": 0.4, "9": 1.0})).answer.text


def test_one_sample_is_the_answer() -> None:
    assert "7" in outcome(BestOfN(n=1), ScriptedEngine(says("7"))).answer.text


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_when_every_chain_is_cut_there_is_still_an_answer(name: str) -> None:
    engine = ScriptedEngine(always(Chain("on and on " * 100, "The answer is 7.")))
    out = outcome(STRATEGIES[name](), engine, budget=60, judge=lambda line: 0.5)
    assert out.answer.text == "The answer is 7."
    assert out.stopped_by == "budget"


# -- revision ---------------------------------------------------------------------------------------------------------


def revising(*versions: str) -> Script:
    """The first version is the draft, each check gives the next."""

    def script(prompt: Prompt, thought: str, call: int) -> Chain:
        done = sum(m.role == "assistant" for m in prompt.messages)
        return Chain(
            f"version {done} of {question(prompt)}\n", f"The answer is {versions[min(call, len(versions) - 1)]}."
        )

    return script


def test_a_revision_sees_the_draft_and_every_version_is_kept() -> None:
    engine = ScriptedEngine(revising("9", "7", "9", "9"))
    out = outcome(Revision(rounds=3), engine, verifier=Likes({"7": 0.9, "9": 0.2}))
    assert "7" in out.answer.text
    assert [m.content for m in engine.prompts[1].messages] == [
        "How many?",
        "The answer is 9.",
        "Check each step and fix any mistake.",
    ]


def test_an_answer_that_stands_through_two_checks_is_not_checked_again() -> None:
    engine = ScriptedEngine(revising("7"))
    outcome(Revision(rounds=9), engine)
    assert engine.calls == 3


def test_drafts_side_by_side_are_each_revised() -> None:
    engine = ScriptedEngine(revising("1", "2", "3", "4", "5", "6"))
    outcome(Revision(chains=3, rounds=1), engine)
    assert engine.calls == 6


@pytest.mark.parametrize("budget", [90, 130, 200])
def test_a_revision_cut_by_its_budget_keeps_what_the_verifier_preferred(budget: int) -> None:
    out = outcome(
        Revision(rounds=9), ScriptedEngine(revising("9", "7", *"8654321")), verifier=Likes({"7": 1}), budget=budget
    )
    assert out.stopped_by == "budget"
    assert "7" in out.answer.text


def test_a_version_that_an_exact_verifier_passes_is_not_revised() -> None:
    engine = ScriptedEngine(revising("9", "7", "8"))
    assert "7" in outcome(Revision(rounds=5), engine, verifier=Runs({"7": 1.0, "9": 0.3})).answer.text
    assert engine.calls == 2


# -- searches over steps ----------------------------------------------------------------------------------------------

GOOD = Chain("good start\ngood middle\ngood end\n", "The answer is 7.")
BAD = Chain("bad start\nbad middle\nbad end\n", "The answer is 9.")


def good(line: str) -> float:
    return 0.9 if line.startswith("good") else 0.1


@pytest.mark.parametrize(
    "strategy",
    [BeamSearch(beams=4, width=2), BeamSearch(beams=4, width=2, lookahead=1), Dvts(beams=4, width=2), ParticleFilter()],
)
@pytest.mark.parametrize("delay", [0.0, 0.01])
def test_a_search_follows_the_steps_its_reward_model_likes(strategy: Strategy, delay: float) -> None:
    engine = ScriptedEngine(always(BAD, GOOD))
    out = outcome(strategy, engine, verifier=ByRewards(), judge=good, delay=delay)
    assert "7" in out.answer.text
    assert out.spent.generated == engine.produced


def test_identical_beams_count_once_and_the_next_best_takes_their_place() -> None:
    """Kept twice, the favourite would crowd out the one that is right."""
    late = Chain("fair start\ngood middle\ngood end\n", "The answer is 7.")
    early = Chain("good start\nbad middle\nbad end\n", "The answer is 9.")
    engine = ScriptedEngine(always(early, early, early, late))
    scores = {"good start": 0.8, "fair start": 0.5}
    out = outcome(
        BeamSearch(beams=4, width=2), engine, verifier=ByRewards(), judge=lambda line: scores.get(line, good(line))
    )
    assert "7" in out.answer.text


def test_the_race_stays_as_wide_as_asked_when_beams_are_alike() -> None:
    engine = ScriptedEngine(always(GOOD))
    outcome(BeamSearch(beams=4, width=2), engine, verifier=ByRewards(), judge=good)
    steps = 4
    assert engine.calls == 4 * steps


def test_a_beam_that_is_sure_to_be_kept_does_not_wait_for_the_slow_ones() -> None:
    """Beams in lockstep would end with the slowest of every step; here the best is two steps on by then."""
    order: list[str] = []

    def script(prompt: Prompt, thought: str, call: int) -> Chain:
        order.append(thought)
        return SLOW if call == 3 else FAST if thought in ("", FAST.thought[: len(thought)]) else SLOW

    outcome(BeamSearch(beams=4, width=2), ScriptedEngine(script, delay=0.001), verifier=ByRewards(), judge=good)
    assert order.index("good start\n") < len(order) - 1
    begun = [thought for thought in order if thought]
    assert begun[0] == "good start\n"


SLOW = Chain("bad " * 60 + "\nbad end\n", "The answer is 9.")
FAST = Chain("good start\ngood middle\ngood end\n", "The answer is 7.")


@pytest.mark.parametrize("strategy", [BeamSearch(beams=8, width=2), Dvts(beams=8, width=2), ParticleFilter()])
@pytest.mark.parametrize("budget", [4, 40, 64, 100])
def test_a_search_does_not_split_a_small_budget_into_starving_beams(strategy: Strategy, budget: int) -> None:
    """Nor does it go on asking for steps that nothing is left for."""
    engine = ScriptedEngine(always(BAD, GOOD))
    out = outcome(strategy, engine, verifier=ByRewards(), judge=good, budget=budget)
    assert out.stopped_by == "budget"
    assert out.samples < out.samples_requested == 8
    assert engine.calls <= 12
    assert all(s.thinking >= min(8, budget - 8) for s in engine.samplings[:2])


def test_a_reward_model_that_lies_does_not_keep_a_search_from_answering() -> None:
    for strategy in (BeamSearch(), Dvts(), ParticleFilter()):
        out = outcome(
            strategy, ScriptedEngine(always(BAD, GOOD)), verifier=ByRewards(), judge=lambda line: 1 - good(line)
        )
        assert "9" in out.answer.text
        assert out.complete


def test_pruned_beams_are_paid() -> None:
    engine = ScriptedEngine(always(BAD, GOOD))
    out = outcome(BeamSearch(beams=4, width=2), engine, verifier=ByRewards(), judge=good)
    assert out.spent.discarded > 0
    assert out.spent.hidden == engine.produced - out.spent.visible


@pytest.mark.parametrize("strategy", [BeamSearch, Dvts])
def test_fewer_beams_than_width_is_refused_with_the_numbers(strategy: type[object]) -> None:
    with pytest.raises(ValidationError, match=r"beams \(2\) must be at least width \(4\)"):
        TypeAdapter(strategy).validate_python({"beams": 2, "width": 4})


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 1])
def test_a_vote_wants_as_many_more_votes_as_would_settle_it(confidence: float) -> None:
    leader = Candidate(0, Prompt((Message("user", "?"),)), Hidden(()), Hidden(""), "7", 0, 1, False, "finished")
    for first, second, outstanding in itertools.product(range(1, 9), range(9), range(1, 12)):
        if second <= first:
            counts = tuple(votes for votes in (first, second) if votes)

            def after(more: int, counts: tuple[int, ...] = counts) -> Vote:
                told = (counts[0] + more, *counts[1:])
                return Vote(leader, told, tuple(map(float, told)), sum(told))

            wanted = votes_to_settle(after(0), outstanding, confidence)
            enough = [n for n in range(1, outstanding) if settled(after(n), outstanding - n, confidence)]
            assert wanted == (enough[0] if enough else outstanding)
    assert not settled(Vote(leader, (4, 4), (4.0, 4.0), 8), 0, 0.8), "a tie is not settled when all have voted"


# -- the same again ---------------------------------------------------------------------------------------------------


class Hurried(ScriptedEngine):
    """Begins each chain late by a chance that its seed does not decide."""

    chance = random.Random(0)

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        await asyncio.sleep(self.delay * self.chance.randrange(100))
        async with aclosing(super().generate(prompt, sampling, transcript)) as stream:
            async for delta in stream:
                yield delta


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_the_same_seed_gives_the_same_answer_however_the_engine_is_hurried(name: str) -> None:
    """The order in which chains end changes from run to run; what is chosen does not."""

    def script(prompt: Prompt, thought: str, seed: int) -> Chain:
        chance = random.Random(f"{seed}{thought}")
        steps = thought or f"{'good' if chance.random() < 0.5 else 'bad'} {chance.random():.3f}\n"
        return Chain(steps + f"{'so ' * chance.randrange(20)}\nend\n", f"The answer is {chance.randrange(4)}.")

    def once(delay: float) -> str:
        engine = Hurried(script, seeded=True, delay=delay)
        strategy = STRATEGIES[name]()
        out = outcome(strategy, engine, verifier=ByRewards(), judge=good, seed=5, loop=VirtualTimeLoop)
        return out.answer.text

    assert {once(0.0), once(0.3), once(1.0)} == {once(0.0)}
