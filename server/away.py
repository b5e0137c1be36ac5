"""Requests that come while the engine of their model is being started again: they wait for it within their time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from ponder.compute.clock import now
from ponder.compute.engine import Engine, Supervision, supervision_of
from ponder.compute.errors import Unavailable
from ponder.compute.replicas import HasReplicas
from ponder.compute.stop import StopSignal
from ponder.metering.metrics import Metrics

LOOK = 0.25
"""Seconds between two looks whether the server goes down meanwhile."""


def refuse_late(engine: Engine, left: float, metrics: Metrics) -> None:
    """Raises `Unavailable` where the model is away and not likely to be back within `left` seconds."""
    supervision = supervision_of(engine)
    if supervision is None or supervision.state == "up":
        return
    if supervision.state == "failed" or supervision.wait >= left:
        raise _away(engine, supervision, metrics)


def is_away(engine: Engine) -> bool:
    """A request would have to wait for it."""
    supervision = supervision_of(engine)
    return supervision is not None and supervision.state != "up"


def went_away(engine: Engine) -> int:
    """How often it has gone and was started again."""
    supervision = supervision_of(engine)
    return 0 if supervision is None else supervision.restarts


async def wait(engine: Engine, left: float, stop_signals: Sequence[StopSignal], metrics: Metrics) -> None:
    """Returns when the model is up. Raises `Unavailable` after `left` seconds, where it cannot be started, and when the
    server goes down."""
    supervision = supervision_of(engine)
    if supervision is None:
        return
    end = now() + left
    while supervision.state != "up":
        if any(signal.reason is not None for signal in stop_signals):
            metrics.rejected("draining")
            raise Unavailable("the server is going down", code="draining", retry_after=5)
        if supervision.state == "failed" or now() >= end:
            raise _away(engine, supervision, metrics)
        with suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(min(LOOK, max(0.0, end - now()))):
                await supervision.ready()


def _away(engine: Engine, supervision: Supervision, metrics: Metrics) -> Unavailable:
    metrics.rejected("engine_unavailable")
    what = (
        "no replica of the model can be used now"
        if isinstance(engine, HasReplicas)
        else ("the model went away and is being started again")
    )
    return Unavailable(
        f"{what}, and this request does not have the time to wait for it",
        code="engine_unavailable",
        retry_after=supervision.wait,
    )
