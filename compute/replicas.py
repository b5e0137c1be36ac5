"""What is known of the replicas of a model, for who looks at the server: its health page, its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

ReplicaState = Literal["joining", "up", "trial", "away", "draining"]
"""Not proved yet · it is used · it was away and is given one call to show that it writes · it is not used, and asked
again later · it was taken out, and what it had begun goes on to its end."""


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """How one replica stands. Counts grow only, as long as it is a member."""

    url: str
    state: ReplicaState
    why: str
    """What is in the way of its use; empty where nothing is."""
    in_flight: int
    """Calls of this server that it works on."""
    places: int
    """Calls that it works on at a time, as far as is known."""
    weight: float
    """Its share of the requests that are new, of 1."""
    running: int | None
    """Calls of anybody's that it works on, by its own word; None where it has not said so lately."""
    waiting: int | None
    """The same of those that wait for it."""
    cache: float | None
    """The same: the share of its KV cache that is in use, of 1."""
    calls: int
    """Calls that it was given."""
    spilled: int
    """Of those, the ones that another should have had, which was full or away."""
    lost: int
    """Calls that were gone on with elsewhere, as it went away or failed."""
    falls: int
    """How often it went away."""


@runtime_checkable
class HasReplicas(Protocol):
    """An engine that is several, each behind an address."""

    @property
    def replicas(self) -> Sequence[ReplicaFacts]: ...
