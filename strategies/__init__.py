"""The ways to spend a thinking budget: one paper, one file, and the table of them."""

from __future__ import annotations

from typing import Any

from ponder import under_one_name
from ponder.compute.plugins import loaded, points
from ponder.strategies.auto import Auto
from ponder.strategies.beam_search import BeamSearch
from ponder.strategies.best_of_n import BestOfN
from ponder.strategies.budget_forcing import BudgetForcing
from ponder.strategies.confidence_vote import ConfidenceVote
from ponder.strategies.deep_think import DeepThink
from ponder.strategies.direct import Direct
from ponder.strategies.dvts import Dvts
from ponder.strategies.majority_vote import MajorityVote
from ponder.strategies.particle_filter import ParticleFilter
from ponder.strategies.rebase import Rebase
from ponder.strategies.revision import Revision
from ponder.strategies.short_m_at_k import ShortMAtK
from ponder.strategies.universal_self_consistency import UniversalSelfConsistency

under_one_name(__name__)

STRATEGIES: dict[str, type[Any]] = {
    "direct": Direct,
    "budget_forcing": BudgetForcing,
    "majority_vote": MajorityVote,
    "confidence_vote": ConfidenceVote,
    "short_m_at_k": ShortMAtK,
    "best_of_n": BestOfN,
    "universal_self_consistency": UniversalSelfConsistency,
    "revision": Revision,
    "deep_think": DeepThink,
    "beam_search": BeamSearch,
    "dvts": Dvts,
    "particle_filter": ParticleFilter,
    "rebase": Rebase,
    "auto": Auto,
}

GROUP = "ponder.strategies"
"""Entry points of this group add strategies by name; a name of ours cannot be taken."""


def strategies() -> dict[str, type[Any]]:
    """Ours and those of installed packages. Raises `BrokenPlugin`."""
    return {point.name: loaded("strategy", point) for point in points(GROUP)} | STRATEGIES
