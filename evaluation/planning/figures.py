"""What became of the requests of a simulated fleet."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

SHARES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Spread:
    """Many times, in seconds."""

    mean: float
    p50: float
    p95: float
    p99: float

    @staticmethod
    def of(values: array[float]) -> Spread:
        if not values:
            return Spread(0.0, 0.0, 0.0, 0.0)
        ordered = sorted(values)
        each = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in SHARES)
        return Spread(sum(ordered) / len(ordered), *each)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the requests that came once the fleet was warm, unless it says otherwise. Times in seconds."""

    requests: int
    """That were answered."""
    refused: int
    """As too many waited."""
    seconds: float
    """From the first of them that came to the last."""
    seconds_all: float
    """From the beginning until the last was answered."""
    per_second: float
    """Requests answered, by when they ended, until the last had come."""
    tokens_per_second: float
    """Written in that time, those of stopped chains included."""
    latency: Spread
    queued: Spread
    """For a place at the door."""
    slot_wait: Spread
    """Of each chain, for a slot of its door."""
    replica_wait: Spread
    """Of each chain, for a place in its replica's batch."""
    owners: Mapping[str, Spread]
    """Latency by key."""
    slots_used: float
    """The part of all slots, the mean over time."""
    uneven: float
    """The busiest replica's chains over the mean, the mean over the looks that were taken."""
    cached: float
    """The part of all prompt tokens that was in a prefix cache."""
    chains: float
    """A request, the mean."""
    tokens: float
    """A request, the mean."""
    door_busy: float
    """The part of its one processor that the busiest door used."""
    moved: int
    """Chains that went on elsewhere as their replica was gone."""
    again: int
    """Tokens that were read again for that."""


@dataclass(slots=True)
class Tally:
    """Figures in the making."""

    latency: array[float] = field(default_factory=lambda: array("d"))
    queued: array[float] = field(default_factory=lambda: array("d"))
    slot_wait: array[float] = field(default_factory=lambda: array("d"))
    replica_wait: array[float] = field(default_factory=lambda: array("d"))
    owners: dict[str, array[float]] = field(default_factory=dict[str, "array[float]"])
    refused: int = 0
    ended: int = 0
    """Until the last had come."""
    tokens: float = 0.0
    chains: int = 0
    read: int = 0
    hit: int = 0
    moved: int = 0
    again: int = 0
