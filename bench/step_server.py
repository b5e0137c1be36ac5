"""A vLLM server without a model and of fixed step time: in each step it makes one token of each call it works on.

python -m bench.step_server --port 8001 [--step 0.02] [--places 16] [--tokens 64]

It has the routes that a replica uses (`docs/replicas.md`), and vLLM's own events, to the byte, but for the text. A call
has as many tokens as it asks for, `--tokens` at most. What it takes of the processor is HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any, cast

from aiohttp import web
from transformers import AutoTokenizer

from bench.machine import ROOT
from ponder.engines.lifeline import no_platform

WORD = 20


class StepServer:
    """The routes."""

    def __init__(self, step: float, places: int, tokens: int) -> None:
        self._step, self._tokens = step, tokens
        self._seats = asyncio.Semaphore(places)
        tokenizer = cast("Any", AutoTokenizer).from_pretrained(str(ROOT / "models" / "demo"))
        self._encode: Any = tokenizer.backend_tokenizer.encode

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "demo", "max_model_len": 1 << 16}]})

    async def nothing(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        asked: dict[str, Any] = await request.json()
        prompt = asked["prompt"]
        ids: list[int] = self._encode(prompt, add_special_tokens=False).ids if isinstance(prompt, str) else prompt
        tokens, every = min(self._tokens, asked["max_tokens"]), asked.get("stream_interval", 1)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async with self._seats:
            waiting = 0
            for n in range(1, tokens + 1):
                await asyncio.sleep(self._step)
                waiting += 1
                if n in (1, tokens) or waiting >= every:
                    reason = "length" if n == tokens else None
                    await response.write(_event([WORD] * waiting, reason, ids if n == 1 else None))
                    waiting = 0
        usage = {"prompt_tokens": len(ids), "completion_tokens": tokens, "total_tokens": len(ids) + tokens}
        usage |= {"prompt_tokens_details": {"cached_tokens": 0}}
        await response.write(_data({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
        return response


def _event(ids: list[int], reason: str | None, prompt: list[int] | None) -> bytes:
    choice = {"index": 0, "text": "4" * len(ids), "logprobs": None, "finish_reason": reason, "stop_reason": None}
    return _data({"choices": [choice | {"prompt_token_ids": prompt, "token_ids": ids}]})


def _data(more: dict[str, Any]) -> bytes:
    head = {"id": "cmpl-0", "object": "text_completion", "created": 1, "model": "demo"}
    return b"data: " + json.dumps(head | more).encode() + b"\n\n"


def app(step: float, places: int, tokens: int) -> web.Application:
    made, server = web.Application(), StepServer(step, places, tokens)
    made.router.add_get("/v1/models", server.models)
    made.router.add_post("/v1/completions", server.completions)
    for path in ("/health", "/version", "/metrics"):
        made.router.add_get(path, server.nothing)
    return made


def main() -> None:
    reader = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    reader.add_argument("--host", default="127.0.0.1")
    reader.add_argument("--port", type=int, required=True)
    reader.add_argument("--step", type=float, default=0.02, help="seconds")
    reader.add_argument("--places", type=int, default=16, help="calls at a time")
    reader.add_argument("--tokens", type=int, default=64, help="of a call, at most")
    given = reader.parse_args()
    no_platform()
    web.run_app(app(given.step, given.places, given.tokens), host=given.host, port=given.port, print=None)


if __name__ == "__main__":
    main()
