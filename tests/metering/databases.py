"""The databases that a ledger is tested on: a SQLite file, and a PostgreSQL that the tests start."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.needs import tool


class PostgreSQL:
    """A server on a free port, its data in a temporary folder. It refuses to run as root, so then it runs as nobody."""

    def __init__(self, folder: Path, *, durable: bool = False, hosts: Sequence[str] = ()) -> None:
        """`durable`: it waits for the disk, which no test wants: it is not what is killed. `hosts`: addresses of this
        machine beside loopback at which it is reached, by whoever can."""
        self._folder, self._durable, self._hosts = folder, durable, hosts
        self._made = 0
        nobody = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        self._whose: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid} if nobody else {}
        self._environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(folder)}
        if nobody:
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        command = [program("initdb"), "-D", str(folder / "data"), "-U", "ponder", "--auth=trust", "-E", "UTF8"]
        subprocess.run(
            [*command, "--no-sync"], check=True, capture_output=True, cwd=folder, env=self._environment, **self._whose
        )
        if hosts:
            with (folder / "data" / "pg_hba.conf").open("a") as file:
                file.write("host all all samenet trust\n")
        self._process: subprocess.Popen[bytes] | None = None

    def address(self, database: str = "postgres", host: str = "127.0.0.1") -> str:
        return f"postgresql://ponder@{host}:{self.port}/{database}"

    def start(self) -> None:
        """Returns when it answers."""
        settings = {
            "listen_addresses": ",".join(("127.0.0.1", *self._hosts)),
            "unix_socket_directories": "",
            "max_connections": "100",
            "fsync": "on" if self._durable else "off",
        }
        command = [program("postgres"), "-D", str(self._folder / "data"), "-p", str(self.port)]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen[bytes](
                command, cwd=self._folder, env=self._environment, stdout=log, stderr=log, **self._whose
            )
        self._process = process
        end = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.address(), connect_timeout=2).close()
            except psycopg.OperationalError:
                assert process.poll() is None, (self._folder / "log").read_text()[-2000:]
                assert time.monotonic() < end
                time.sleep(0.05)
            else:
                return

    def stop(self, *, now: bool = False) -> None:
        """Whoever is connected is cut off; `now`: nothing more is written either."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGQUIT if now else signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def freeze(self) -> None:
        """Nothing of it runs, and nobody is told."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def _signal(self, sign: signal.Signals) -> None:
        assert self._process is not None
        family = psutil.Process(self._process.pid)
        for process in (family, *family.children(recursive=True)):
            process.send_signal(sign)

    def new(self) -> str:
        """The address of an empty database."""
        self._made += 1
        name = f"ledger{self._made}"
        with psycopg.connect(self.address(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.address(name)


def program(name: str) -> str:
    """Debian puts them into a folder of their version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(found[-1]) if found else tool(name, "postgresql")


@contextmanager
def postgresql(*, durable: bool = False, hosts: Sequence[str] = ()) -> Generator[PostgreSQL]:
    """A PostgreSQL for as long as the block lasts, as `PostgreSQL` is told."""
    folder = Path(tempfile.mkdtemp(prefix="ponder-postgresql-"))
    try:
        server = PostgreSQL(folder, durable=durable, hosts=hosts)
        try:
            server.start()
            yield server
        finally:
            server.stop(now=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def a_postgresql() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty ledger, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    server: PostgreSQL = request.getfixturevalue("a_postgresql")
    return server.new()
