"""Several servers as processes of their own, each in a network of its own with two links: one to its callers, and one
to the database that can be cut.

What a cut link swallows nobody is told of, as where a switch has failed. Each server has its own processes, too: they
see each other no more than those of two machines do.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.needs import tool

ROOT = Path(__file__).parent.parent.parent
LEAVES = 20.0
"""Seconds in which a server has ended."""


@dataclass(frozen=True)
class Network:
    """Where one server is."""

    space: str
    host: str
    """At which its callers reach it."""
    base: str
    """At which it reaches the database: an address of this machine."""
    link: str
    """This machine's end of the link to the database."""

    def cut(self) -> None:
        """What is under way to and from the database is lost."""
        _ip("link", "set", self.link, "down")

    def mend(self) -> None:
        _ip("link", "set", self.link, "up")


def _ip(*words: str) -> None:
    done = subprocess.run([tool("ip", "iproute2"), *words], capture_output=True, text=True)
    if done.returncode and "Operation not permitted" in done.stderr:
        reason = "this test makes network namespaces: it wants root, with CAP_NET_ADMIN and CAP_SYS_ADMIN"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


@contextmanager
def networks(many: int) -> Generator[Sequence[Network]]:
    """So many of them, in addresses that are for measurements (RFC 2544)."""
    token, third = secrets.token_hex(3), secrets.randbelow(256)
    with ExitStack() as stack:
        made: list[Network] = []
        for i in range(many):
            space = f"ponder-{token}-{i}"
            _ip("netns", "add", space)
            stack.callback(_ip, "netns", "del", space)
            _ip("-n", space, "link", "set", "lo", "up")
            links = {"c": f"198.18.{third}.{4 * i}", "b": f"198.19.{third}.{4 * i}"}
            for kind, net in links.items():
                here, there = (f"pd{token}{i}{kind}{end}" for end in "01")
                first, last = net.rpartition(".")[0], int(net.rpartition(".")[2])
                _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", space)
                stack.callback(_ip, "link", "del", here)
                _ip("addr", "add", f"{first}.{last + 1}/30", "dev", here)
                _ip("-n", space, "addr", "add", f"{first}.{last + 2}/30", "dev", there)
                _ip("link", "set", here, "up")
                _ip("-n", space, "link", "set", there, "up")
            host, base = f"198.18.{third}.{4 * i + 2}", f"198.19.{third}.{4 * i + 1}"
            made.append(Network(space, host, base, f"pd{token}{i}b0"))
        yield made


@dataclass
class Door:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    host: str
    port: int
    log: Path
    calls: list[tuple[int, int, str]] = field(default_factory=list[tuple[int, int, str]])
    """When calls to its engine began (1) and ended (-1), and of which request each is."""
    produced: int = 0
    """Tokens of its engine."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def read(self) -> None:
        """What it tells, to its end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            sign, at, request, produced = line.decode().split()
            self.calls.append((int(at), 1 if sign == "+" else -1, request))
            self.produced = int(produced)

    def kill(self) -> None:
        """As a machine does that loses its power; what it has open is closed for it."""
        self._signal(signal.SIGKILL)
        self.process.wait(LEAVES)

    def stop(self) -> None:
        self._signal(signal.SIGTERM)
        self.process.wait(LEAVES)

    def _signal(self, sign: signal.Signals) -> None:
        if self.process.poll() is None:
            # Where it has processes of its own, what was started is not the server, but what waits for it.
            found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            os.kill(int(found[0]) if found else self.process.pid, sign)


@contextmanager
def door(settings: dict[str, Any], network: Network | None = None, *, delay: float = 0.01) -> Generator[Door]:
    """A server for as long as the block lasts; without a network of its own on loopback. `delay`: seconds for a
    token."""
    host = "127.0.0.1" if network is None else network.host
    told = json.dumps(settings)
    command = [sys.executable, "-m", "tests.server.one_of_doors", host, "0", told, str(delay)]
    if network is not None:
        unshared = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [tool("ip", "iproute2"), "netns", "exec", network.space, *unshared, *command]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen[bytes](
                command, stdout=subprocess.PIPE, stderr=file, cwd=ROOT, env=environment | {"XDG_STATE_HOME": folder}
            )
        with process:
            try:
                assert process.stdout is not None
                first = process.stdout.readline().split()
                assert first[:1] == [b"at"], log.read_text()[-3000:]
                found = Door(process, host, int(first[1]), log)
                reader = threading.Thread(target=found.read, daemon=True)
                reader.start()
                yield found
                found.stop()
                reader.join()
            finally:
                if process.poll() is None:
                    process.kill()


def most_at_once(doors: Sequence[Door]) -> int:
    """Requests that had a call to an engine, wherever, at the same moment."""
    running, most = Counter[str](), 0
    for _, change, request in sorted(one for door in doors for one in door.calls):
        running[request] += change
        if not running[request]:
            del running[request]
        most = max(most, len(running))
    return most
