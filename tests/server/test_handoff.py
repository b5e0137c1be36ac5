"""A server's socket is handed to a new process under load, and nobody who asks notices."""

from __future__ import annotations

import ast
import os
import random
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from ponder.compute.lengths import Lengths
from ponder.compute.replicas import ReplicaFacts
from ponder.server.app import ServedModel
from ponder.server.handoff import listening
from ponder.server.http.sockets import CannotListen
from ponder.server.serve import engines_here
from ponder.server.settings import ModelSettings, Settings
from ponder.testing import Chain, ScriptedEngine, always
from tests.metering.ledgers import rows
from tests.server.handed_server import LONG, SHORT
from tests.server.serving import events

ROOT = Path(__file__).parents[2]
CLIENTS = 8
PATIENCE = 120
"""Seconds for anything that a process is to do."""


@dataclass
class Upgraded:
    """A server, and those that followed it."""

    folder: Path
    first: subprocess.Popen[bytes]
    url: str = ""
    pids: list[int] = field(default_factory=list[int])

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def awaited(self) -> None:
        """The next process serves."""
        assert self.first.stdout is not None
        assert select.select([self.first.stdout], [], [], PATIENCE)[0], self.log
        pid, url = self.first.stdout.readline().decode().split()
        assert self.url in ("", url)
        self.pids.append(int(pid))
        self.url = url

    def ask(self) -> None:
        os.kill(self.pids[-1], signal.SIGUSR2)

    def upgrade(self) -> None:
        self.ask()
        self.awaited()

    def fault(self, what: str) -> None:
        (self.folder / "FAULT").write_text(what)

    def said(self, words: str, times: int = 1) -> None:
        until = time.monotonic() + PATIENCE
        while self.log.count(words) < times:
            assert time.monotonic() < until, self.log
            time.sleep(0.02)

    def gone(self, pid: int) -> None:
        """It ends by itself."""
        if pid == self.first.pid:
            assert self.first.wait(PATIENCE) == 0, self.log
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(PATIENCE)


@contextmanager
def served(folder: Path, address: str, more: str = "") -> Generator[Upgraded]:
    (folder / "ponder.toml").write_text(f'port = 0\n{more}\n[ledger]\nurl = "{address}"\n')
    command = [sys.executable, "-m", "tests.server.handed_server", str(folder / "ponder.toml")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log) as first,
    ):
        server = Upgraded(folder, first)
        try:
            server.awaited()
            yield server
        finally:
            for pid in {first.pid, *server.pids}:
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()


def asked(client: httpx.Client, model: str, stream: bool) -> str:
    """The text of one answer, whole; nothing is tried twice."""
    body = {"model": model, "messages": [{"role": "user", "content": "What is 3 + 4?"}], "stream": stream}
    response = client.post("/v1/chat/completions", json=body | {"thinking_budget": 0})
    assert response.status_code == 200, response.text
    if not stream:
        return str(response.json()["choices"][0]["message"]["content"])
    deltas = [event["choices"][0]["delta"] for event in events(response.text) if event["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


@dataclass
class Load:
    """Clients that ask one thing after the other, on connections that they keep, and on new ones."""

    url: str
    right: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])
    over: threading.Event = field(default_factory=threading.Event)

    def one(self, number: int) -> None:
        chance = random.Random(number)
        client = httpx.Client(base_url=self.url, timeout=PATIENCE)
        while not self.over.is_set():
            model, stream = chance.choice(["long", "short", "short", "short"]), chance.random() < 0.6
            try:
                text = asked(client, model, stream)
            except (httpx.HTTPError, AssertionError) as error:
                self.wrong.append(f"{model}: {error!r}")
            else:
                self.right[model] += 1
                if text != (LONG if model == "long" else SHORT):
                    self.wrong.append(f"{model}: {text}")
            self.over.wait(chance.random() * 0.3)
            if chance.random() < 0.2:
                client.close()
                client = httpx.Client(base_url=self.url, timeout=PATIENCE)
        client.close()

    @contextmanager
    def on(self) -> Generator[None]:
        threads = [threading.Thread(target=self.one, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("upgrades", [3, pytest.param(50, marks=pytest.mark.soak)])
def test_upgrades_under_load_lose_nothing(
    upgrades: int, address: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """8 clients, streams of seconds among them: no request is refused, reset or cut, and each is billed once."""
    if upgrades == 3 and address.startswith("postgresql"):
        upgrades = 1
    with served(tmp_path, address, "[limits]\nidle_timeout = 3") as server:
        load = Load(server.url)
        with load.on():
            for _ in range(upgrades):
                done = load.right.total()
                server.upgrade()
                while load.right.total() < done + 2 * CLIENTS and not load.wrong:
                    time.sleep(0.02)
        assert not load.wrong, (load.wrong, server.log)
        assert load.right["long"]
        for pid in server.pids[:-1]:
            server.gone(pid)
        assert len(set(server.pids)) == upgrades + 1
        os.kill(server.pids[-1], signal.SIGTERM)
        server.gone(server.pids[-1])
    record_property("requests", load.right.total())
    ledger = rows(address)
    assert len(ledger) == load.right.total()
    assert all(row["settled_ms"] is not None and row["outcome"] == "answered" for row in ledger.values())


def test_where_the_new_process_does_not_come_up_the_old_one_goes_on(tmp_path: Path) -> None:
    with served(tmp_path, f"sqlite:///{tmp_path}/ledger.db") as server, httpx.Client(base_url=server.url) as client:
        server.fault("dies")
        server.ask()
        server.said("it ended with status 1 before it was ready; this one goes on")
        assert "this one is broken" in server.log
        assert asked(client, "short", False) == SHORT

        # A newer release wants the tables otherwise than this process writes them.
        server.fault("")
        with sqlite3.connect(tmp_path / "ledger.db") as ledger:
            ((version,),) = ledger.execute("SELECT version_num FROM alembic_version")
            ledger.execute("UPDATE alembic_version SET version_num = '0001'")
        server.ask()
        server.said("goes on", 2)
        assert "has version 0001, and" in server.log
        assert "when the process before this one has ended, or restart the server" in server.log
        with sqlite3.connect(tmp_path / "ledger.db") as ledger:
            ledger.execute("UPDATE alembic_version SET version_num = ?", (version,))
        assert asked(client, "short", False) == SHORT

        server.fault("hangs")
        server.ask()
        server.said("is started to take over", 3)
        server.ask()
        server.said("a new process is being started already")
        hanging = psutil.Process(server.first.pid).children()
        assert asked(client, "short", True) == SHORT

        os.kill(server.first.pid, signal.SIGTERM)
        assert server.first.wait(PATIENCE) == 0
        for process in hanging:
            with suppress(psutil.NoSuchProcess):
                process.wait(PATIENCE)
        assert "is ended before it was ready" in server.log


def runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_who_ends_the_new_process_ends_the_old_one_in_order_too(tmp_path: Path) -> None:
    """A service manager kills what is left when the main process is gone: so that is the last to go."""
    with served(tmp_path, f"sqlite:///{tmp_path}/ledger.db", "drain_timeout = 100") as server:
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            body = {"model": "slow", "messages": [{"role": "user", "content": "Go on."}], "thinking_budget": 0}
            with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
                server.upgrade()
                new = psutil.Process(server.pids[-1])
                new.terminate()
                text = "".join(response.iter_text())
        while True:
            there = runs(new)
            if server.first.poll() is not None:
                break
            assert there, server.log
            time.sleep(0.01)
        with suppress(psutil.NoSuchProcess):
            new.wait(PATIENCE)
    assert server.first.returncode == 0, server.log
    deltas = [event["choices"][0]["delta"] for event in events(text) if event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == LONG


def test_a_server_with_an_engine_of_its_own_says_that_it_cannot_be_followed(tmp_path: Path) -> None:
    (tmp_path / "FAULT").write_text("engine")
    with served(tmp_path, f"sqlite:///{tmp_path}/ledger.db") as server, httpx.Client(base_url=server.url) as client:
        server.ask()
        server.said("it runs engines of its own, of own: restart it instead")
        assert asked(client, "short", False) == SHORT
        assert not psutil.Process(server.first.pid).children()


@dataclass
class Watched(ScriptedEngine):
    """Somebody may look after it: it is one that was started here."""

    supervision: object = None


@dataclass
class Several(Watched):
    """It is several elsewhere, which are looked after."""

    replicas: Sequence[ReplicaFacts] = ()


def test_replicas_elsewhere_are_no_engines_of_a_servers_own() -> None:
    def of(engine: Watched) -> dict[str, ServedModel]:
        return {"demo": ServedModel(engine, Lengths(20, 40), ModelSettings(path="scripted"))}

    script = always(Chain("", SHORT))
    assert engines_here(of(Watched(script))) is None
    assert (
        engines_here(of(Watched(script, supervision="up"))) == "it runs engines of its own, of demo: restart it instead"
    )
    assert engines_here(of(Several(script, supervision="up"))) is None


def test_the_new_process_is_the_newest_behind_a_link(tmp_path: Path) -> None:
    """A program is started by the path that it was started by; a module, as it was."""
    told = "import sys; from ponder.server.handoff import own_command; print(own_command())"
    (tmp_path / "0.1").mkdir()
    program = tmp_path / "0.1" / "ponder"
    program.write_text(f"#!{sys.executable}\n{told}\n")
    program.chmod(0o755)
    (tmp_path / "current").symlink_to("0.1")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(*command: str) -> list[str]:
        out = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
        return list(ast.literal_eval(out))

    assert run("current/ponder", "serve", "x") == [str(tmp_path / "current" / "ponder"), "serve", "x"]
    (tmp_path / "module.py").write_text(told)
    command = [sys.executable, "-P", "-m", "module", "serve"]
    environment["PYTHONPATH"] += f":{tmp_path}"
    assert run(*command) == command


# -- systemd ----------------------------------------------------------------------------------------------------------

UNIT = """
import os, socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
os.dup2(sock.fileno(), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "ponder.socket"}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""What systemd does with the socket of a unit: it is descriptor 3 of the process that it starts."""


@contextmanager
def of_a_unit(folder: Path, sock: socket.socket, notify: str) -> Generator[Upgraded]:
    (folder / "ponder.toml").write_text(f'[ledger]\nurl = "sqlite:///{folder}/ledger.db"\n')
    command = [sys.executable, "-c", UNIT, str(sock.fileno()), "-m", "tests.server.handed_server"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": notify}
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(
            [*command, str(folder / "ponder.toml")],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=[sock.fileno()],
        ) as first,
    ):
        server = Upgraded(folder, first)
        try:
            server.awaited()
            yield server
        finally:
            for pid in {first.pid, *server.pids}:
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()


def test_a_socket_unit_keeps_the_connections_that_come_while_no_process_serves(tmp_path: Path) -> None:
    """And the manager is told who serves: the first process, the one that took over from it, and that it ends."""
    with (
        socket.create_server(("127.0.0.1", 0)) as unit,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        url = f"http://127.0.0.1:{unit.getsockname()[1]}"
        waiting: list[str] = []

        def ask() -> None:
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                waiting.append(asked(client, "short", True))

        def told(word: str) -> str:
            while not (news := manager.recv(4096).decode()).startswith(word):
                pass
            return news

        with of_a_unit(tmp_path, unit, str(tmp_path / "notify")) as server:
            assert server.url == url
            assert told("READY=1") == f"READY=1\nSTATUS=process {server.first.pid} serves"
            server.upgrade()
            assert told("MAINPID=") == f"MAINPID={server.pids[-1]}"
            assert server.first.wait(PATIENCE) == 0
            ask()
            os.kill(server.pids[-1], signal.SIGTERM)
            told("STOPPING=1")
            server.gone(server.pids[-1])
        early = threading.Thread(target=ask)
        early.start()
        with of_a_unit(tmp_path, unit, str(tmp_path / "notify")):
            early.join()
    assert waiting == [SHORT, SHORT]


def given(monkeypatch: pytest.MonkeyPatch, sock: socket.socket, count: str = "1") -> None:
    """As a service manager gives it, but for the number of the descriptor."""
    monkeypatch.setattr("ponder.server.systemd.FIRST", os.dup(sock.fileno()))
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)


def test_a_socket_that_was_given_is_one_that_may_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        given(monkeypatch, everywhere)
        with pytest.raises(CannotListen, match=r"listens at 0\.0\.0\.0, and without an API key"):
            listening(Settings())
        given(monkeypatch, everywhere)
        place = listening(Settings(require_key=True))
        assert (place.kept, place.sock.getsockname()) == (True, everywhere.getsockname())
        place.sock.close()
        given(monkeypatch, everywhere, "2")
        with pytest.raises(CannotListen, match="gives 2 sockets"):
            listening(Settings())
        assert "LISTEN_FDS" not in os.environ
        monkeypatch.setenv("LISTEN_PID", "1")
        monkeypatch.setenv("LISTEN_FDS", "1")
        own = listening(Settings(port=0))
        assert not own.kept
        own.sock.close()
    with socket.socket() as silent:
        given(monkeypatch, silent)
        with pytest.raises(CannotListen, match="does not listen at a TCP address"):
            listening(Settings())


def test_the_socket_of_another_process_is_not_taken_for_one_that_was_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("_PONDER_HANDOFF", "99999:99998:0:1")
    with pytest.raises(CannotListen, match="gives no socket as descriptor 99999"):
        listening(Settings())
    monkeypatch.setenv("_PONDER_HANDOFF", "99999:99998")
    with pytest.raises(CannotListen, match="in another way: restart the server"):
        listening(Settings())
