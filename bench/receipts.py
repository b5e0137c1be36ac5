"""What a receipt costs a request: processor time of the application with receipts and without, over a model that takes
none, asked in turns without a network.

    python -m bench.receipts [--json bench/results/NAME.json]

The model thinks 64 tokens and says 32, an output a token when streamed. Beside it, each part alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from bench import machine
from bench.instant import Instant
from ponder.compute.lengths import Lengths
from ponder.compute.token_chain import TokenHash
from ponder.metering.receipts import Signer
from ponder.server.app import ServedModel, create_app
from ponder.server.settings import ModelSettings, Settings

ROUND = 20
"""Requests between two changes of turn."""
PATH: dict[str, Any] = {
    "type": "http",
    "method": "POST",
    "path": "/v1/chat/completions",
    "query_string": b"",
    "http_version": "1.1",
}


def application(signer: Signer | None) -> FastAPI:
    engine = Instant()
    served = ServedModel(engine, Lengths(*engine.card.typical_chain), ModelSettings(path="instant"))
    return create_app(Settings(model="instant"), {"instant": served}, signer=signer)


async def ask(app: FastAPI, body: bytes) -> int:
    """One request; the bytes of its answer."""
    given, size, done = [body], 0, asyncio.Event()

    async def receive() -> dict[str, Any]:
        if given:
            return {"type": "http.request", "body": given.pop()}
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal size
        size += len(message.get("body", b""))

    await app(PATH | {"headers": [(b"content-type", b"application/json")]}, receive, send)
    return size


async def by_turns(apps: Sequence[FastAPI], body: bytes, rounds: int) -> tuple[list[float], list[int]]:
    """(microseconds of processor time of a request in the quickest round, bytes of an answer) of each application."""
    taken: list[list[float]] = [[] for _ in apps]
    sizes = [await ask(app, body) for app in apps]
    for number in range(rounds):
        for place in (range(len(apps)), reversed(range(len(apps))))[number % 2]:
            began = time.process_time()
            for _ in range(ROUND):
                await ask(apps[place], body)
            taken[place].append((time.process_time() - began) / ROUND * 1e6)
    return [min(one) for one in taken], sizes


def alone(work: Callable[[], object], count: int = 1000) -> float:
    """Microseconds of processor time that some work takes: the least of five tries."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(count):
            work()
        best = min(best, (time.process_time() - began) / count * 1e6)
    return best


def hashed(tokens: int, portion: int) -> Callable[[], object]:
    ids = list(range(100_000, 100_000 + portion))

    def work() -> object:
        made = TokenHash(b"s" * 32)
        for _ in range(0, tokens, portion):
            made.add(ids)
        return made.digest

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", help="keep the result in this file")
    options = parser.parse_args()
    head = machine.describe()
    print(f"{head['machine']}\n{head['versions']}")
    signer = Signer(Ed25519PrivateKey.generate())
    apps = [application(None), application(signer)]
    results: dict[str, Any] = {}
    for streamed in (False, True):
        fields = {"model": "instant", "messages": [{"role": "user", "content": "Why?"}], "stream": streamed}
        body = json.dumps(fields | {"strategy": "direct", "thinking_budget": 1024}).encode()
        (without, with_), sizes = asyncio.run(by_turns(apps, body, options.rounds))
        name = "streamed" if streamed else "whole"
        results[name] = {"without_us": without, "with_us": with_, "bytes": sizes}
        print(f"{name:12}{without:9.0f} us without{with_:9.0f} us with, {sizes[1] - sizes[0]} bytes more")
    claims = {"id": "req_0123456789abcdef01234567", "counts": list(range(20)), "chain": "A" * 43, "more": "b" * 200}
    parts = {
        "signing": alone(lambda: signer.sign(claims)),
        "the salt": alone(lambda: signer.salt("req_0123456789abcdef01234567")),
        "1,000 tokens, one by one": alone(hashed(1000, 1), 100),
        "1,000 tokens by 50": alone(hashed(1000, 50), 100),
        "32,000 tokens by 50": alone(hashed(32000, 50), 5),
    }
    for name, microseconds in parts.items():
        print(f"{name:26}{microseconds:9.1f} us")
    machine.keep({**head, "results": results, "parts_us": parts}, options.json)


if __name__ == "__main__":
    main()
