"""What the runs of one model share: the model, its lengths, its reward model."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.compute.engine import Engine, RewardModel
from ponder.compute.lengths import Lengths


@dataclass(frozen=True, slots=True)
class Resources:
    """The model, what is known of the lengths of its chains, and a reward model where there is one."""

    engine: Engine
    lengths: Lengths
    reward_model: RewardModel | None = None
