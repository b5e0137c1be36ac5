"""A server under load as compose.yaml has it, without containers: its configuration made by setup.sh, its ledger in a
PostgreSQL, a Prometheus that watches it. It is started once for all tests of a file."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ponder.server.auth import keys
from tests.deploy.prometheus import Prometheus, configuration, prometheus
from tests.metering.databases import PostgreSQL
from tests.metering.ledgers import rows
from tests.server.serving import ASK, PATH, until
from tests.test_architecture import ROOT

LOOK = 0.5
"""Seconds between two looks of Prometheus."""
SECONDS = 5.0
"""Of load, at least."""
EACH = 8
"""Requests of a caller, at least: some of each form."""
FORMS: tuple[dict[str, Any], ...] = (
    {"strategy": "direct", "thinking_budget": 60},
    {"strategy": {"name": "majority_vote", "n": 5}, "thinking_budget": 400},
    {"strategy": {"name": "best_of_n", "n": 5, "select": "argmax"}, "verifier": "prm", "thinking_budget": 400},
    {
        "strategy": {"name": "best_of_n", "n": 4},
        "verifier": {"name": "rules", "number": 7},
        "thinking_budget": 400,
        "stream": True,
    },
    {"model": "small", "strategy": {"name": "best_of_n", "n": 2}, "verifier": "prm", "thinking_budget": 60},
    {"strategy": "direct", "thinking_budget": 8},
)
MODELS = """
[models.demo]
path = "scripted"
[models.small]
path = "scripted"
[prices]
version = "test"
[prices.default]
input = 1.5
cached_input = 0.3
thinking = 40
answer = 20
verifier = 0.7
[prices.models.small]
input = 1
thinking = 3
"""


def set_up(folder: Path) -> None:
    """What the service `setup` does."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(["sh", ROOT / "deploy" / "setup.sh", folder], check=True, env={**os.environ, "PATH": path})


@dataclass(frozen=True)
class Watched:
    prometheus: Prometheus
    begin: float
    end: float
    """When Prometheus looked first, and last; seconds since 1970."""
    rows: Mapping[str, Mapping[str, Any]]
    """Of the ledger."""
    told: Mapping[str, float]
    """What the responses said it cost, in USD, by key."""
    metrics: bytes


class Load:
    """Callers with two keys, all at once."""

    def __init__(self, url: str, presented: Mapping[str, str]) -> None:
        self._url, self._keys = url, presented
        self.asked: dict[str, list[str]] = {name: [] for name in presented}
        """Request ids, by key."""

    async def run(self) -> None:
        end = time.monotonic() + SECONDS
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as client, asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(self._caller(client, number, end))
            group.create_task(self._others(client, end))

    async def _caller(self, client: httpx.AsyncClient, number: int, end: float) -> None:
        names, asked = list(self._keys), 0
        while time.monotonic() < end or asked < EACH:
            number, asked = number + 7, asked + 1
            name = names[number % len(names)]
            response = await client.post(
                PATH["path"], json=ASK | FORMS[number % len(FORMS)], headers=self._headers(name)
            )
            assert response.status_code == 200, response.text
            self.asked[name].append(response.headers["x-request-id"])

    async def _others(self, client: httpx.AsyncClient, end: float) -> None:
        """Who is refused, and who hangs up."""
        name = next(iter(self._keys))
        while time.monotonic() < end:
            refused = await client.post(PATH["path"], json=ASK | {"n": -1}, headers=self._headers(name))
            assert refused.status_code == 400
            whole = ASK | FORMS[1] | {"stream": True}
            async with client.stream("POST", PATH["path"], json=whole, headers=self._headers(name)) as response:
                self.asked[name].append(response.headers["x-request-id"])
            await client.get("/readyz")

    def _headers(self, name: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._keys[name]}"}


LIMITED = "thinking_tokens_per_day = 1000000\nusd_per_month = 1000\n"
"""Of one of the keys, so that there is something to be near to."""


@contextmanager
def watched(folder: Path, database: PostgreSQL) -> Generator[Watched]:
    set_up(folder)
    config, address = folder / "ponder.toml", database.new()
    bob, its_hash = keys.make()
    words, found = re.subn(r"@postgres/ponder", address.partition("ponder")[2], config.read_text())
    assert found == 1
    config.write_text(words + f'\n[[keys]]\nname = "bob"\nhash = "{its_hash}"\n' + LIMITED + MODELS)
    presented = {"me": (folder / "me.key").read_text(), "bob": bob}
    command = [sys.executable, "-m", "tests.deploy.watched_server", str(config)]
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen[str](command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            port = server.stdout.readline()
            assert port, (folder / "server.log").read_text()[-2000:]
            place = f"127.0.0.1:{int(port)}"
            with prometheus(folder, configuration(place, folder / "scrape.key", LOOK)) as watching:
                until(lambda: watching.instant('up{job="ponder"} == 1', time.time()))
                begin = time.time()
                load = Load(f"http://{place}", presented)
                asyncio.run(load.run())
                until(lambda: all(row["settled_ms"] for row in rows(address).values()))
                written = rows(address)
                whole = sum(row["cost_nano_usd"] for row in written.values()) / 1e9

                def seen() -> bool:
                    """What was settled last is in the rules."""
                    found = watching.instant("sum(sum_over_time(ponder:cost_usd:gained[1h]))", time.time())
                    return bool(found) and abs(found[0][1] - whole) < 1e-9

                until(seen)
                scrape = {"Authorization": f"Bearer {(folder / 'scrape.key').read_text()}"}
                metrics = httpx.get(f"http://{place}/metrics", headers=scrape).content
                told = {
                    name: sum(written[request]["cost_nano_usd"] for request in asked) / 1e9
                    for name, asked in load.asked.items()
                }
                yield Watched(watching, begin, time.time(), written, told, metrics)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
