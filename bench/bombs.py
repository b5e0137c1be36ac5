"""What others feel while one caller sends the worst there is: each input of the API at its bound.

    python -m bench.bombs [--json bench/results/NAME.json] [--only WORD] [--connections 4]

A server of the bundled model has two keys. One sends an input at its bound, and again as soon as it is answered, on one
connection or several, from a process of its own; the other asks something small, and somebody asks /livez. In
milliseconds: how late the answers come beside it and on the idle server, and how the input itself was answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import secrets
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from bench import machine
from bench.inputs import INPUTS
from ponder.server.auth.keys import make

AIM_MS, TIMES = 10.0, 2.0
"""Milliseconds that the loop may be held, and how many times its idle latency another's small request may take."""
SMALL: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Tom has 12 apples and gets 7 more. How many has he?"}],
    "thinking_budget": 0,
    "max_completion_tokens": 8,
}
TITLE = b"untitled"
SPAWN = multiprocessing.get_context("spawn")
DOCUMENT: dict[str, Any] = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object", "properties": {"n": {"enum": [1, 2]}}}},
    }
}


@dataclass(frozen=True)
class Felt:
    """What others felt beside one input."""

    name: str
    bound: int
    statuses: dict[int, int]
    """How often the input was answered with each status."""
    own_ms: float
    """How long the input itself took, median."""
    small_ms: float
    schema_ms: float
    live_ms: float
    """The 95th percentile of what /livez took."""
    times: float
    """`small_ms` over the idle server's."""
    schema_times: float


def config(folder: Path) -> tuple[Path, list[str]]:
    """A configuration with two keys, and the keys."""
    keys = [make() for _ in range(2)]
    told = [
        f'[[keys]]\nname = "{name}"\nhash = "{digest}"\nscopes = ["infer", "usage"]\n'
        for name, (_, digest) in zip(("bomber", "other"), keys, strict=True)
    ]
    path = folder / "ponder.toml"
    path.write_text("\n".join(told))
    return path, [key for key, _ in keys]


def new(body: dict[str, Any]) -> bytes:
    """The body, its schema one that nobody has asked for before."""
    return with_title(body).replace(TITLE, secrets.token_hex(4).encode())


def with_title(body: dict[str, Any]) -> bytes:
    """The body, with `TITLE` in its schema if it has one."""
    form = body.get("response_format")
    if form is not None:
        schema = form["json_schema"]["schema"] | {"title": TITLE.decode()}
        body = body | {"response_format": form | {"json_schema": form["json_schema"] | {"schema": schema}}}
    return json.dumps(body).encode()


class Bombs:
    """Sends an input over and over, and tells at the end what became of it."""

    def __init__(self, port: int, key: str, name: str) -> None:
        _, made = INPUTS[name]
        self._port, self._key = port, key
        self._body = with_title(SMALL | made(INPUTS[name][0]))
        self.statuses: Counter[int] = Counter()
        self.own: list[float] = []

    async def send(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while True:
                body = self._body.replace(TITLE, secrets.token_hex(4).encode(), 1)
                begun = time.perf_counter()
                writer.write(
                    f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._key}\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                )
                writer.write(body)
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                self.own.append(1000 * (time.perf_counter() - begun))
                self.statuses[int(head.split(b" ", 2)[1])] += 1
        finally:
            writer.close()

    async def until(self, stop: Any, connections: int) -> None:
        tasks = [asyncio.create_task(self.send()) for _ in range(connections)]
        await asyncio.get_running_loop().run_in_executor(None, stop.recv)
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()


def bombing(port: int, key: str, name: str, connections: int, told: Any) -> None:
    """Sends until it is told to end; then it tells how often it was answered with what, and how long that took."""
    bombs = Bombs(port, key, name)
    asyncio.run(bombs.until(told, connections))
    told.send((dict(bombs.statuses), bombs.own))


class Callers:
    """Two keys of one server."""

    def __init__(self, port: int, keys: Sequence[str], seconds: float, connections: int) -> None:
        self._port, self._seconds, self._connections = port, seconds, connections
        self._bomber, other = keys
        self.other = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=600, headers={"authorization": f"Bearer {other}"}
        )

    async def _timed(self, client: httpx.AsyncClient, body: bytes | None) -> tuple[float, int]:
        begun = time.perf_counter()
        if body is None:
            answer = await client.get("/livez")
        else:
            headers = {"content-type": "application/json"}
            answer = await client.post("/v1/chat/completions", content=body, headers=headers)
        return 1000 * (time.perf_counter() - begun), answer.status_code

    async def felt(self) -> tuple[float, float, float]:
        """Of the small requests the medians, without and with a schema nobody has asked for before, and /livez."""
        plain: list[float] = []
        schemas: list[float] = []
        live: list[float] = []
        end = time.perf_counter() + self._seconds

        async def asks() -> None:
            while time.perf_counter() < end or len(plain) < 8:
                plain.append((await self._timed(self.other, json.dumps(SMALL).encode()))[0])
                schemas.append((await self._timed(self.other, new(SMALL | DOCUMENT)))[0])

        async def looks() -> None:
            while time.perf_counter() < end or len(plain) < 8:
                live.append((await self._timed(self.other, None))[0])
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            group.create_task(asks())
            group.create_task(looks())
        return statistics.median(plain), statistics.median(schemas), statistics.quantiles(live, n=20)[-1]

    async def beside(self, name: str, idle: tuple[float, float, float]) -> Felt:
        bound, _ = INPUTS[name]
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(
            target=bombing, args=(self._port, self._bomber, name, self._connections, theirs), daemon=True
        )
        process.start()
        await asyncio.sleep(2)
        small, schema, live = await self.felt()
        ours.send(None)
        statuses, own = await asyncio.get_running_loop().run_in_executor(None, ours.recv)
        process.join()
        return Felt(
            name,
            bound,
            statuses,
            statistics.median(own) if own else float("nan"),
            small,
            schema,
            live,
            small / idle[0],
            schema / idle[1],
        )

    async def held(self) -> dict[str, float]:
        """What held the event loop so far, by place, from /metrics."""
        text = (await self.other.get("/metrics")).text
        found = re.findall(r'^ponder_event_loop_held_total\{where="([^"]*)"\} (\S+)$', text, re.MULTILINE)
        return {where: float(times) for where, times in found}


async def measured(port: int, keys: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    callers = Callers(port, keys, options.seconds, options.connections)
    await callers.felt()
    idle = await callers.felt()
    print(f"\nidle: small {idle[0]:.1f} ms, with a new schema {idle[1]:.1f} ms, /livez (p95) {idle[2]:.1f} ms\n")
    heads = ("bound", 9), ("answered", 16), ("own ms", 9), ("small ms", 10), ("x", 6), ("schema ms", 11), ("x", 6)
    print(f"{'input':34}" + "".join(f"{word:>{width}}" for word, width in (*heads, ("livez", 8))))
    found: list[Felt] = []
    for name in INPUTS:
        if not options.only or any(word in name for word in options.only):
            felt = await callers.beside(name, idle)
            found.append(felt)
            answers = " ".join(f"{status}:{times}" for status, times in felt.statuses.items()) or "none yet"
            print(
                f"{name:34}{felt.bound:>9}{answers:>16}{felt.own_ms:>9.1f}{felt.small_ms:>10.1f}{felt.times:>6.2f}"
                f"{felt.schema_ms:>11.1f}{felt.schema_times:>6.2f}{felt.live_ms:>8.1f}",
                flush=True,
            )
    held = await callers.held()
    print("\nwhat held the event loop for more than 50 ms:", held or "nothing")
    beyond = [felt.name for felt in found if felt.times > TIMES or felt.schema_times > TIMES]
    print(f"beside these, another's request took more than {TIMES:g} times its idle latency: {beyond or 'none'}")
    names = ("small_ms", "schema_ms", "live_ms")
    return {"idle": dict(zip(names, idle, strict=True)), "felt": [asdict(one) for one in found], "held": held}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each input")
    parser.add_argument("--connections", type=int, default=1, help="that send the input at once")
    parser.add_argument("--only", action="append", default=[], help="inputs whose name has this in it; more than once")
    parser.add_argument("--json", help="keep the figures in this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        path, keys = config(Path(folder))
        port = machine.free_port()
        command = [*machine.ponder(machine.ROOT), "serve", "--config", str(path), "--port", str(port)]
        head = machine.describe({})
        with machine.started("ponder", command, port, "/readyz", log, {}):
            found = asyncio.run(measured(port, keys, options))
    machine.keep(head | {"connections": options.connections} | found, options.json)


if __name__ == "__main__":
    main()
