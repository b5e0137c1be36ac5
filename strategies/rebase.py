"""REBASE, reward balanced search (Wu et al. 2024, "Inference Scaling Laws"): no half-written chain is cut at a rank.

After each step every chain goes on with as many branches as its share of the reward buys: the places in the race that
are not taken by finished chains are divided in proportion to exp(score / temperature).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate
from ponder.strategies.steps import KeptSteps, Scored, StepTokens, elect, offer_best, ranked, spread


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Rebase:
    """Half-written chains, each branched as often as its share of the reward buys."""

    judged: ClassVar[bool] = True

    beams: Annotated[int, Field(ge=1, le=64, description="Chains in the race at a time")] = 8
    temperature: Annotated[
        float,
        Field(ge=0.01, le=10, description="How even the branches are shared out: low is for the best chains alone"),
    ] = 0.2
    step_tokens: StepTokens = 64
    steps: KeptSteps = 64

    async def __call__(self, run: Run) -> Candidate:
        beams = run.chains(self.beams)
        if beams == 1:
            return await run.stream()
        finished: list[Scored] = []
        latest: list[Scored] = []
        race = [(Scored(run.blank), beams)]
        for left in reversed(range(self.steps)):
            scored = await spread(run, race, self.step_tokens)
            latest = scored or latest
            finished += [beam for beam in scored if beam.candidate.over]
            half = ranked(scored)
            await offer_best(run, finished, half)
            branches = shared_out(beams - len(finished), [beam.value for beam in half], self.temperature)
            race = [(beam, n) for beam, n in zip(half, branches, strict=True) if n]
            if race and not left:
                finished += await spread(run, [(beam, 1) for beam, _ in race], None)
            if not race or not left:
                break
        return await elect(run, finished or latest)


def shared_out(places: int, scores: Sequence[float], temperature: float) -> list[int]:
    """How many of the places each score gets, in proportion to exp(score / temperature): all of them together, by the
    largest remainders, of equals to the first."""
    if places < 1 or not scores:
        return [0] * len(scores)
    top = max(scores)
    powers = [exp((score - top) / temperature) for score in scores]
    quotas = [places * power / sum(powers) for power in powers]
    branches = [int(quota) for quota in quotas]
    remainders = sorted(range(len(scores)), key=lambda i: (branches[i] - quotas[i], i))
    for i in remainders[: places - sum(branches)]:
        branches[i] += 1
    return branches
