"""What others feel while one caller sends the worst there is: each input of the API at its bound.

    python -m bench.bombs [--json bench/results/NAME.json] [--only WORD]

A server of the bundled model has two keys. One sends an input at its bound over and over, on four connections; the
other asks something small, and somebody asks /livez. In milliseconds: how late the answers come beside it and on the
idle server, the longest that the event loop was late, and what the input itself was answered with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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
from ponder.server.keys import make

AIM_MS, TIMES = 10.0, 2.0
"""Milliseconds that the loop may be held, and how many times its idle latency another's small request may take."""
SMALL: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Tom has 12 apples and gets 7 more. How many has he?"}],
    "thinking_budget": 0,
    "max_completion_tokens": 8,
}
DOCUMENT: dict[str, Any] = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object", "properties": {"n": {"enum": [1, 2]}}}},
    }
}
CONNECTIONS = 4


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
    form = body.get("response_format")
    if form is not None:
        schema = form["json_schema"]["schema"] | {"title": secrets.token_hex(4)}
        body = body | {"response_format": form | {"json_schema": form["json_schema"] | {"schema": schema}}}
    return json.dumps(body).encode()


class Callers:
    """Two keys of one server."""

    def __init__(self, url: str, keys: Sequence[str], seconds: float) -> None:
        self._seconds = seconds
        clients = [
            httpx.AsyncClient(base_url=url, timeout=600, headers={"authorization": f"Bearer {key}"}) for key in keys
        ]
        self.bomber, self.other = clients

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
        bound, made = INPUTS[name]
        body = SMALL | made(bound)
        statuses: Counter[int] = Counter()
        own: list[float] = []

        async def bombs() -> None:
            while True:
                took, status = await self._timed(self.bomber, new(body))
                own.append(took)
                statuses[status] += 1

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(bombs()) for _ in range(CONNECTIONS)]
            await asyncio.sleep(0.2)
            small, schema, live = await self.felt()
            for task in tasks:
                task.cancel()
        return Felt(
            name,
            bound,
            dict(statuses),
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


async def measured(server: machine.Server, keys: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    callers = Callers(server.url, keys, options.seconds)
    await callers.felt()
    idle = await callers.felt()
    print(f"\nidle: small {idle[0]:.1f} ms, with a new schema {idle[1]:.1f} ms, /livez (p95) {idle[2]:.1f} ms\n")
    heads = ("bound", 9), ("answered", 16), ("own ms", 9), ("small ms", 10), ("x", 6), ("schema ms", 11), ("x", 6)
    print(f"{'input':34}" + "".join(f"{word:>{width}}" for word, width in (*heads, ("livez", 8))))
    found: list[Felt] = []
    for name in INPUTS:
        if options.only in name:
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
    parser.add_argument("--only", default="", help="inputs whose name has this in it")
    parser.add_argument("--json", help="keep the figures in this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        path, keys = config(Path(folder))
        port = machine.free_port()
        command = [*machine.ponder(machine.ROOT), "serve", "--config", str(path), "--port", str(port)]
        head = machine.describe()
        with machine.started("ponder", command, port, "/readyz", log, {}) as server:
            found = asyncio.run(measured(server, keys, options))
    machine.keep(head | found, options.json)


if __name__ == "__main__":
    main()
