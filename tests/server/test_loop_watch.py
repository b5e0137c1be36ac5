"""The event loop is watched: what holds it is named, in a metric and in the log, and nothing a caller sent is."""

from __future__ import annotations

import asyncio
import re

import pytest

from ponder.metering.metrics import Metrics
from ponder.metering.series import NAMES
from ponder.server.loop_watch import LoopWatch


def spin(told: list[str], secret: str) -> None:
    """Holds the loop until somebody says so; with a caller's text in its hands."""
    while not told:
        secret.count("a")


def watched(times: int) -> tuple[list[str], list[float]]:
    told: list[str] = []
    lags: list[float] = []

    async def main() -> None:
        with LoopWatch(lags.append, told.append):
            for _ in range(times):
                told.clear()
                spin(told, "TOP SECRET")
                held = len(lags)
                while len(lags) <= held:  # noqa: ASYNC110 - another thread is waited for
                    await asyncio.sleep(0.001)

    asyncio.run(main())
    return told, lags


def test_what_holds_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    told, lags = watched(3)
    assert set(told) == {"tests.server.test_loop_watch:spin"}
    assert max(lags) > 0
    lines = [record.getMessage() for record in caplog.records if "was held for" in record.getMessage()]
    assert len(lines) == 1, "once a minute"
    assert re.search(r"held for \d+\.\d{3} s \(\d+\.\d{3} s of them at work\) in tests\.server", lines[0])
    assert "SECRET" not in caplog.text


def test_a_loop_that_comes_in_time_is_not_spoken_of() -> None:
    told: list[str] = []
    lags: list[float] = []

    async def main() -> None:
        with LoopWatch(lags.append, told.append):
            while len(lags) < 3:  # noqa: ASYNC110 - another thread is waited for
                await asyncio.sleep(0.001)

    asyncio.run(main())
    assert len(lags) >= 3


def test_places_are_counted_and_their_number_is_bounded() -> None:
    metrics = Metrics()
    for i in range(NAMES + 10):
        metrics.held(f"module:function{i}")
    lines = [line for line in metrics.render()[0].decode().splitlines() if "event_loop_held_total{" in line]
    assert len(lines) == NAMES + 1
    assert 'ponder_event_loop_held_total{where="other"} 10.0' in lines
