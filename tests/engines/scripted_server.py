"""A vLLM server without a model: the routes of vLLM's own that a replica uses, over a stand-in for its engine.

It speaks real HTTP on a port of its own, in the event loop of the test. What it was started without, it refuses as
vLLM does.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import web

from ponder.engines.profiles import Profile
from ponder.engines.replicas.features import Features
from ponder.engines.replicas.known import KnownModel
from ponder.engines.replicas.server import VllmServer, connect
from tests.engines.scripted_vllm import ScriptedVllm
from tests.engines.stand_in import StandIn

Answer = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclass
class ScriptedServer:
    """What it was started with."""

    llm: StandIn
    served: str = "demo"
    key: str = ""
    scale_out: bool = False
    """Calls can be ended by their names."""
    counts_cached: bool = True
    tells_ids: bool = True
    most_logprobs: int = 20
    version: str = "0.32.0"
    most_tokens: int | None = None
    """No call may make more, whatever it asks for (`max_new_tokens` of a `generation_config.json`)."""
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Of all completions that were asked for."""
    ids: list[str] = field(default_factory=list[str])
    """Their names."""
    answer: Answer | None = None
    """Answers a completion in its place; None from it: it does that itself."""
    pace: Callable[[dict[str, Any]], float] = lambda asked: 0.0
    """Seconds between two outputs of a call."""
    metrics: str = (
        'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 4.0\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:prefix_cache_queries_total{engine="0"} 200.0\n'
        'vllm:prefix_cache_hits_total{engine="0"} 150.0\n'
        'vllm:cache_config_info{block_size="32",enable_prefix_caching="True"} 1.0\n'
    )

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
        """Its address, within the block; with `tls` it is one of HTTPS."""
        app = web.Application(middlewares=[self._guarded])
        app.router.add_get("/version", self._version)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/inference/v1/abort_requests", self._abort)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, backlog=2048, ssl_context=tls)
        await site.start()
        try:
            yield f"{'http' if tls is None else 'https'}://127.0.0.1:{self._runner.addresses[0][1]}"
        finally:
            await self._runner.cleanup()

    def vanish(self) -> None:
        """Its process is killed, as far as others can see."""
        for site in list(self._runner.sites):
            server: Any = site._server  # pyright: ignore[reportPrivateUsage]
            server.close()
        for connection in cast("Any", self._runner.server).connections:
            if connection.transport is not None:
                connection.transport.abort()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        open_to_all = request.path in ("/health", "/metrics", "/version")
        if self.key and not open_to_all and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": self.version})

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=503 if self.llm.errored else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.metrics)

    async def _models(self, request: web.Request) -> web.Response:
        card = {
            "id": self.served,
            "root": "somewhere",
            "parent": None,
            "max_model_len": self.llm.model_config.max_model_len,
        }
        return web.json_response({"object": "list", "data": [card]})

    async def _abort(self, request: web.Request) -> web.Response:
        if not self.scale_out:
            return web.json_response({"error": "Scale-out endpoints are disabled"}, status=403)
        for name in (await request.json())["request_ids"]:
            await self.llm.abort(name)
        return web.Response()

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.bodies.append(asked)
        self.ids.append(request.headers.get("X-Request-Id", ""))
        if self.answer is not None and (answer := await self.answer(request)) is not None:
            return answer
        if asked["model"] != self.served:
            return web.json_response({"error": "no such model"}, status=404)
        if (asked.get("logprobs") or 0) > self.most_logprobs:
            return web.json_response({"error": "too many logprobs"}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        ids = asked["prompt"]
        if isinstance(ids, str):
            ids = self.llm.tokenizer.encode(ids, add_special_tokens=False).ids
        held: Any = (asked.get("structured_outputs") or {"grammar": None}).get("grammar")
        if isinstance(asked["prompt"], str) or len(set(ids)) == 1:
            await self._trial(response, asked, ids, self.llm.ids("0"))
        elif held in ('root ::= "0"', 'root ::= "0" "1"'):
            # What is asked at the start; a plain vLLM begins the grammar anew.
            await self._trial(response, asked, ids, self.llm.ids("0" if held == 'root ::= "0"' else "01"))
        else:
            await self._stream(response, asked, ids, request)
        return response

    async def _trial(
        self, response: web.StreamResponse, asked: dict[str, Any], ids: list[int], made: list[int]
    ) -> None:
        await self._event(response, asked, made[: asked["max_tokens"]], "length", None, None, ids)
        await self._end(response, asked, len(ids), 0, min(len(made), asked["max_tokens"]))

    async def _stream(
        self, response: web.StreamResponse, asked: dict[str, Any], ids: list[int], request: web.Request
    ) -> None:
        params = SimpleNamespace(
            max_tokens=min(asked["max_tokens"], self.most_tokens or asked["max_tokens"]),
            stop_token_ids=asked.get("stop_token_ids") or [],
            stop=asked.get("stop") or [],
            logprobs=asked.get("logprobs"),
            logit_bias=asked.get("logit_bias"),
            bad_words=asked.get("bad_words"),
            structured_outputs=asked.get("structured_outputs"),
            seed=asked.get("seed"),
            extra_args=asked.get("vllm_xargs"),
            repetition_detection=asked.get("repetition_detection"),
        )
        number = f"cmpl-{self.ids[-1]}-0"
        call = await self.llm.add_request(number, {"prompt_token_ids": ids}, params)
        made, first = 0, True
        try:
            while True:
                out = call.get_nowait() or await call.get()
                completion = out.outputs[0]
                made += len(completion.token_ids)
                logprobs = completion.logprobs
                told = None if logprobs is None else _told(completion.token_ids, logprobs)
                reason, stop = completion.finish_reason, completion.stop_reason
                await self._event(
                    response, asked, completion.token_ids, reason, stop, told, ids if first else None, made
                )
                first = False
                await asyncio.sleep(self.pace(asked))
                if out.finished:
                    break
            await self._end(response, asked, len(ids), out.num_cached_tokens, made)
        except (ConnectionError, asyncio.CancelledError) as gone:
            await self.llm.abort(number)
            call.get_nowait()
            if isinstance(gone, asyncio.CancelledError):
                raise

    async def _event(
        self,
        response: web.StreamResponse,
        asked: dict[str, Any],
        made: list[int],
        reason: str | None,
        stop: int | str | None,
        logprobs: Any,
        prompt: list[int] | None,
        count: int = 0,
    ) -> None:
        choice: dict[str, Any] = {"index": 0, "text": "?", "finish_reason": reason, "stop_reason": stop}
        if asked.get("return_token_ids") and self.tells_ids:
            choice |= {"token_ids": made, "prompt_token_ids": prompt}
        if asked.get("logprobs") is not None:
            choice["logprobs"] = logprobs or _told(made, None)
        event = {"id": "cmpl-1", "object": "text_completion", "model": self.served, "choices": [choice]}
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    async def _end(
        self, response: web.StreamResponse, asked: dict[str, Any], prompt: int, cached: int, made: int
    ) -> None:
        usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
        if self.counts_cached:
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        event: dict[str, Any] = {"id": "cmpl-1", "model": self.served, "choices": [], "usage": usage}
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n")
        await response.write_eof()


def _told(ids: list[int], flat: Any) -> dict[str, Any]:
    """Log-probabilities as vLLM's completions have them, with ids in place of texts."""
    if flat is None:
        return {
            "tokens": [f"token_id:{i}" for i in ids],
            "token_logprobs": [-0.5] * len(ids),
            "top_logprobs": [{f"token_id:{i}": -0.5} for i in ids],
        }
    rows = [
        dict(zip((f"token_id:{i}" for i in flat.token_ids[a:b]), flat.logprobs[a:b], strict=True))
        for a, b in zip(flat.start_indices, flat.end_indices, strict=True)
    ]
    own = [flat.logprobs[a] for a in flat.start_indices]
    return {"tokens": [f"token_id:{i}" for i in ids], "token_logprobs": own, "top_logprobs": rows}


class Served(VllmServer):
    """A replica, which says as a scripted engine does what its model has made."""

    llm: StandIn
    stack: AsyncExitStack | None = None
    """What ends with it."""

    async def close(self) -> None:
        await super().close()
        stack, self.stack = self.stack, None
        if stack is not None:
            await stack.aclose()

    @property
    def produced(self) -> int:
        return self.llm.made

    @property
    def running(self) -> int:
        return self.llm.running


def known_of(llm: StandIn, profile: Profile) -> KnownModel:
    """What is known of the model of a stand-in."""
    tokenizer = llm.get_tokenizer()
    return KnownModel("the model", "demo", profile, tokenizer, vocabulary=len(tokenizer))


@asynccontextmanager
async def replica(server: ScriptedServer, profile: Profile | None = None) -> AsyncGenerator[Served]:
    """A replica of a server that serves within the block, connected as every one is."""
    profile = profile or cast(ScriptedVllm, server.llm).profile
    known = known_of(server.llm, profile)
    async with server.serving() as url:
        found = await connect(url, known)
        made = Served(found.connection, known, found.features)
        made.llm = server.llm
        server.llm.made = 0
        try:
            yield made
        finally:
            await made.close()
            known.close()


PLAIN = Features("0.32.0", "demo", 2048)
"""A server that nobody has asked."""
