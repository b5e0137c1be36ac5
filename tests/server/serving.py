"""A door over scripted engines: in this process, or behind a real uvicorn on a free port."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from prometheus_client import generate_latest

from ponder.compute.account import Account
from ponder.compute.engine import Engine, RewardModel
from ponder.compute.lengths import Lengths
from ponder.metering.ledger import Ledger
from ponder.metering.metrics import Metrics
from ponder.metering.receipts import Signer
from ponder.server.app import ServedModel, ServerHandle, create_app
from ponder.server.sealed_thoughts import SealedThoughts
from ponder.server.settings import ModelSettings, Settings
from ponder.server.tracing import Tracing
from ponder.testing import MARKER, Chain, ScriptedEngine, always, in_virtual_time

CHAIN = Chain(f"{MARKER}: three and four\nmake seven", "It is 7.")
PATH: dict[str, Any] = {
    "type": "http",
    "method": "POST",
    "path": "/v1/chat/completions",
    "query_string": b"",
    "http_version": "1.1",
}
SETTINGS = Settings()
"""As they are where nothing is set. To read them takes as long as to make an application."""
ASK = {"model": "demo", "messages": [{"role": "user", "content": "What is 3 + 4?"}]}


def scripted(*chains: Chain, **more: Any) -> ScriptedEngine:
    return ScriptedEngine(always(*(chains or (CHAIN,))), **more)


def door(
    engine: Engine,
    settings: Settings | None = None,
    *,
    reward_model: RewardModel | None = None,
    lengths: Lengths | None = None,
    name: str = "demo",
    metrics: Metrics | None = None,
    accounts: Sequence[Account] = (),
    ledger: Ledger | None = None,
    tracing: Tracing | None = None,
    signer: Signer | None = None,
    seals: SealedThoughts | None = None,
    **model: Any,
) -> FastAPI:
    """An application that serves one engine."""
    served = ServedModel(engine, lengths or Lengths(20, 40), ModelSettings(path="scripted", **model), reward_model)
    more: dict[str, Any] = {"accounts": accounts, "ledger": ledger, "tracing": tracing, "signer": signer}
    more["seals"] = seals
    return create_app(settings or SETTINGS, {name: served}, metrics=metrics, **more)


def its_door(app: FastAPI) -> ServerHandle:
    found: ServerHandle = app.state.handle
    return found


async def asked(app: FastAPI, method: str, url: str, **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        return await client.request(method, url, **more)


def ask(app: FastAPI, method: str = "POST", url: str = PATH["path"], **more: Any) -> httpx.Response:
    """One request, without a network, on a loop of its own."""
    return asyncio.run(asked(app, method, url, **more))


def chat(app: FastAPI, headers: Mapping[str, str] | None = None, **body: Any) -> httpx.Response:
    return ask(app, json=ASK | body, headers=headers)


def in_no_time(app: FastAPI, headers: Mapping[str, str] | None = None, **body: Any) -> httpx.Response:
    """The same in virtual time."""
    return in_virtual_time(asked(app, "POST", PATH["path"], json=ASK | body, headers=headers))


def answered(app: FastAPI, **body: Any) -> dict[str, Any]:
    response = chat(app, **body)
    assert response.status_code == 200, response.text
    return response.json()


def events(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream that ended as it should."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def joined(deltas: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The calls whose pieces come in the deltas of one answer, as an answer in one piece has them."""
    calls: list[dict[str, Any]] = []
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls") or ()):
        if "id" in piece:
            assert piece["index"] == len(calls)
            calls.append({"id": piece["id"], "type": piece["type"], "function": dict(piece["function"])})
        else:
            assert piece["index"] == len(calls) - 1
            calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
    return calls


def refused(response: httpx.Response, status: int = 400, code: str | None = None, param: str | None = None) -> str:
    """The response is an error in OpenAI's shape; its message."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert isinstance(error["code"], str)
    assert response.headers["x-request-id"].startswith("req_")
    if code is not None:
        assert error["code"] == code, error
    if param is not None:
        assert error["param"] == param, error
    return error["message"]


def counted(app: FastAPI, series: str) -> float:
    """The sum of a series over its labels; `series` may hold a part of the labels."""
    name, _, labels = series.partition("{")
    text = generate_latest(its_door(app).metrics.registry.restricted_registry([name])).decode()
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if re.match(rf"{name}(\{{| )", line) and labels.rstrip("}") in line
    )


def written(app: FastAPI) -> float:
    """Tokens the metrics say the models wrote."""
    kinds = ("thinking", "visible")
    return sum(counted(app, f'ponder_engine_tokens_total{{kind="{kind}"}}') for kind in kinds)


class Line:
    """A connection without a network: what the application receives and sends, held in the hand."""

    def __init__(self, **body: Any) -> None:
        self.gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.blocked = asyncio.Event()
        """Set: the reader takes what it is sent."""
        self.blocked.set()
        self._body: bytes | None = json.dumps(ASK | body).encode()

    async def receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.blocked.wait()
        self.sent.append(message)

    async def call(self, app: FastAPI, key: str | None = None) -> None:
        """`key`: the caller's API key."""
        headers = [(b"content-type", b"application/json")]
        if key is not None:
            headers.append((b"authorization", f"Bearer {key}".encode()))
        await app(PATH | {"headers": headers}, self.receive, self.send)

    @property
    def text(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


@dataclass
class Place:
    port: int
    loop: asyncio.AbstractEventLoop
    """The server's, in a thread of its own."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(app: FastAPI) -> Generator[Place]:
    """The application behind uvicorn, for as long as the block lasts."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=2))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve([listening]),), daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield Place(listening.getsockname()[1], loop)
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
    assert not thread.is_alive()


def until(true: Any, seconds: float = 60) -> None:
    """Waits for something another thread does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
