"""A real Prometheus on a free port, its data in a temporary folder, with the configuration that is deployed."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.needs import tool
from tests.server.serving import until
from tests.test_architecture import ROOT

DEPLOYED = ROOT / "deploy" / "prometheus"


def promtool(*words: str | Path, cwd: Path = ROOT, given: bytes | None = None) -> str:
    """What it says; it finds nothing wrong."""
    command = [tool("promtool", "prometheus"), *map(str, words)]
    done = subprocess.run(command, cwd=cwd, input=given, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return (done.stdout + done.stderr).decode()


@dataclass(frozen=True)
class Prometheus:
    client: httpx.Client

    def ask(self, path: str, **parameters: str | float) -> Any:
        found = self.client.get(f"/api/v1/{path}", params=parameters).json()
        assert found["status"] == "success", (parameters, found)
        return found["data"]

    def instant(self, query: str, at: float) -> list[tuple[Mapping[str, str], float]]:
        """Labels and value of each series that is a number then."""
        found = self.ask("query", query=query, time=at)["result"]
        values = [(one["metric"], float(one["value"][1])) for one in found]
        return [(labels, value) for labels, value in values if value == value]

    def range(self, query: str, begin: float, end: float, step: float) -> list[tuple[Mapping[str, str], list[float]]]:
        """The same over a time: of each series the numbers."""
        found = self.ask("query_range", query=query, start=begin, end=end, step=step)["result"]
        lines = [(one["metric"], [float(value) for _, value in one["values"]]) for one in found]
        kept = [(labels, [value for value in line if value == value]) for labels, line in lines]
        return [(labels, line) for labels, line in kept if line]


def configuration(target: str, key: Path, seconds: float) -> str:
    """The deployed configuration, for a server at another address; it looks every so many seconds."""
    deployed = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    interval = f"{round(seconds * 1000)}ms"
    deployed["global"] = dict.fromkeys(deployed["global"], interval)
    deployed["rule_files"] = [str(DEPLOYED / file) for file in deployed["rule_files"]]
    for job in deployed["scrape_configs"]:
        job["static_configs"] = [{"targets": [target]}]
        job["authorization"]["credentials_file"] = str(key)
    return yaml.safe_dump(deployed)


@contextmanager
def prometheus(folder: Path, config: str) -> Generator[Prometheus]:
    """It runs and has read its configuration."""
    program = tool("prometheus", "prometheus")
    file = folder / "prometheus.yml"
    file.write_text(config)
    promtool("check", "config", file)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, f"--config.file={file}", f"--storage.tsdb.path={folder / 'series'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen[bytes]([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

            def ready() -> bool:
                assert process.poll() is None, (folder / "prometheus.log").read_text()[-2000:]
                try:
                    return client.get("/-/ready").status_code == 200
                except httpx.TransportError:
                    return False

            until(ready)
            yield Prometheus(client)
    finally:
        process.kill()
        process.wait()


def as_grafana_asks(expr: str, *, seconds: float, rate: float) -> str:
    """A query with Grafana's variables put in: the time that is shown, and over which rates are taken."""
    named = {"__range": f"{round(seconds)}s", "__rate_interval": f"{round(rate * 1000)}ms", "job": "ponder"}
    return re.sub(r"\$(\w+)", lambda found: named[found[1]], expr)
