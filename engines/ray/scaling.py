"""How many replicas a deployment should have, by seconds of backlog: how long the last call that waits will wait.

How many requests wait says little of a model that may think for minutes: ten are nothing to one that answers in a
second. So what counts is what waits, in seconds of work of all replicas that there are or that are being started.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RUNNING, WAITING, OUTSIDE, SECONDS = "ponder_running", "ponder_waiting", "ponder_outside", "ponder_call_seconds"
"""What each replica tells Serve: calls that it works on, and that wait in it; calls that wait at all servers, and the
seconds of one. Of the last two each replica is told the same."""

FULL = 0.7
"""Replicas are taken out where those that are left have no more than this part of their places in use."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What there is to do, over all replicas."""

    running: float
    waiting: float
    """In the replicas and at the servers together."""
    seconds: float
    """Of a call; 0 where that is not known yet."""

    @classmethod
    def of(cls, told: Mapping[str, Mapping[Any, float]]) -> Demand | None:
        """By what the replicas have told, series by series; None where they have told nothing yet."""
        if not (running := told.get(RUNNING)):
            return None
        waiting, outside, seconds = (told.get(name) or {} for name in (WAITING, OUTSIDE, SECONDS))
        return cls(
            sum(running.values()),
            sum(waiting.values()) + max(outside.values(), default=0.0),
            max(seconds.values(), default=0.0),
        )

    def backlog(self, replicas: int, places: int, unknown: float) -> float:
        """Seconds until the last call that waits has a place, with so many replicas of so many places. `unknown`: of a
        call, where nobody knows how long one takes."""
        return self.waiting * (self.seconds or unknown) / (places * max(1, replicas))


def wanted(demand: Demand, replicas: int, *, places: int, seconds: float) -> int:
    """How many replicas should be there, where so many are: as many as bring the backlog down to `seconds`, twice as
    many at most; and fewer where half of that is not waiting and the places of fewer suffice."""
    backlog = demand.backlog(replicas, places, seconds)
    if backlog > seconds:
        return min(2 * replicas, max(replicas + 1, math.ceil(replicas * backlog / seconds)))
    if backlog > seconds / 2:
        return replicas
    return max(1, min(replicas, math.ceil((demand.running + demand.waiting) / (places * FULL))))


class BacklogPolicy:
    """The policy as Serve's controller calls it (`AutoscalingConfig.policy`)."""

    def __init__(self, places: int, seconds: float) -> None:
        """`places`: calls that a replica works on at a time; `seconds` of backlog that are let be."""
        self._places, self._seconds = places, seconds

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        # Those being started count as there: a model is loaded for minutes, and meanwhile the backlog goes on.
        replicas = max(1, int(context.target_num_replicas))
        # The last that each has said: a mean over what Serve looks back at would follow a burst when it is over.
        raw: Mapping[str, Mapping[Any, Sequence[Any]]] = context.raw_metrics or {}
        told = {
            name: {replica: float(series[-1].value) for replica, series in by.items() if series}
            for name, by in raw.items()
        }
        demand = Demand.of(told)
        if demand is None:
            return replicas, {}
        return wanted(demand, replicas, places=self._places, seconds=self._seconds), {}
