"""Whatever callers make up, keys, models, methods, paths or metadata, a server has as many series as before."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi import FastAPI

from ponder.server.auth import keys
from ponder.server.registry import Registry
from ponder.server.settings import KeySettings, Settings
from ponder.testing import Chain
from tests.server.serving import ASK, PATH, door, its_door, scripted

STRATEGIES = sorted(Registry().strategies)
PATHS = (PATH["path"], "/v1/models", "/v1/usage", "/v1/strategies", "/metrics", "/healthz", "/livez", "/v1/messages")
METHODS = (*["POST"] * 9, "GET", "HEAD", "PUT", "DELETE", "OPTIONS")


def made_up(rng: random.Random) -> str:
    return "".join(chr(rng.choice((*range(33, 127), 228, 0x4E2D))) for _ in range(rng.randint(1, 40)))


def ask(rng: random.Random, **more: Any) -> dict[str, Any]:
    """A request that is answered, of a caller who writes down whatever they like."""
    words = {made_up(rng): made_up(rng) for _ in range(rng.randint(0, 3))}
    return ASK | {"thinking_budget": 60, "user": made_up(rng), "metadata": words} | more


async def send(app: FastAPI, method: str, path: str, key: str | None, body: bytes) -> int:
    """One request as it comes from the socket; the status."""
    headers = [(b"content-type", b"application/json"), (b"host", b"door")]
    if key is not None:
        headers.append((b"authorization", f"Bearer {key}".encode()))
    scope = PATH | {"method": method, "path": path, "raw_path": path.encode(), "headers": headers, "scheme": "http"}
    arriving: list[dict[str, Any]] = [{"type": "http.request", "body": body}]
    status = 0

    async def receive() -> dict[str, Any]:
        if arriving:
            return arriving.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def sent(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, sent)
    return status


async def anything(app: FastAPI, rng: random.Random, presented: Sequence[str]) -> int:
    """One request in which all that a caller chooses is made up, or nearly."""
    key = rng.choice((*presented, *presented, made_up(rng), None))
    path = rng.choice((*[PATH["path"]] * 4, rng.choice(PATHS), f"/{made_up(rng)}", f"/v1/usage/{made_up(rng)}"))
    method = rng.choice((*METHODS, made_up(rng)))
    model = rng.choice(("demo", f"demo:{rng.choice(STRATEGIES)}", made_up(rng), f"demo:{made_up(rng)}"))
    body = json.dumps(ask(rng, model=model, **rng.choice(({}, {}, {made_up(rng): 1}, {"n": made_up(rng)})))).encode()
    return await send(app, method, path, key, rng.choice((body, body, body, made_up(rng).encode())))


async def series_after(requests: int) -> tuple[int, int, dict[int, int]]:
    """How many series there are when each key has used each strategy and all kinds of refusals were seen, and how many
    after so many requests more; and how many requests had which status."""
    presented: list[str] = []
    tables: list[KeySettings] = []
    for name in ("alice", "bob"):
        key, digest = keys.make()
        presented.append(key)
        tables.append(KeySettings(name=name, hash=digest, scopes=frozenset({"infer"})))
    app = door(scripted(Chain("three and four\n", "It is 7.")), Settings(keys=tables))
    first, then = random.Random(1), random.Random(2)
    for key in presented:
        for strategy in STRATEGIES:
            body = json.dumps(ask(first, strategy=strategy)).encode()
            assert await send(app, "POST", PATH["path"], key, body) == 200
    for _ in range(300):
        await anything(app, first, presented)
    before = _series(app)
    seen: dict[int, int] = {}
    for _ in range(requests):
        status = await anything(app, then, presented)
        seen[status] = seen.get(status, 0) + 1
    return before, _series(app), seen


def _series(app: FastAPI) -> int:
    lines = its_door(app).metrics.render()[0].decode().splitlines()
    return sum(not line.startswith("#") for line in lines)


def check(requests: int) -> None:
    before, after, seen = asyncio.run(series_after(requests))
    assert after == before
    assert {200, 400, 401, 403, 404} <= seen.keys()
    assert seen[200] > requests / 20
    assert not [status for status in seen if status >= 500]


def test_5k_requests_of_all_kinds_make_no_series() -> None:
    check(5_000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_100k_requests_of_all_kinds_make_no_series() -> None:
    check(100_000)
