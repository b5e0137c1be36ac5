"""A vLLM server without a model, for a replica of Ray Serve: it wants a key, says what every vLLM server is asked when
it is first reached, and writes what follows from the ids that it is given (`tests.engines.replica_process`).

`python -m tests.ray.light_server HOST PORT FOLDER '{...}'` leaves a file in the folder that says who it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import web
from tokenizers import Tokenizer

from ponder.engines.lifeline import no_platform
from tests.engines.replica_process import Server, Writer

ROOT = Path(__file__).parents[2]


class LightServer(Server):
    """The routes."""

    def __init__(self, writer: Writer, key: str) -> None:
        super().__init__(writer)
        self._key = key
        tokenizer: Any = Tokenizer.from_file(str(ROOT / "models" / "demo" / "tokenizer.json"))
        self._encode: Any = tokenizer.encode

    @web.middleware
    async def locked(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {self._key}":
            return web.json_response({"error": "a key is wanted"}, status=401)
        return await handler(request)

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "demo", "max_model_len": 4096}]})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if isinstance(asked["prompt"], list) and "logprobs" not in asked and "structured_outputs" not in asked:
            return await super().completions(request)
        if not isinstance(asked["prompt"], str):
            return web.json_response({"error": "it has no model"}, status=400)
        ids = self._encode(asked["prompt"], add_special_tokens=False).ids
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        choice = {"index": 0, "text": "", "finish_reason": "length", "stop_reason": None, "token_ids": [1]}
        await self._event(response, {"model": "demo", "choices": [choice | {"prompt_token_ids": ids}]})
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1}
        await self._event(response, {"model": "demo", "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response


async def serve(host: str, port: int, folder: Path, writer: Writer) -> None:
    key = os.environ["VLLM_API_KEY"]
    server = LightServer(writer, key)
    app = web.Application(middlewares=[server.locked])
    app.router.add_get("/health", server.health)
    app.router.add_get("/metrics", server.metrics)
    app.router.add_get("/version", server.version)
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/v1/completions", server.completions)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    (folder / str(os.getpid())).write_text(f"http://{host}:{port}")
    await asyncio.Event().wait()


if __name__ == "__main__":
    no_platform()
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Writer(**json.loads(sys.argv[4]))))
