"""A vLLM server without a model as a process of its own, to be killed and stopped: it writes what follows from the ids
it is given, so a chain goes on anywhere as it would have gone on here. It imports little, so that it is there soon.

`python replica_process.py '{...}'` prints its address, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from aiohttp import web


@dataclass(frozen=True)
class Writer:
    """How it writes: ids of its model."""

    turn: int
    """Begins a turn."""
    header: int
    """Tokens from that to where a chain begins."""
    close: int
    """Ends a thought."""
    end: int
    """Ends a chain."""
    words: Sequence[int]
    pace: float = 0.02
    """Seconds between two tokens of a call."""

    def next(self, ids: Sequence[int]) -> int:
        """The token behind these: a thought of 40 to 80 tokens, an answer of 12."""
        begins = len(ids) - 1 - ids[::-1].index(self.turn) + self.header
        question = int.from_bytes(hashlib.blake2b(str(ids[:begins]).encode(), digest_size=4).digest(), "big")
        chain = ids[begins:]
        if self.close not in chain:
            if len(chain) >= 40 + question % 41:
                return self.close
        elif len(chain) - chain.index(self.close) > 12:
            return self.end
        return self.words[(question + 7 * len(chain) * len(chain)) % len(self.words)]


class Server:
    """What of vLLM's server a pool needs."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.running = 0

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def metrics(self, request: web.Request) -> web.Response:
        told = {"num_requests_running": self.running, "num_requests_waiting": 0, "kv_cache_usage_perc": 0}
        return web.Response(text="".join(f"vllm:{name} {value}.0\n" for name, value in told.items()))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        ids, made, reason = list(asked["prompt"]), 0, None
        before = len(ids)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.running += 1
        try:
            while reason is None:
                await asyncio.sleep(self.writer.pace)
                token = self.writer.next(ids)
                ids.append(token)
                made += 1
                stop = token if token in (asked.get("stop_token_ids") or []) else None
                reason = "stop" if token == self.writer.end or stop else None
                reason = reason or ("length" if made >= asked["max_tokens"] else None)
                choice = {"index": 0, "text": "", "finish_reason": reason, "stop_reason": stop, "token_ids": [token]}
                await self._event(response, {"model": asked["model"], "choices": [choice]})
            usage = {"prompt_tokens": before, "completion_tokens": made, "total_tokens": before + made}
            await self._event(response, {"model": asked["model"], "choices": [], "usage": usage})
            await response.write(b"data: [DONE]\n\n")
        finally:
            self.running -= 1
        return response

    async def _event(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps({"id": "cmpl-1", **event}).encode() + b"\n\n")


async def serve(writer: Writer) -> None:
    server, app = Server(writer), web.Application()
    app.router.add_get("/health", server.health)
    app.router.add_get("/metrics", server.metrics)
    app.router.add_post("/v1/completions", server.completions)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


@dataclass
class ReplicaProcess:
    """One such process."""

    process: asyncio.subprocess.Process
    url: str

    @classmethod
    async def start(cls, writer: Writer) -> ReplicaProcess:
        command = [sys.executable, str(Path(__file__)), json.dumps(asdict(writer))]
        process = await asyncio.create_subprocess_exec(
            *command, env=dict(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        assert url.startswith("http://"), "it did not start"
        return cls(process, url)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Also where it is stopped, with what it has started: vLLM's engine outlives its server. Idempotent."""
        below: list[psutil.Process] = []
        if self.process.returncode is None:
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
        await self.process.wait()
        for one in below:
            with suppress(psutil.NoSuchProcess):
                one.kill()


if __name__ == "__main__":
    asyncio.run(serve(Writer(**json.loads(sys.argv[1]))))
