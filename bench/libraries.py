"""What a library would cost or save in the place of our own code: the figures of `docs/libraries.md`.

    python -m bench.libraries

JSON bodies of three sizes by our strict parser and by those of pydantic and orjson (where that is installed), what each
does with a body that our rules refuse, the same route bare and as FastAPI's, and the time of imports, each in a process
of its own. Times are the processor's: medians of rounds.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ponder.compute.errors import RequestError
from ponder.server.strict_json import DIGITS, deeper, loads, outside

DEPTH = 64
ODD = re.compile(rb"[0-9]{%d}|[0-9][eE]" % DIGITS)
"""Numbers that may be too long or too large."""
ROUNDS, SECONDS = 15, 0.1
STRANGE: Mapping[str, bytes] = {
    "a key twice": b'{"a": 1, "a": 2}',
    "NaN": b'{"a": NaN}',
    "1e999": b'{"a": 1e999}',
    "30 digits": b'{"a": 123456789012345678901234567890}',
    "100,000 digits": b'{"a": ' + b"1" * 100_000 + b"}",
    "half a surrogate pair": b'{"a": "\\ud800"}',
    "100 brackets": b"[" * 100 + b"]" * 100,
    "not UTF-8": b'{"a": "\xff"}',
}
IMPORTS: Mapping[str, str] = {
    "nothing": "pass",
    "argparse": "import argparse",
    "pydantic": "import pydantic",
    "pydantic_settings": "import pydantic_settings",
    "our settings": "import ponder.server.settings",
    "our command line": "from ponder.__main__ import parser; parser(['serve'])",
    "the application": "import ponder.server.app",
}


def bodies() -> dict[str, bytes]:
    """A question, a conversation with tools, and one near the limit of a body."""

    def talk(turns: int, words: int) -> list[dict[str, str]]:
        return [
            {"role": "user" if i % 2 == 0 else "assistant", "content": "What is 3 + 4? " * words} for i in range(turns)
        ]

    schema = {"type": "object", "properties": {f"field{i}": {"type": "string"} for i in range(10)}}
    tools = [{"type": "function", "function": {"name": f"tool{i}", "parameters": schema}} for i in range(10)]
    asked: dict[str, dict[str, Any]] = {
        "small": {"model": "demo", "messages": talk(1, 1), "thinking_budget": 256, "stream": True},
        "tools": {"model": "demo", "messages": talk(20, 10), "tools": tools, "temperature": 0.7},
        "large": {"model": "demo", "messages": talk(200, 300)},
    }
    return {name: json.dumps(body).encode() for name, body in asked.items()}


def parsers() -> dict[str, Callable[[bytes], Any]]:
    found: dict[str, Callable[[bytes], Any]] = {
        "ours": lambda raw: loads(raw, DEPTH),
        "json": json.loads,
        "pydantic_core": lambda raw: from_json(raw, allow_inf_nan=False),
        "by our rules": by_our_rules,
    }
    if find_spec(name := "orjson"):
        found[name] = import_module(name).loads
    return found


def by_our_rules(raw: bytes) -> Any:
    """pydantic's parser under our rules, and ours where one may be broken. Outside of strings only a key has a colon
    behind it: where one was named twice, there are fewer keys."""
    bare = outside(raw)
    if not deeper(bare.decode(), DEPTH) and ODD.search(bare) is None:
        try:
            value = from_json(raw, allow_inf_nan=False)
        except ValueError:
            return loads(raw, DEPTH)
        if bare.count(b":") == keys(value):
            return value
    return loads(raw, DEPTH)


def keys(value: Any) -> int:
    """How many keys the objects of a parsed value have."""
    found, left = 0, [value]
    while left:
        one: Any = left.pop()
        keyed = isinstance(one, dict)
        inside: Any = cast("dict[str, Any]", one).values() if keyed else one
        found += len(inside) if keyed else 0
        left += [inner for inner in inside if isinstance(inner, dict | list)]
    return found


def microseconds(call: Callable[[], object]) -> float:
    """The median over rounds of a call's mean."""
    begun, calls = time.thread_time(), 0
    while time.thread_time() - begun < SECONDS:
        call()
        calls += 1
    times: list[float] = []
    for _ in range(ROUNDS):
        begun = time.thread_time()
        for _ in range(calls):
            call()
        times.append((time.thread_time() - begun) / calls * 1e6)
    return statistics.median(times)


def verdict(parse: Callable[[bytes], Any], raw: bytes) -> str:
    """What a parser makes of a body."""
    try:
        value = parse(raw)
    except (RequestError, ValueError):
        return "refused"
    inner: object = value["a"] if raw.startswith(b"{") else value
    return f"{type(inner).__name__} {ascii(inner)[:12] if len(raw) < 100 else ''}"


async def answer() -> dict[str, str]:
    """What a probe is told."""
    return {"status": "ok"}


async def bare(request: Request) -> JSONResponse:
    return JSONResponse(await answer())


def routes() -> dict[str, Callable[[], object]]:
    """One request to each kind of route, past any server."""
    apps: dict[str, Any] = {
        "Starlette's": Starlette(routes=[Route("/livez", bare)]),
        "FastAPI's": FastAPI(routes=[APIRoute("/livez", answer, response_model=dict[str, str])]),
    }
    for app in apps.values():
        app.middleware_stack = app.build_middleware_stack()
    asked: dict[str, Any] = {"type": "http", "method": "GET", "path": "/livez", "query_string": b"", "headers": []}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        pass

    def call(app: Any) -> None:
        loop.run_until_complete(app(dict(asked), receive, send))

    loop = asyncio.new_event_loop()
    return {name: lambda app=app: call(app) for name, app in apps.items()}


def milliseconds(code: str) -> float:
    """CPU time of a new process."""
    measured = f"import time\n{code}\nprint(time.process_time())"
    times = [float(subprocess.check_output([sys.executable, "-c", measured])) * 1000 for _ in range(ROUNDS)]
    return statistics.median(times)


def main() -> None:
    known = parsers()
    print("body     bytes " + "".join(f"{name:>15}" for name in known) + "   us")
    for name, raw in bodies().items():
        print(
            f"{name:8} {len(raw):6}" + "".join(f"{microseconds(lambda p=p, r=raw: p(r)):15.1f}" for p in known.values())
        )
    print("\nbody" + " " * 20 + "".join(f"{name:>22}" for name in known))
    for name, raw in STRANGE.items():
        print(f"{name:24}" + "".join(f"{verdict(parse, raw):>22}" for parse in known.values()))
    print("\nroute" + " " * 19 + "us of CPU time, with the loop's own")
    for name, call in routes().items():
        print(f"{name:24}{microseconds(call):10.1f}")
    print("\nimport" + " " * 20 + "ms of CPU time")
    for name, code in IMPORTS.items():
        print(f"{name:24}{milliseconds(code):10.0f}")


if __name__ == "__main__":
    main()
