"""What one door carries, and two beside each other on one PostgreSQL: requests and token events a second.

    python -m bench.doors --json bench/results/doors-NAME.json

Ponder's own server over a model that costs nothing, one event a token also in the thought, as a replica tells them. One
door, then two processes, take turns under the same load; a PostgreSQL that is started here has their ledger, each
commit on the disk. Client, doors and database share the machine, so that with few cores what a door carries is told by
the processor time a request takes of it, and not by requests a second. From two loads, one of short chains and one of
long ones, follow what a request and what a token takes. What it costs to read a token from a replica over HTTP is not
in that.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from typing import Any

import uvloop

from bench import machine
from bench.load import Volley, bodies, stories, volley
from bench.machine import Server
from ponder.compute.engine import Delta, ModelCard, Sampling
from ponder.compute.lengths import Lengths
from ponder.compute.text import Hidden, Prompt
from ponder.compute.transcript import Transcript
from ponder.metering.metrics import Metrics
from ponder.server.accounting import keeping_account
from ponder.server.app import ServedModel, create_app
from ponder.server.http.server import run
from ponder.server.http.sockets import bind, listen, url_of
from ponder.server.settings import ModelSettings, Settings

SHORT, LONG = (16, 16), (1000, 200)
"""Tokens of thought and of answer."""


class TokenByToken:
    """An engine without a model, which lets others go on after every token; one delta a token of the answer."""

    card = ModelCard(name="instant", context=1 << 16, thinks=True, typical_chain=(1000, 1200))

    def __init__(self, hidden: int, visible: int) -> None:
        self._hidden, self._visible = hidden, visible

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        return 8 * len(prompt.messages)

    async def accept(self, sampling: Sampling) -> None:
        pass

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        transcript.read(self.length(prompt), 0)
        for number in range(min(self._hidden, sampling.thinking)):
            await asyncio.sleep(0)
            transcript.think([number])
        transcript.close_thought()
        pieces = ["word "] * min(self._visible, sampling.answer)
        for number, piece in enumerate(pieces):
            await asyncio.sleep(0)
            transcript.say([number], piece)
            if sampling.streamed:
                yield Delta(piece)
        transcript.end("finished" if len(pieces) == self._visible else "length", Hidden("(numbers)"))
        if not sampling.streamed:
            yield Delta("".join(pieces))

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass


async def serve(settings: Settings, hidden: int, visible: int) -> None:
    engine = TokenByToken(hidden, visible)
    served = ServedModel(engine, Lengths(*engine.card.typical_chain), ModelSettings(path="instant"))
    metrics = Metrics()
    async with keeping_account(settings.ledger, metrics) as ledger:
        with bind(settings.host, settings.port) as sock:
            app = create_app(settings, {"instant": served}, metrics=metrics, ledger=ledger)
            listen(sock)
            sys.stdout.write(f"serving an instant model at {url_of(sock)}\n")
            sys.stdout.flush()
            await run(app, settings, sock, app.state.handle.drain, lambda _: None)


def up(name: str, lengths: tuple[int, int], ledger: str, stack: ExitStack) -> Server:
    """A door, ready."""
    log = stack.enter_context(tempfile.NamedTemporaryFile(suffix=f"-{name}.log"))  # noqa: SIM115 (the stack's)
    port = machine.free_port()
    command = [sys.executable, "-m", "bench.doors", "--port", str(port), "--lengths", *map(str, lengths)]
    environment = {"PONDER_LEDGER__URL": ledger}
    return stack.enter_context(machine.started(name, command, port, "/readyz", log, environment))


async def volleys(doors: Sequence[Server], count: int, at_once: int, *, streamed: bool) -> list[Volley]:
    """So many requests, each door's part of them at the same time."""
    part = count // len(doors)
    asked = bodies("instant", stories(part, 1), streamed=streamed, strategy="direct", thinking_budget=4096)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(volley(door.url, asked, max(1, at_once // len(doors)))) for door in doors]
    return [task.result() for task in tasks]


def round_of(doors: Sequence[Server], count: int, at_once: int, *, streamed: bool) -> dict[str, float]:
    """Figures of all doors together."""
    before = [door.cpu_seconds() or 0.0 for door in doors]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(volleys(doors, count, at_once, streamed=streamed))
    used = [(door.cpu_seconds() or 0.0) - was for door, was in zip(doors, before, strict=True)]
    shots = [shot for one in found for shot in one.shots]
    seconds = max(one.seconds for one in found)
    return {
        "requests_per_second": len(shots) / seconds,
        "tokens_per_second": sum(shot.tokens for shot in shots) / seconds,
        "latency_p50_ms": 1000 * statistics.median(shot.seconds for shot in shots),
        "cpu_ms_per_request": 1000 * sum(used) / len(shots),
        "doors_cpu_share": sum(used) / seconds / len(doors),
    }


def measured(options: argparse.Namespace, ledger: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, lengths, streamed, count in (
        ("short", SHORT, False, options.requests),
        ("short, streamed", SHORT, True, options.requests),
        ("long, streamed", LONG, True, max(64, options.requests // 8)),
    ):
        with ExitStack() as stack:
            doors = [up(f"door {number}", lengths, ledger, stack) for number in (1, 2)]
            rounds: dict[int, list[dict[str, float]]] = {1: [], 2: []}
            round_of(doors, count // 4, options.at_once, streamed=streamed)
            for number in range(options.rounds):
                for many in (1, 2) if number % 2 == 0 else (2, 1):
                    rounds[many].append(round_of(doors[:many], count, options.at_once, streamed=streamed))
        for many, found in rounds.items():
            medians = {figure: statistics.median(one[figure] for one in found) for figure in found[0]}
            rows.append({"load": name, "doors": many, "requests": count, "tokens": sum(lengths), **medians})
            print(f"{name:16} {many} door{'s' * (many > 1)}  " + "  ".join(f"{k} {v:.2f}" for k, v in medians.items()))
    return rows


def costs(rows: Sequence[dict[str, Any]], doors: int) -> dict[str, float]:
    """Milliseconds of a door's processor for a request and for a token, from the short and the long load."""
    short, long = (
        next(row for row in rows if row["doors"] == doors and row["load"] == name)
        for name in ("short, streamed", "long, streamed")
    )
    token = (long["cpu_ms_per_request"] - short["cpu_ms_per_request"]) / (long["tokens"] - short["tokens"])
    request = short["cpu_ms_per_request"] - token * short["tokens"]
    return {
        "request_cpu_ms": request,
        "token_cpu_ms": token,
        "requests_per_second_of_a_core": 1000 / request,
        "tokens_per_second_of_a_core": 1000 / token,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=800, help="of a round of short ones (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each number of doors (%(default)s)")
    parser.add_argument("--at-once", type=int, default=32, help="requests under way, of all doors (%(default)s)")
    parser.add_argument("--port", type=int, help="serve, and measure nothing")
    parser.add_argument("--lengths", type=int, nargs=2, default=SHORT, help="with --port: tokens of thought and answer")
    parser.add_argument("--json", metavar="FILE", help="keep the result in this file")
    options = parser.parse_args()
    if options.port is not None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(Settings(port=options.port, model="instant"), *options.lengths))
        return
    from tests.metering.databases import postgresql

    head = machine.describe()
    print(f"{head['machine']}\n{head['versions']}")
    with postgresql(durable=True) as database:
        rows = measured(options, database.new())
    each = {f"{many} door{'s' * (many > 1)}": costs(rows, many) for many in (1, 2)}
    for name, figures in each.items():
        print(f"{name}: " + "  ".join(f"{k} {v:.4f}" for k, v in figures.items()))
    machine.keep({**head, "ledger": "PostgreSQL, durable", "results": rows, "costs": each}, options.json)


if __name__ == "__main__":
    main()
