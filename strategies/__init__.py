"""The ways to spend a thinking budget: one paper, one file, and the table of them."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from strategies.auto import Auto
from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN
from strategies.direct import Direct
from strategies.dvts import Dvts
from strategies.majority_vote import MajorityVote
from strategies.particle_filter import ParticleFilter
from strategies.revision import Revision

STRATEGIES: dict[str, type[Any]] = {
    "direct": Direct,
    "majority_vote": MajorityVote,
    "best_of_n": BestOfN,
    "revision": Revision,
    "beam_search": BeamSearch,
    "dvts": Dvts,
    "particle_filter": ParticleFilter,
    "auto": Auto,
}

GROUP = "ponder.strategies"
"""Entry points of this group add strategies by name; a name of ours cannot be taken."""


def strategies() -> dict[str, type[Any]]:
    """Ours and those of installed packages."""
    return {point.name: point.load() for point in entry_points(group=GROUP)} | STRATEGIES
