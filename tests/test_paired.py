"""What the benchmarks say of two servers that were asked by turns."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import urllib.request
from pathlib import Path

import pytest

from bench import machine
from bench.machine import Server
from bench.paired import Entry, Figures, by_turns, compare, verdict

ROUNDS = 40


def entry(speed: float, memory: float = 100.0) -> Entry:
    """Ours so many times as fast as theirs, on a machine that drifts and whose rounds scatter."""
    chance = random.Random(1)
    each: dict[str, list[Figures]] = {"ponder": [], "before": []}
    for _ in range(ROUNDS):
        drift = chance.uniform(0.5, 2)
        for name, rounds in each.items():
            rate = 100 * drift * chance.gauss(1, 0.02) * (speed if name == "ponder" else 1)
            used = memory if name == "ponder" else 100.0
            rounds.append({"requests_per_second": rate, "latency_p50_ms": 1000 / rate, "memory_mb": used})
    return compare(each, streamed=True, concurrency=8, requests=32)


def test_a_ratio_is_slower_when_its_whole_interval_is(capsys: pytest.CaptureFixture[str]) -> None:
    slow, same, fast = entry(0.95), entry(1.0), entry(1.05)
    assert slow.slower == ["requests_per_second", "latency_p50_ms"]
    assert same.slower == fast.slower == []
    low, high = slow.ratio_interval["requests_per_second"]
    assert 0.93 < low < slow.ratio["requests_per_second"] < high < 1
    verdict([slow, same])
    assert "  requests/s at concurrency 8, streamed\n  latency p50, ms at" in capsys.readouterr().out
    verdict([same, fast])
    assert capsys.readouterr().out == "\nnothing is slower with 95 % certainty\n"


def test_rounds_of_one_start_are_not_taken_for_independent() -> None:
    chance = random.Random(2)
    values = [luck * chance.gauss(1, 0.001) for luck in (0.98, 0.99, 1.01, 1.02) for _ in range(10)]
    low, high = machine.interval(values, 4)
    assert low < 0.985
    assert high > 1.015
    assert machine.interval([0.97] * 40, 4) == (0.97, 0.97)


SERVER = """
import http.server, os, sys

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["XDG_STATE_HOME"].encode())

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""


def test_a_server_that_is_measured_keeps_its_ledger_where_it_is_thrown_away(tmp_path: Path) -> None:
    port = machine.free_port()
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-c", SERVER, str(port)]
        with machine.started("one", command, port, "/", log, {}) as server, urllib.request.urlopen(server.url) as page:
            state = Path(page.read().decode())
            assert state.is_dir()
            assert str(state) != os.environ["XDG_STATE_HOME"]
    assert not state.exists()


def test_a_figure_says_where_its_servers_kept_their_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PONDER_LEDGER__URL", raising=False)
    assert "ledger" not in machine.describe()
    assert "SQLite" in str(machine.describe({})["ledger"])
    assert machine.describe({"PONDER_LEDGER__URL": "none"})["ledger"] == "none"
    assert machine.describe({"PONDER_LEDGER__URL": "postgresql://me:secret@there/db"})["ledger"] == "postgresql"


def test_memory_is_shown_and_not_judged() -> None:
    more = entry(1.0, memory=110.0)
    assert more.ratio["memory_mb"] == 1.1
    assert more.slower == []


def test_servers_take_turns_in_going_first() -> None:
    asked: list[tuple[str, int]] = []

    async def one(server: Server, number: int) -> Figures:
        asked.append((server.name, number))
        return {"requests_per_second": float(number)}

    servers = [Server("ponder", "http://a"), Server("before", "http://b")]
    each = asyncio.run(by_turns(servers, 3, one))
    assert asked == [("ponder", 0), ("before", 0), ("before", 1), ("ponder", 1), ("ponder", 2), ("before", 2)]
    assert [figures["requests_per_second"] for figures in each["before"]] == [0, 1, 2]


def test_what_is_no_checkout_is_said_to_be_none(tmp_path: Path) -> None:
    assert machine.checkout(str(machine.ROOT)) == machine.ROOT
    with pytest.raises(SystemExit, match="is no checkout of Ponder: git worktree add"):
        machine.checkout(str(tmp_path))
