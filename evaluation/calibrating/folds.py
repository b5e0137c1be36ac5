"""Learns a policy for one model from its recorded samples, and says what it is worth on questions it was not learned
from.

Questions are divided into folds. For each fold thresholds are chosen on the others: of a grid those that draw the
fewest tokens at no more than so many points below the server's own rules, by simulated votes (`simulating.py`). The
real strategy is then replayed over the fold by both. So no question is scored by numbers that were learned from it.
What is not surely better stays the server's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean, variance

from ponder.compute.full_vote import Urn
from ponder.compute.likelihood import lowest_mean, window_of
from ponder.compute.policy import BUILT_IN, Policy
from ponder.compute.text import Candidate, Hidden, Prompt
from ponder.compute.vote import tally
from ponder.engines.samples import Question, Sample
from ponder.evaluation.calibrating.scatter import learn, odds
from ponder.evaluation.calibrating.simulating import Simulator, orders
from ponder.evaluation.intervals import Estimate, difference, mean, ratio
from ponder.evaluation.replaying.replay import Conditions, Replayed, Setup, replay
from ponder.strategies.evidence import told_apart

LEADS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.93, 0.96)
SLOPES = (0.0, 0.1, 0.2, 0.27, 0.35)
STARTS = (2, 3, 4)
"""The server's own are among them."""

NORMAL_975 = 1.96
"""Standard deviations below which 97.5 % are."""

REPLAYED = 60
"""Simulated votes that one replayed request takes as long as."""

PRIOR = 20.0
"""Questions that the server's own urns count for."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a policy is to be learned."""

    folds: int = 5
    draws: int = 20
    """Orders of the samples of each question."""
    loss: float = 0.3
    """Points of accuracy that may be lost for fewer tokens."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Gain:
    """What was learned beside the server's own rules, on questions it was not learned from."""

    points: Estimate
    """Difference in right answers."""
    tokens: Estimate
    """Tokens as a part of those of the server's own rules."""
    steps: Estimate
    """The same of latency."""

    def sure(self, loss: float) -> bool:
        """Fewer tokens at no more than this loss, or more right answers for no more tokens: each with 97.5 % over
        questions of the kind."""
        return (self.tokens.high < 1 and self.points.low >= -loss) or (self.points.low > 0 and self.tokens.high <= 1)


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of it."""

    policy: Policy
    """With what is surely better than the server's own."""
    candidate: Policy
    """All that was learned."""
    gain: Gain
    """Of its thresholds."""
    thresholds: bool
    """They are surely better."""
    urns: Estimate
    """By how much more likely the votes of a question are by the urns that were learned, in natural logarithms."""
    likelihood: Estimate | None
    """The probability that a chain of the answer which wins has a likelier least window than another chain; None
    where likelihoods were not recorded."""
    questions: int
    samples: int


def work(questions: int, terms: Terms) -> int:
    """How many steps of work `calibrate` tells of: votes, simulated or as long as those."""
    return (len(_grid(BUILT_IN)) + 2 * REPLAYED) * questions * terms.draws


def calibrate(
    pools: Sequence[Sequence[Question]],
    model: str | None,
    terms: Terms,
    told: Callable[[int], object] = lambda _: None,
) -> Learned:
    """`told` hears of the steps of work that are done. Raises `ValueError` where there are too few questions, and what
    `replay` does."""
    questions = [question for pool in pools for question in pool]
    if len(questions) < 2 * terms.folds:
        raise ValueError(f"{len(questions)} questions are too few for {terms.folds} folds: twice as many are wanted")
    parts = _folds(questions, terms)
    chosen, whole = _chosen(questions, parts, terms, told)
    gain = _confirmed(questions, parts, chosen, terms, told)
    urns, urns_gain = _urns(questions, parts)
    worth = _worth(questions)
    sure = gain.sure(terms.loss)
    scattered = urns if urns_gain.low > 0 else BUILT_IN.urns
    likely = round(worth.value, 3) if worth is not None and worth.low > 0.5 else BUILT_IN.likelihood
    candidate = replace(whole, urns=urns, likelihood=likely, model=model)
    policy = replace(whole if sure else BUILT_IN, urns=scattered, likelihood=likely, model=model)
    samples = sum(len(question.samples) for question in questions)
    return Learned(policy, candidate, gain, sure, urns_gain, worth, len(questions), samples)


def _folds(questions: Sequence[Question], terms: Terms) -> list[list[int]]:
    """Numbers of questions. One that stands in several pools, by its name and right answers, is in one fold."""
    same: dict[tuple[str, str | None], list[int]] = {}
    for number, question in enumerate(questions):
        same.setdefault((question.name, question.gold), []).append(number)
    groups = list(same.values())
    random.Random(terms.seed).shuffle(groups)  # noqa: S311 (no secret)
    return [[number for group in groups[i :: terms.folds] for number in group] for i in range(terms.folds)]


# -- thresholds -------------------------------------------------------------------------------------------------------


def _grid(policy: Policy) -> list[Policy]:
    """The server's own first."""
    tried = {(policy.lead, policy.slope, policy.start): None} | dict.fromkeys(product(LEADS, SLOPES, STARTS))
    fits = ((lead, slope, start) for lead, slope, start in tried if lead - slope >= 0.5 and start <= policy.chains)
    return [replace(policy, lead=lead, slope=slope, start=start) for lead, slope, start in fits]


@dataclass(frozen=True, slots=True)
class _Tried:
    """Numbers over all questions: the part of right answers, and the mean of tokens, of each."""

    policy: Policy
    right: list[float]
    tokens: list[float]


def _chosen(
    questions: Sequence[Question], parts: Sequence[Sequence[int]], terms: Terms, told: Callable[[int], object]
) -> tuple[list[Policy], Policy]:
    """What is chosen without each fold, and over all questions."""
    drawn = orders(questions, terms.draws, BUILT_IN.chains, terms.seed)
    rows: list[_Tried] = []
    for policy in _grid(BUILT_IN):
        simulator = Simulator(policy, policy.tokens)
        right: list[float] = []
        tokens: list[float] = []
        for question, of in zip(questions, drawn, strict=True):
            voted = [simulator.vote(samples) for samples in of]
            right.append(fmean(one.answer in question.right for one in voted))
            tokens.append(fmean(one.tokens for one in voted))
            told(terms.draws)
        rows.append(_Tried(policy, right, tokens))
    every = range(len(questions))
    without = [_best(rows, [q for q in every if q not in set(part)], terms.loss) for part in parts]
    return without, _best(rows, list(every), terms.loss)


def _best(rows: Sequence[_Tried], of: Sequence[int], loss: float) -> Policy:
    """The fewest tokens among those that surely lose no more than is allowed: what is chosen for being good where it
    was looked at is worse elsewhere."""
    own = rows[0]

    def surely(row: _Tried) -> float:
        """Points that it is better than the server's own, with 97.5 %."""
        points = [100 * (row.right[q] - own.right[q]) for q in of]
        return fmean(points) - NORMAL_975 * (variance(points) / len(points)) ** 0.5

    def tokens(row: _Tried) -> float:
        return sum(row.tokens[q] for q in of)

    return min((row for row in rows if surely(row) >= -loss), key=tokens).policy


def _confirmed(
    questions: Sequence[Question],
    parts: Sequence[Sequence[int]],
    chosen: Sequence[Policy],
    terms: Terms,
    told: Callable[[int], object],
) -> Gain:
    """The real strategy over each fold by what was chosen without it, beside the server's own."""
    setup = Setup.of("auto")
    conditions = Conditions(draws=terms.draws, seed=terms.seed, verifier="agreement")
    mine: list[list[Replayed]] = []
    own: list[list[Replayed]] = []
    for part, policy in zip(parts, chosen, strict=True):
        fold = [questions[q] for q in part]
        for kept, by in ((mine, policy), (own, BUILT_IN)):
            kept += replay(fold, setup, replace(conditions, policy=by), lambda: told(REPLAYED)).requests

    def pair(of: Callable[[Replayed], float]) -> tuple[list[list[float]], list[list[float]]]:
        return [[of(one) for one in question] for question in mine], [[of(one) for one in q] for q in own]

    return Gain(
        difference(*pair(lambda one: one.right), 100),
        ratio(*pair(lambda one: one.tokens)),
        ratio(*pair(lambda one: one.steps)),
    )


# -- how answers scatter, and what likelihood tells -------------------------------------------------------------------


def _urns(questions: Sequence[Question], parts: Sequence[Sequence[int]]) -> tuple[tuple[Urn, ...], Estimate]:
    """Those of all questions, and what those of the others are worth on each fold."""
    gains: list[list[float]] = []
    for part in parts:
        rest = [question for q, question in enumerate(questions) if q not in set(part)]
        urns = learn([rest], BUILT_IN.urns, PRIOR)
        gains += [[odds(questions[q], urns) - odds(questions[q], BUILT_IN.urns)] for q in part]
    return learn([list(questions)], BUILT_IN.urns, PRIOR), mean(gains)


def _worth(questions: Sequence[Question]) -> Estimate | None:
    """How well the least likely window of chains tells the answers that win from others."""
    lengths = sorted(sample.tokens for question in questions for sample in question.samples)
    window = window_of(lengths[len(lengths) // 2])
    found = [[worth] for question in questions for worth in _apart(question, window)]
    return mean(found) if len(found) > 1 else None


def _apart(question: Question, window: int) -> Iterator[float]:
    samples = [sample for sample in question.samples if sample.likelihood]
    if len(samples) < 2:
        return
    lowest = [lowest_mean(sample.likelihood, max(1, round(window / sample.window))) for sample in samples]
    chains = [_chain(number, sample) for number, sample in enumerate(samples)]
    vote = tally(chains, [1.0] * len(samples), [sample.answer for sample in samples])
    worth = told_apart(vote, lowest)
    if worth is not None:
        yield worth


def _chain(number: int, sample: Sample) -> Candidate:
    """A sample as a vote knows it."""
    return Candidate(number, Prompt(()), Hidden(()), Hidden(""), "", sample.tokens, 0, False, "finished")
