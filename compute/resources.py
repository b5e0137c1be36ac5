"""What the runs of one request share: the model, its lengths, its reward model, and the request's share of both."""

from __future__ import annotations

from dataclasses import dataclass, field

from ponder.compute.engine import Engine, RewardModel
from ponder.compute.evidence import Evidence
from ponder.compute.lengths import Lengths
from ponder.compute.policy import BUILT_IN, Policy
from ponder.compute.price import Price
from ponder.compute.slots import Share


@dataclass(frozen=True, slots=True)
class Resources:
    """The model, what is known of the lengths of its chains, and a reward model where there is one."""

    engine: Engine
    lengths: Lengths
    reward_model: RewardModel | None = None
    writing: Share | None = None
    """The request's share of the model's slots; None where nobody counts them."""
    judging: Share | None = None
    """The same of the reward model's."""
    evidence: Evidence = field(default_factory=Evidence)
    """What was learned about evidence beside votes."""
    policy: Policy = BUILT_IN
    """The numbers that `auto` goes by for this model."""
    price: Price | None = None
    """What its tokens cost; None where nobody knows."""
