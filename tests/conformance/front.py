"""What stands between a suite and the server where the suite was written for a mock: it puts in what the suite leaves
out, and lets all else pass as it is.

openai-python's tests ask for `responses.create()` with nothing in it, and for responses under ids that nobody has made.
So a body without a model gets one, and without an input one; and in the place of a made-up id comes that of a response
that was stored just before. Every answer is the server's own.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from ponder.server.http.sockets import bind, listen, url_of

MADE_UP = re.compile(r"^/v1/responses/(resp_677efb5139a88190b512bc3fef8e535d|response_id)(?=/|$)")
NOBODY = "resp_none"
"""In its place where the server stores none: the suite hears what the server says of one that is not there."""
HOPS = ("host", "content-length", "transfer-encoding", "connection", "content-encoding", "accept-encoding")
"""Headers of a connection, not of what goes over it."""


class Front:
    """The application."""

    def __init__(self, url: str, model: str) -> None:
        self._model = model
        self._client = httpx.AsyncClient(base_url=url, timeout=60)
        methods = ["GET", "POST", "DELETE", "PUT", "PATCH"]
        self.app = Starlette(routes=[Route("/{path:path}", self._pass_on, methods=methods)])

    async def _pass_on(self, request: Request) -> StreamingResponse:
        path, raw = request.url.path, await request.body()
        if request.method == "POST" and path in ("/v1/responses", "/v1/responses/input_tokens"):
            raw = json.dumps({"model": self._model, "input": "Say this."} | json.loads(raw or b"{}")).encode()
        if found := MADE_UP.match(path):
            path = f"/v1/responses/{await self._stored(request)}{path[found.end() :]}"
        headers = {name: value for name, value in request.headers.items() if name not in HOPS}
        if raw:
            headers["content-type"] = "application/json"
        sent = self._client.build_request(
            request.method, path, params=request.query_params, headers=headers, content=raw
        )
        answer = await self._client.send(sent, stream=True)

        async def passed() -> AsyncGenerator[bytes]:
            async for part in answer.aiter_raw():
                yield part
            await answer.aclose()

        kept = {name: value for name, value in answer.headers.items() if name not in HOPS}
        return StreamingResponse(passed(), answer.status_code, kept)

    async def _stored(self, request: Request) -> str:
        """The id of a response that is there."""
        # Only what was begun in the background is cancelled, and only what was streamed is streamed again.
        background = request.url.path.endswith("/cancel") or "stream" in request.query_params
        body = {"model": self._model, "input": "Say this.", "store": True, "background": background}
        headers = {"authorization": request.headers.get("authorization", "")}
        if not background:
            told: dict[str, Any] = (await self._client.post("/v1/responses", json=body, headers=headers)).json()
            return str(told.get("id", NOBODY))
        async with self._client.stream(
            "POST", "/v1/responses", json=body | {"stream": True}, headers=headers
        ) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: {"):
                    told = json.loads(line.removeprefix("data: "))
                    return told["response"]["id"]
        return NOBODY


@contextmanager
def front(url: str, model: str) -> Generator[str]:
    """The address of one before the server at `url`. `model` is what a request without one asks."""
    with bind("127.0.0.1", 0) as sock:
        listen(sock)
        server = uvicorn.Server(uvicorn.Config(Front(url, model).app, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield url_of(sock)
        finally:
            server.should_exit = True
            thread.join(10)
