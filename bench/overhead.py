"""Ponder beside vLLM's own OpenAI server: the same model, settings, questions, seeds and client, in turns.

    python bench/overhead.py [--model FOLDER|ID] [--json bench/results/NAME.json]

Both servers are up at the same time and are asked in turns (A B A B), so that whatever else the machine does falls on
both alike. Ponder runs `direct` with a budget no chain reaches, so both let the model write the same. vLLM splits
thought from answer with its own reasoning parser and keeps the thought to itself too. The figures are the medians over
rounds; a ratio is the median over rounds of ours / theirs, with its 95 % interval (bootstrap over rounds). A machine's
speed drifts within seconds: many short rounds tell more than few long ones.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import transformers

from bench import machine
from bench.load import Volley, bodies, stories, volley
from bench.machine import Server

ROWS: Mapping[str, tuple[str, float]] = {
    "requests_per_second": ("requests/s", 1.0),
    "tokens_per_second": ("tokens/s", 1.0),
    "first_p50_ms": ("first visible token p50, ms", 1.0),
    "first_p99_ms": ("first visible token p99, ms", 1.0),
    "latency_p50_ms": ("latency p50, ms", 1.0),
    "latency_p99_ms": ("latency p99, ms", 1.0),
    "cpu_ms_per_request": ("CPU ms/request", 1.0),
    "memory_mb": ("memory, MB", 1.0),
    "tokens_per_request": ("tokens/request", 1.0),
}
MORE_IS_BETTER = ("requests_per_second", "tokens_per_second")
NO_TARGET = ("tokens_per_request",)

Figures = dict[str, float]
"""One server in one round, by the names of `ROWS`."""


@dataclass(frozen=True)
class Entry:
    """Both servers at one concurrency, in one mode."""

    concurrency: int
    streamed: bool
    requests: int
    """Of each server in each round."""
    medians: dict[str, Figures]
    ratio: Figures
    """Median over rounds of ours / theirs."""
    ratio_interval: dict[str, tuple[float, float]]
    """95 % of it."""


def figures(server: Server, shots: Volley, cpu: float | None) -> Figures:
    found: dict[str, float | None] = {
        "requests_per_second": shots.per_second,
        "tokens_per_second": shots.tokens_per_second,
        "first_p50_ms": _ms(shots.first(0.5)),
        "first_p99_ms": _ms(shots.first(0.99)),
        "latency_p50_ms": _ms(shots.latency(0.5)),
        "latency_p99_ms": _ms(shots.latency(0.99)),
        "cpu_ms_per_request": None if cpu is None else cpu * 1000 / len(shots.shots),
        "memory_mb": server.memory_mb(),
        "tokens_per_request": shots.tokens_per_request,
    }
    return {name: value for name, value in found.items() if value is not None}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


async def measure(server: Server, requests: Sequence[bytes], concurrency: int) -> Figures:
    before = server.cpu_seconds()
    shots = await volley(server.url, requests, concurrency)
    after = server.cpu_seconds()
    return figures(server, shots, None if before is None or after is None else after - before)


def commands(options: argparse.Namespace) -> dict[str, tuple[list[str], dict[str, str], str]]:
    """How each server is started: command without its port, environment, the path that answers when it is ready."""
    theirs = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", options.model]
    theirs += ["--served-model-name", "bench", "--host", "127.0.0.1", "--reasoning-parser", options.reasoning_parser]
    theirs += ["--max-num-seqs", str(options.max_num_seqs), "--disable-uvicorn-access-log"]
    theirs += ["--generation-config", "vllm", "--uvicorn-log-level", "warning"]
    ours = [sys.executable, "-m", "server", "serve", options.model]
    settings = {"PONDER_ENGINE__MAX_NUM_SEQS": str(options.max_num_seqs), "PONDER_LOG_LEVEL": "warning"}
    environment: dict[str, str] = {}
    if machine.on_gpu():
        share = str(options.gpu_share)
        theirs += ["--gpu-memory-utilization", share]
        settings["PONDER_ENGINE__GPU_MEMORY_UTILIZATION"] = share
    else:
        cache = str(1 << 30)
        theirs += ["--enforce-eager", "--block-size", "32", "--kv-cache-memory-bytes", cache, "--dtype", options.dtype]
        # A seeded prompt read in parts kills vLLM on a CPU; Ponder sets this for itself.
        theirs += ["--no-enable-chunked-prefill"]
        settings |= {"PONDER_ENGINE__KV_CACHE_MEMORY_BYTES": cache, "PONDER_ENGINE__DTYPE": options.dtype}
        environment = {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return {
        "vllm": (theirs + options.vllm_args.split(), environment | {"VLLM_LOGGING_LEVEL": "WARNING"}, "/health"),
        "ponder": (ours + options.ponder_args.split(), environment | settings, "/readyz"),
    }


def template(options: argparse.Namespace, stack: ExitStack) -> list[str]:
    """Where the model's chat template leaves it before its thought, Ponder opens the thought in the prompt. vLLM's
    server is given a template that does the same: else it draws the opening marker token by token, and its requests are
    the longer ones."""
    tokenizer = cast("Any", transformers.AutoTokenizer).from_pretrained(options.model)
    turn = [{"role": "user", "content": "?"}]
    text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    if text.rstrip().endswith(options.opening.strip()):
        return []
    opened = f"{tokenizer.chat_template}{{% if add_generation_prompt %}}{{{{ {options.opening!r} }}}}{{% endif %}}"
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    file = Path(folder) / "opened.jinja"
    file.write_text(opened)
    return ["--chat-template", str(file)]


async def served_name(url: str) -> str:
    """The first model that a server lists."""
    async with httpx.AsyncClient(timeout=30) as client:
        return str((await client.get(url + "/v1/models")).json()["data"][0]["id"])


async def rounds(servers: Sequence[Server], options: argparse.Namespace) -> list[Entry]:
    """One entry for each concurrency and mode: medians of both servers, and the ratios."""
    names = {server.name: await served_name(server.url) for server in servers}
    sampling = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
    common = {"max_completion_tokens": options.max_tokens, "include_reasoning": False, **sampling}
    own = {"vllm": {}, "ponder": {"strategy": "direct", "thinking_budget": options.max_tokens}}
    entries: list[Entry] = []
    for server in servers:
        warm = bodies(names[server.name], stories(32, 999), streamed=True, **common, **own[server.name])
        await volley(server.url, warm, 8)
    for streamed in [mode == "streamed" for mode in options.modes]:
        for concurrency in options.concurrency:
            count = max(options.requests, options.requests * concurrency // 4)
            each: dict[str, list[Figures]] = {server.name: [] for server in servers}
            for number in range(options.rounds):
                questions = list(stories(count, number))
                order = servers if number % 2 == 0 else servers[::-1]
                for server in order:
                    fields = {**common, **own[server.name]}
                    requests = bodies(names[server.name], questions, streamed=streamed, **fields)
                    each[server.name].append(await measure(server, requests, concurrency))
            entries.append(compare(each, streamed, concurrency, count))
            show(entries[-1])
    return entries


def compare(each: Mapping[str, Sequence[Figures]], streamed: bool, concurrency: int, requests: int) -> Entry:
    names = [name for name in ROWS if all(name in f for rounds in each.values() for f in rounds)]
    medians = {server: {n: statistics.median(f[n] for f in rs) for n in names} for server, rs in each.items()}
    pairs = list(zip(each["ponder"], each["vllm"], strict=True))
    ratios = {n: [ours[n] / theirs[n] for ours, theirs in pairs if theirs[n]] for n in names}
    return Entry(
        concurrency=concurrency,
        streamed=streamed,
        requests=requests,
        medians={s: {n: round(v, 2) for n, v in m.items()} for s, m in medians.items()},
        ratio={n: round(statistics.median(r), 3) for n, r in ratios.items() if r},
        ratio_interval={n: machine.interval(r) for n, r in ratios.items() if r},
    )


def show(entry: Entry) -> None:
    mode = "streamed" if entry.streamed else "not streamed"
    print(f"\nconcurrency {entry.concurrency}, {mode}, {entry.requests} requests a round")
    print(f"  {'':30}{'vLLM':>10}{'Ponder':>10}{'ratio':>9}   95 %             target")
    for name, ratio in entry.ratio.items():
        title, target = ROWS[name]
        more = name in MORE_IS_BETTER
        met = ratio >= target if more else ratio <= target
        wanted = "" if name in NO_TARGET else f"{'>=' if more else '<='} {target:.2f} {'met' if met else 'MISSED'}"
        low, high = entry.ratio_interval[name]
        ours, theirs = entry.medians["ponder"][name], entry.medians["vllm"][name]
        print(f"  {title:30}{theirs:10.1f}{ours:10.1f}{ratio:9.3f}   {low:.3f} .. {high:.3f}   {wanted}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/demo", help="folder or hub id")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--modes", nargs="+", choices=["streamed", "whole"], default=["streamed", "whole"])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=32, help="of a round at concurrency 1; more at higher ones")
    parser.add_argument("--max-tokens", type=int, default=512, help="hidden and visible, of one answer")
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--dtype", default="auto", help="of the weights, on a CPU")
    parser.add_argument("--reasoning-parser", default="qwen3", help="vLLM's, for the model's family")
    parser.add_argument("--opening", default="<think>\n", help="of a thought; empty: leave vLLM's template alone")
    parser.add_argument("--gpu-share", type=float, default=0.4, help="of the GPU's memory, for each server")
    parser.add_argument("--vllm-args", default="", help="more flags for vLLM's server")
    parser.add_argument("--ponder-args", default="", help="more flags for Ponder")
    parser.add_argument("--vllm-url", help="one that runs already (its CPU and memory are not measured)")
    parser.add_argument("--ponder-url", help="one that runs already")
    parser.add_argument("--json", help="keep the result in this file")
    options = parser.parse_args()
    head = machine.describe()
    print(f"{head['machine']}\n{head['versions']}")
    urls = {"vllm": options.vllm_url, "ponder": options.ponder_url}
    started: dict[str, str] = {}
    with ExitStack() as stack:
        servers: list[Server] = []
        for name, (command, environment, ready) in commands(options).items():
            if urls[name]:
                servers.append(Server(name, urls[name]))
                continue
            if name == "vllm" and options.opening:
                command += template(options, stack)
            log = stack.enter_context(tempfile.NamedTemporaryFile(suffix=f"-{name}.log"))
            port = machine.free_port()
            command = [*command, "--port", str(port)]
            started[name] = " ".join([f"{k}={v}" for k, v in environment.items()] + ["python", *command[1:]])
            servers.append(stack.enter_context(machine.started(name, command, port, ready, log, environment)))
        entries = asyncio.run(rounds(servers, options))
    machine.keep(
        {**head, "model": options.model, "servers": started, "results": [asdict(e) for e in entries]}, options.json
    )


if __name__ == "__main__":
    main()
