"""The configuration read again while a server serves: what changes, what does not, and what is said of both."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from ponder.server.auth.keys import digest
from ponder.server.load_settings import load
from ponder.server.reload import changes_of
from ponder.server.serve import Starting, rereading
from ponder.server.settings import Limits, Settings, WrongSettings
from ponder.testing import Chain
from tests.metering.ledgers import execute, rows
from tests.server.keyed import audited, keyed, put
from tests.server.serving import its_door, refused, scripted, serving
from tests.server.test_ledger_command import ponder

ROOT = Path(__file__).parent.parent.parent
BEFORE = f"""
timeout = 100
[limits]
n = 4
header_bytes = 40000
[prices]
version = "one"
default = {{input = 0, thinking = 1, answer = 1}}
[[keys]]
name = "root"
hash = "{digest("pk-root")}"
scopes = ["usage", "admin"]
[[keys]]
name = "alice"
hash = "{digest("pk-alice")}"
max_thinking_budget = 300
"""
AFTER = f"""
timeout = 200
[limits]
n = 2
header_bytes = 50000
[prices]
version = "two"
default = {{input = 0, thinking = 2, answer = 2}}
[[keys]]
name = "root"
hash = "{digest("pk-root")}"
scopes = ["usage", "admin"]
[[keys]]
name = "bob"
hash = "{digest("pk-bob")}"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "ponder.toml"
    found.write_text(BEFORE)
    return found


@pytest.fixture
def lies(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


def rewrite(file: Path, text: str) -> None:
    """What an operator does in an editor."""
    file.write_text(text)


def test_keys_prices_and_limits_change_and_what_cannot_is_named(
    file: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def go() -> None:
        async with keyed(address, load(file), source=lambda: load(file)) as on:
            first = (await on.chat("pk-alice", n=3)).json()
            assert (await on.root("POST", "/v1/reload")).json() == {"changed": [], "kept": []}
            assert audited(address) == []
            rewrite(file, AFTER)
            told = (await on.root("POST", "/v1/reload")).json()
            assert told == {
                "changed": ["keys.alice", "keys.bob", "prices", "limits.n"],
                "kept": ["timeout", "limits.header_bytes"],
            }
            assert "want a restart: timeout, limits.header_bytes" in caplog.text
            refused(await on.chat("pk-alice"), 401, "invalid_api_key")
            refused(await on.chat("pk-bob", n=3), 400, param="n")
            second = (await on.chat("pk-bob")).json()
            for answer, price in ((first, 1), (second, 2)):
                cost = round(answer["usage"]["completion_tokens"] * price / 1e6, 9)
                assert answer["thinking"]["cost_usd"] == pytest.approx(cost)
            by_version = {row["price_version"]: row["price_thinking"] for row in rows(address).values()}
            assert by_version["two"] == 2 * by_version["one"]

    asyncio.run(go())
    acts = [(row["act"], row["subject"].partition(" ")[0]) for row in audited(address)]
    assert acts == [
        ("keys.configured", "alice"),
        ("keys.configured", "bob"),
        ("prices.changed", "two"),
        ("limits.changed", "requests"),
    ]
    details = audited(address)[3]["details"]
    assert details == {"before": {"n": 4}, "after": {"n": 2}}
    assert "sha256" not in json.dumps(audited(address)) + caplog.text


def test_where_one_server_is_asked_for_all_the_others_do_the_same_or_it_says_which_have_not(
    file: Path, lies: str
) -> None:
    async def go() -> None:
        async with keyed(lies, load(file), source=lambda: load(file)) as on:
            asked, faults = list[str](), list[str]()

            async def others(asker: str) -> list[str]:
                asked.append(asker)
                return faults

            on.app.state.handle.reload.others = others
            rewrite(file, AFTER)
            assert "prices" in (await on.root("POST", "/v1/reload")).json()["changed"]
            faults.append("door b: there is no such file")
            answer = refused(await on.root("POST", "/v1/reload"), 503, "reload_incomplete")
            assert "1 of the servers did not take the configuration over" in answer
            assert "door b: there is no such file" in answer
            assert [asker.split()[0] for asker in asked] == ["root", "root"]
            rewrite(file, BEFORE + "\nnonsense = 1")
            refused(await on.root("POST", "/v1/reload"), 400, "wrong_settings")
            assert len(asked) == 2, "what this one refuses is asked of no other"

    asyncio.run(go())


def test_limits_of_a_configured_key_change(file: Path, lies: str) -> None:
    async def go() -> None:
        async with keyed(lies, load(file), source=lambda: load(file)) as on:
            assert (await on.chat("pk-alice", thinking_budget=900)).json()["thinking"]["budget"] == 300
            rewrite(file, BEFORE.replace("= 300", "= 200"))
            assert (await on.root("POST", "/v1/reload")).json()["changed"] == ["keys.alice"]
            assert (await on.chat("pk-alice", thinking_budget=900)).json()["thinking"]["budget"] == 200
            (row,) = audited(lies)
            assert (row["act"], row["details"]["after"]) == ("limits.changed", {"max_thinking_budget": 200})

    asyncio.run(go())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[prices", "not TOML"),
        (AFTER.replace('version = "two"\n', ""), "want a version"),
        (AFTER.replace('"bob"', '"b b"'), "keys[1].name"),
        (AFTER + "\n[[keys]]\nname = 'carol'\nhash = '" + digest("pk-c") + "'", "called carol"),
        (AFTER + "strategies = ['majority_votes']\n", "bob may ask for majority_votes"),
        ('host = "127.0.0.1"\n[prices]\nversion = "two"\nmodels = {nix = {input = 1, thinking = 1}}', "nix is not"),
    ],
)
def test_a_configuration_with_a_fault_changes_nothing(
    text: str, words: str, file: Path, lies: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def go() -> None:
        async with keyed(lies, load(file), source=lambda: load(file)) as on:
            put(lies, "carol")
            await on.made(name="so-that-carol-is-known")
            before = len(audited(lies))
            rewrite(file, text)
            message = refused(await on.root("POST", "/v1/reload"), 400, "wrong_settings")
            assert message.startswith("nothing was changed: ")
            assert words in message
            assert words in caplog.text
            assert len(audited(lies)) == before
            answer = (await on.chat("pk-alice", n=4)).json()
            cost = answer["usage"]["completion_tokens"] / 1e6
            assert answer["thinking"]["cost_usd"] == pytest.approx(cost)

    asyncio.run(go())


def test_what_cannot_be_written_down_is_not_done(file: Path, lies: str) -> None:
    async def go() -> None:
        async with keyed(lies, load(file), source=lambda: load(file)) as on:
            rewrite(file, AFTER)
            execute(lies, "ALTER TABLE audit RENAME TO away")
            refused(await on.root("POST", "/v1/reload"), 503, "ledger_unavailable")
            assert (await on.ask("pk-alice", "GET", "/v1/models")).status_code == 200
            execute(lies, "ALTER TABLE away RENAME TO audit")
            assert (await on.root("POST", "/v1/reload")).status_code == 200

    asyncio.run(go())


def test_a_request_that_runs_keeps_the_prices_it_began_with(file: Path, lies: str) -> None:
    engine = scripted(Chain("think", "It is 7."), delay=0.05)

    async def go() -> None:
        async with keyed(lies, load(file), engine=engine, source=lambda: load(file)) as on:
            running = asyncio.create_task(on.chat("pk-alice"))
            while not rows(lies):  # noqa: ASYNC110 (nobody would set an event)
                await asyncio.sleep(0.01)
            rewrite(file, AFTER)
            assert (await on.root("POST", "/v1/reload")).status_code == 200
            assert not running.done()
            answer = (await running).json()
            cost = answer["usage"]["completion_tokens"] / 1e6
            assert answer["thinking"]["cost_usd"] == pytest.approx(cost)
            (row,) = rows(lies).values()
            assert row["price_version"] == "one"

    asyncio.run(go())


def test_what_holds_is_checked_as_a_whole() -> None:
    """A file that is right in itself may be wrong beside what only a restart changes."""
    keys = load_keys()
    running = Settings(keys=keys, host="0.0.0.0")
    with pytest.raises(WrongSettings, match="on loopback only"):
        changes_of(running, Settings())
    running = Settings(keys=keys, limits=Limits(connections=10))
    changes = changes_of(running, Settings(keys=keys, limits=Limits(connections=20, n=2)))
    assert (changes.settings.limits.connections, changes.settings.limits.n) == (10, 2)


def load_keys() -> Any:
    return [{"name": "ann", "hash": digest("pk-ann")}]


def test_the_command_tells_what_came_of_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PONDER_API_KEY", raising=False)
    assert "no server answers at" in ponder(capsys, "reload", "--url", "http://127.0.0.1:1", status=1)

    async def made() -> None:
        async with keyed(f"sqlite:///{tmp_path}/ledger.db", load(file), source=lambda: load(file)) as on:
            with serving(on.app) as place:

                def told(*words: str, status: int = 0) -> str:
                    return ponder(capsys, "reload", "--url", place.url, *words, status=status)

                def typed() -> None:
                    assert "scope admin" in told(status=1)
                    monkeypatch.setenv("PONDER_API_KEY", "pk-root")
                    rewrite(file, AFTER)
                    assert told() == (
                        "changed: keys.alice, keys.bob, prices, limits.n\n"
                        "not changed, wants a restart: timeout, limits.header_bytes\n"
                    )
                    rewrite(file, "[")
                    assert "nothing was changed" in told(status=1)

                await asyncio.to_thread(typed)

    asyncio.run(made())


def test_sighup_reads_the_configuration_again(file: Path, lies: str) -> None:
    async def go() -> None:
        async with keyed(lies, load(file), source=lambda: load(file)) as on:
            with rereading(its_door(on.app).reload, Starting()):
                rewrite(file, AFTER)
                os.kill(os.getpid(), signal.SIGHUP)
                await on.until("pk-bob", 200)
                rewrite(file, "[")
                os.kill(os.getpid(), signal.SIGHUP)
                await on.until("pk-bob", 200)
            assert {row["who"] for row in audited(lies)} == {"SIGHUP"}

    asyncio.run(go())


ON_A_TERMINAL = """
import signal, sys
from ponder.server.reload import Terminal
terminal = Terminal()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
signal.signal(signal.SIGHUP, lambda *_: None)
print("ready", file=sys.stderr, flush=True)
for _ in range(2):
    signal.sigwait([signal.SIGHUP])
    print(terminal.gone, file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_goes_away_ends_a_server_and_a_signal_beside_it_does_not(nohup: bool) -> None:
    controller, terminal = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL],
        stdin=terminal,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: _controlled_by(terminal, nohup),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    ) as process:
        os.close(terminal)
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        assert process.stderr.readline() == "False\n"
        os.close(controller)
        assert process.stderr.readline() == f"{not nohup}\n"


def _controlled_by(terminal: int, nohup: bool) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
