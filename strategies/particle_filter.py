"""Particle filtering over steps (Puri et al. 2025, "A Probabilistic Inference Approach to Inference-Time Scaling")."""

from __future__ import annotations

import random
from math import exp, log
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate
from ponder.strategies.steps import Scored, StepTokens, elect, grow


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ParticleFilter:
    """Chains resampled in proportion to their promise, rather than cut at a rank."""

    judged: ClassVar[bool] = True

    particles: Annotated[int, Field(ge=1, le=64, description="Chains in the race at a time")] = 8
    threshold: Annotated[
        float, Field(ge=0, le=1, description="Resample when the effective sample size falls below this share of them")
    ] = 0.5
    step_tokens: StepTokens = 64
    steps: Annotated[
        int, Field(ge=1, le=512, description="Steps at most; particles are then written to their ends")
    ] = 64

    async def __call__(self, run: Run) -> Candidate:
        chance = random.Random(run.seed)  # noqa: S311 (sampling, not secrets)
        particles = run.chains(self.particles)
        if particles == 1:
            return await run.stream()
        cloud = await grow(run, [Scored(run.blank)], particles, self.step_tokens)
        for left in reversed(range(self.steps)):
            finished = [p for p in cloud if p.candidate.over]
            if finished:
                await elect(run, finished)
            else:
                run.offer(max(cloud, key=lambda p: p.value).candidate)
            if len(finished) == len(cloud):
                break
            weights = softmax([logit(p.value) for p in cloud])
            if 1 / sum(w * w for w in weights) < self.threshold * len(cloud):
                cloud = chance.choices(cloud, weights, k=len(cloud))
            half = [p for p in cloud if not p.candidate.over]
            grown = await grow(run, half, 1, self.step_tokens if left else None)
            if not grown:
                break
            cloud = [p for p in cloud if p.candidate.over] + grown
        return await elect(run, [p for p in cloud if p.candidate.over] or cloud)


def logit(value: float) -> float:
    """The log-odds of a score in [0, 1], kept finite."""
    value = min(max(value, 1e-6), 1 - 1e-6)
    return log(value / (1 - value))


def softmax(logits: list[float]) -> list[float]:
    """Weights that sum to 1."""
    top = max(logits)
    powers = [exp(x - top) for x in logits]
    total = sum(powers)
    return [p / total for p in powers]
