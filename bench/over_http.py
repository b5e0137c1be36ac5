"""Ponder over vLLM servers that run already, beside asking one of them directly; and one of them killed amid streams.

    vllm serve MODEL --served-model-name bench --port 8001 --reasoning-parser qwen3 &
    vllm serve MODEL --served-model-name bench --port 8002 --reasoning-parser qwen3 &
    python -m bench.over_http MODEL --replica http://127.0.0.1:8001 --replica http://127.0.0.1:8002 --kill PID

starts `ponder serve MODEL --replica URL` over the first of them and asks it and that server the same by turns. Then,
with `--kill`, the process id of the first server, it starts Ponder over both, and kills that server and its children
(`kill -9`) amid streams: what counts is how many answers are whole, and how long each stream that it broke was silent.

The demo reasoner ends its answers after some 30 tokens. `--ban` names tokens that are never drawn (its ends, 1 2 3), so
that every answer has `--tokens` of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import httpx
import psutil

from bench import machine
from bench.load import bodies, stories, volley
from bench.machine import Server
from bench.overhead import served_name
from bench.paired import Figures, by_turns, measure

STREAMS = 16
BEGIN = 60.0
"""Seconds in which every stream must have had its first visible text; then the server is killed."""


def fields(args: argparse.Namespace, tokens: int, *, ours: bool) -> dict[str, Any]:
    """Of every request."""
    told: dict[str, Any] = {"max_completion_tokens": tokens, "include_reasoning": False, "top_p": 1.0, "min_p": 0.0}
    if args.ban:
        told["logit_bias"] = {str(token): -100 for token in args.ban}
    return told | ({"strategy": "direct", "thinking_budget": tokens} if ours else {"top_k": 0})


def ponder(args: argparse.Namespace, urls: Sequence[str], stack: ExitStack) -> Server:
    """Ponder over these, ready."""
    log = stack.enter_context(tempfile.NamedTemporaryFile(suffix="-ponder.log"))  # noqa: SIM115 (the stack's)
    port = machine.free_port()
    command = [*machine.ponder(machine.ROOT), "serve", args.model, "--port", str(port)]
    for url in urls:
        command += ["--replica", url]
    environment = {"PONDER_LOG_LEVEL": "warning"}
    return stack.enter_context(machine.started("ponder", command, port, "/readyz", log, environment))


async def beside(args: argparse.Namespace, ours: Server, theirs: Server) -> list[dict[str, Any]]:
    """Both by turns, at each length and concurrency."""
    names = {server.name: await served_name(server.url) for server in (ours, theirs)}
    found: list[dict[str, Any]] = []

    def requests(server: Server, count: int, seed: int, tokens: int) -> list[bytes]:
        told = fields(args, tokens, ours=server is ours)
        return bodies(names[server.name], stories(count, seed), streamed=True, **told)

    for server in (ours, theirs):
        await volley(server.url, requests(server, 8, 999, 32), 8)
    for tokens in args.tokens:
        for concurrency in args.concurrency:
            count = max(args.requests, concurrency)

            async def one(
                server: Server, number: int, count: int = count, tokens: int = tokens, at_once: int = concurrency
            ) -> Figures:
                return await measure(server, requests(server, count, number, tokens), at_once)

            each = await by_turns([ours, theirs], args.rounds, one)
            pairs = list(zip(each[ours.name], each[theirs.name], strict=True))
            added = [a["latency_p50_ms"] - b["latency_p50_ms"] for a, b in pairs]
            ratio = [a["requests_per_second"] / b["requests_per_second"] for a, b in pairs]
            entry: dict[str, Any] = {"tokens": tokens, "concurrency": concurrency, "requests": count}
            entry |= {"added_ms": statistics.median(added), "added_ms_interval": machine.interval(added)}
            entry |= {"ratio": statistics.median(ratio), "ratio_interval": machine.interval(ratio), "rounds": each}
            found.append(entry)
            ms = {name: statistics.median(f["latency_p50_ms"] for f in rounds) for name, rounds in each.items()}
            made = {name: statistics.median(f["tokens_per_request"] for f in rounds) for name, rounds in each.items()}
            print(
                f"{tokens:4} tokens {concurrency:3} at once: {ms} ms, {made} tokens each;",
                f"added {entry['added_ms']:.1f} ms {entry['added_ms_interval']},",
                f"requests/s over theirs {entry['ratio']:.3f} {entry['ratio_interval']}",
                flush=True,
            )
    return found


async def killed(args: argparse.Namespace, url: str) -> dict[str, Any]:
    """Streams over both servers, of which the first is killed; what became of each."""
    model = await served_name(url)
    tokens = max(args.tokens)
    asked = bodies(model, stories(STREAMS, 5), streamed=True, **fields(args, tokens, ours=True))
    done: list[dict[str, Any]] = []
    begun, all_begun = set[bytes](), asyncio.Event()

    async def stream(client: httpx.AsyncClient, body: bytes) -> None:
        came: list[float] = []
        told: dict[str, Any] = {"tokens": 0, "status": None, "finish": None, "error": None, "came": came}
        try:
            headers = {"content-type": "application/json"}
            async with client.stream("POST", f"{url}/v1/chat/completions", content=body, headers=headers) as answer:
                told["status"] = answer.status_code
                async for line in answer.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event = json.loads(line[6:])
                    if "error" in event:
                        told["error"] = event["error"]
                    for choice in event.get("choices", ()):
                        if choice["delta"].get("content"):
                            came.append(time.monotonic())
                            begun.add(body)
                            if len(begun) == STREAMS:
                                all_begun.set()
                        told["finish"] = choice.get("finish_reason") or told["finish"]
                    if usage := event.get("usage"):
                        told["tokens"] = usage["completion_tokens"]
        except httpx.HTTPError as error:
            told["error"] = repr(error)
        done.append(told)

    async with httpx.AsyncClient(timeout=120) as client, asyncio.TaskGroup() as group:
        for body in asked:
            group.create_task(stream(client, body))
        async with asyncio.timeout(BEGIN):
            await all_begun.wait()
        first = psutil.Process(args.kill)
        when = time.monotonic()
        for process in [first, *first.children(recursive=True)]:
            process.kill()
    gaps: list[float] = []
    for told in done:
        came = told.pop("came")
        before, after = [t for t in came if t <= when], [t for t in came if t > when]
        if before and after:
            gaps.append(after[0] - before[-1])
    whole = sum(t["status"] == 200 and t["error"] is None and t["tokens"] == tokens for t in done)
    print(f"killed: {whole} of {STREAMS} whole; silence around it: {sorted(round(gap, 3) for gap in gaps)} s")
    return {"streams": STREAMS, "tokens": tokens, "whole": whole, "silence_s": sorted(gaps), "each": done}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the folder or hub id of what the servers serve")
    parser.add_argument("--replica", action="append", required=True, metavar="URL")
    parser.add_argument("--kill", type=int, metavar="PID", help="of the first server, which is killed at the end")
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 256], help="of an answer")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=4, help="of a round, where concurrency is less (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ban", type=int, nargs="*", default=[], help="token ids that are never drawn")
    parser.add_argument("--json")
    args = parser.parse_args()
    result: dict[str, Any] = {**machine.describe(), "model": args.model, "ban": args.ban}
    print(f"{result['machine']}\n{result['versions']}", flush=True)
    with ExitStack() as stack:
        ours = ponder(args, args.replica[:1], stack)
        result["beside"] = asyncio.run(beside(args, ours, Server("vllm", args.replica[0])))
    machine.keep(result, args.json)
    if args.kill:
        with ExitStack() as stack:
            result["killed"] = asyncio.run(killed(args, ponder(args, args.replica, stack).url))
        machine.keep(result, args.json)


if __name__ == "__main__":
    main()
