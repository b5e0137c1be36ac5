"""Behind a server that was killed, what it ran behind its callers has failed or is finished, and never runs on, and
whoever was sent an event finds it again."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ponder.server.settings import IdempotencySettings, Settings
from tests.metering.ledgers import rows
from tests.metering.test_responses import kept
from tests.server.keeping import events_of, keeping, numbers
from tests.server.serving import scripted

ROOT = Path(__file__).parent.parent.parent
SECRET = "s" * 32
SETTINGS = Settings(idempotency=IdempotencySettings(secret=SECRET))  # type: ignore[arg-type]


def killed(address: str, seed: int) -> list[dict[str, Any]]:
    """Starts a server, and kills it behind some of the lines it tells; all of them."""
    command = [sys.executable, "-m", "tests.server.killed_background", address, SECRET, str(seed)]
    many = random.Random(seed).randrange(1, 250)
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(many)]
        process.kill()
        lines += process.stdout.readlines()
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def look(address: str, told: list[dict[str, Any]]) -> Counter[str]:
    """Another server says of all that was told what it came to."""

    async def go() -> Counter[str]:
        found = Counter[str]()
        async with keeping(scripted(), address, SETTINGS) as on:
            ids = dict.fromkeys(line["id"] for line in told)
            assert ids.keys() <= kept(address).keys()
            for id in ids:
                response = await on.response(id)
                found[response["status"]] += 1
                assert response["status"] in ("completed", "incomplete", "failed", "cancelled")
                assert (response["error"] is not None) == (response["status"] == "failed")
                whole = events_of((await on.one(id, params={"stream": "true"})).text)
                assert numbers(whole) == list(range(len(whole)))
                assert whole[-1]["response"]["status"] == response["status"]
                mine = [line for line in told if line["id"] == id]
                seen = [line["event"] for line in mine if line.get("event")]
                # A stream that went on until it was over has had the same end.
                assert seen == whole[: len(seen)]
                assert all(line["cancelled"] == response["status"] for line in mine if "cancelled" in line)
            assert not [row for row in kept(address).values() if row["status"] in ("queued", "in_progress")]
            assert not [row for row in rows(address).values() if row["settled_ms"] is None]
        return found

    return asyncio.run(go())


def test_of_what_a_killed_server_ran_nothing_is_lost(
    address: str, record_property: Callable[[str, object], None]
) -> None:
    """On one ledger, so that each server finds what the one before has left: 5 kills for both kinds together."""
    total = Counter[str]()
    for seed in range(3 if address.startswith("sqlite") else 2):
        total += look(address, killed(address, seed))
    record_property("responses", dict(total))
    assert total["completed"]
    assert total["failed"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_of_what_many_killed_servers_ran_nothing_is_lost(
    address: str, record_property: Callable[[str, object], None]
) -> None:
    total = Counter[str]()
    for seed in range(100, 150):
        total += look(address, killed(address, seed))
    record_property("kills", 50)
    record_property("responses", dict(total))
