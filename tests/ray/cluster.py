"""A cluster of this machine alone, with the server on it, from the first line of a block to its last."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from ponder.engines.replicas.known import know
from tests.engines.replica_process import Writer
from tests.engines.test_replica_pool_http import writer_of

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
"""Seconds in which what is waited for comes."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # It listens on loopback alone, and would leave a token in the home folder.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "ponder.server.serve_proxy.middlewares",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR": "0.02",
    "RAY_worker_niceness": "0",  # It is 15, and tests beside these would have the processor.
    "OMP_NUM_THREADS": "1",
}


def writer(pace: float) -> Writer:
    """How the light servers write, a token in so many seconds."""
    known = asyncio.run(know(str(ROOT / "models" / "demo"), name="demo"))
    try:
        return replace(writer_of(known), pace=pace)
    finally:
        known.close()


@dataclass
class Cluster:
    """The server on it, and the light servers behind it."""

    url: str
    folder: Path
    config: Path

    @property
    def servers(self) -> dict[int, str]:
        """Process ids and addresses of the light servers that are there."""
        found = {int(file.name): file.read_text() for file in self.folder.iterdir()}
        return {pid: url for pid, url in found.items() if url and psutil.pid_exists(pid)}

    @property
    def doors(self) -> list[int]:
        """Process ids of the doors."""
        return [one.pid for one in psutil.process_iter() if one.name().startswith("ray::ServeReplica:ponder:door")]

    def running(self, pid: int) -> int:
        """Calls that a light server works on; 0 where it has ended."""
        try:
            text = httpx.get(f"{self.servers[pid]}/metrics", timeout=10).text
        except (httpx.HTTPError, KeyError):
            return 0
        return int(float(text.split("num_requests_running ")[1].split()[0]))

    @property
    def busy(self) -> list[int]:
        """Those that work on calls."""
        return [pid for pid in self.servers if self.running(pid)]

    def up(self) -> list[str]:
        """The replicas that the server uses."""
        health = httpx.get(f"{self.url}/healthz", timeout=30).json()
        return [one["url"] for model in health["models"].values() for one in model["replicas"] if one["state"] == "up"]


def until(holds: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Returns what it says as soon as that is so."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, f"{holds} has not become so in {seconds} s"
        time.sleep(0.05)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def a_cluster(config: str, build: Callable[[Path, Path], Any], cpus: float = 2) -> Generator[Cluster]:
    """A cluster, and on it what `build` makes of a configuration and a folder for light servers."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    # The names of Ray's sockets are long, and those of a socket may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    handlers = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)}
    ray, serve = (importlib.import_module(name) for name in ("ray", "ray.serve"))
    try:
        lights = folder / "lights"
        lights.mkdir()
        (folder / "ponder.toml").write_text(config)
        ray.init(
            num_cpus=cpus,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=1 << 27,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder / "ray"),
        )
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build(folder / "ponder.toml", lights), name="ponder", route_prefix="/")
        yield Cluster(f"http://127.0.0.1:{port}", lights, folder / "ponder.toml")
    finally:
        try:
            serve.shutdown()
        finally:
            ray.shutdown()
            for sign, handler in handlers.items():
                signal.signal(sign, handler)
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
            shutil.rmtree(folder, ignore_errors=True)
