"""Ponder beside vLLM's own OpenAI server, or beside Ponder of another commit: the same model, settings, questions,
seeds and client, in turns.

    python bench/overhead.py [--model smollm2] [--json bench/results/NAME.json]
    git worktree add /tmp/before HEAD~1 && python bench/overhead.py --against /tmp/before

Both servers are up at the same time and are asked in turns (`bench/paired.py`). Ponder runs `direct` with a budget no
chain reaches, so both let the model write the same; vLLM splits thought from answer with its own reasoning parser and
keeps the thought to itself too. A model that does not think is asked by both without a thought. The figures are the
medians over rounds; a ratio is the median over rounds of ours / theirs, with its 95 % interval (bootstrap over starts
and their rounds: the same program started twice differs by up to 2 % for as long as it runs). Which of the two is
started first changes from start to start: of two servers of one commit the first one was the slower by 1.4 %.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import transformers

from bench import machine
from bench.load import bodies, stories, volley
from bench.machine import Server
from bench.paired import Figures, Measured, by_turns, entries, measure, show, verdict
from ponder.engines.launch import read_config
from ponder.engines.profiles import find
from ponder.server.model_paths import locate

OPENING = "<think>\n"


@dataclass(frozen=True)
class Load:
    """What is asked for where the command line does not say."""

    rounds: int
    requests: int
    max_tokens: int


DEMO = Load(rounds=40, requests=32, max_tokens=512)
OTHERS = Load(rounds=16, requests=8, max_tokens=32)
"""Their tokens cost twenty times as much as the demo reasoner's, and more."""


@dataclass(frozen=True)
class Start:
    """How a server is started: the command without its port, its environment, the path that answers when it is ready,
    and the checkout whose code it runs."""

    command: list[str]
    environment: dict[str, str]
    ready: str
    checkout: Path = machine.ROOT


def starts(options: argparse.Namespace, folder: str, thinks: bool) -> dict[str, Start]:
    """Ours, and the other one."""
    theirs = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    theirs += ["--served-model-name", "bench", "--host", "127.0.0.1"]
    theirs += ["--max-num-seqs", str(options.max_num_seqs), "--disable-uvicorn-access-log"]
    theirs += ["--generation-config", "vllm", "--uvicorn-log-level", "warning"]
    if thinks:
        theirs += ["--reasoning-parser", options.reasoning_parser]
    ours = ["serve", folder, *options.ponder_args.split()]
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
    ponder = Start(machine.ponder(machine.ROOT) + ours, environment | settings, "/readyz")
    if options.against:
        before = machine.checkout(options.against)
        return {"ponder": ponder, "before": replace(ponder, command=machine.ponder(before) + ours, checkout=before)}
    vllm = Start(theirs + options.vllm_args.split(), environment | {"VLLM_LOGGING_LEVEL": "WARNING"}, "/health")
    return {"ponder": ponder, "vllm": vllm}


def template(folder: str, opening: str, stack: ExitStack) -> list[str]:
    """Where the model's chat template leaves it before its thought, Ponder opens the thought in the prompt. vLLM's
    server is given a template that does the same: else it draws the opening marker token by token, and its requests are
    the longer ones."""
    tokenizer = cast("Any", transformers.AutoTokenizer).from_pretrained(folder)
    turn = [{"role": "user", "content": "?"}]
    text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    if text.rstrip().endswith(opening.strip()):
        return []
    opened = f"{tokenizer.chat_template}{{% if add_generation_prompt %}}{{{{ {opening!r} }}}}{{% endif %}}"
    made = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "opened.jinja"
    made.write_text(opened)
    return ["--chat-template", str(made)]


def has_markers(folder: str) -> bool:
    """The model marks its thoughts by itself. One that would have to be asked to reason is not asked here."""
    tokenizer = cast("Any", transformers.AutoTokenizer).from_pretrained(folder)
    return bool(find(folder, read_config(folder), str(tokenizer.chat_template or "")).start)


async def served_name(url: str) -> str:
    """The first model that a server lists."""
    async with httpx.AsyncClient(timeout=30) as client:
        return str((await client.get(url + "/v1/models")).json()["data"][0]["id"])


async def rounds(servers: Sequence[Server], options: argparse.Namespace, thinks: bool, begun: int) -> Measured:
    """The rounds of one start, numbered from `begun`."""
    names = {server.name: await served_name(server.url) for server in servers}
    sampling = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
    common: dict[str, Any] = {"max_completion_tokens": options.max_tokens, "include_reasoning": False, **sampling}
    ours = {"strategy": "direct", "thinking_budget": options.max_tokens if thinks else 0}

    def requests(server: Server, count: int, seed: int, streamed: bool) -> list[bytes]:
        fields = common | ({} if server.name == "vllm" else ours)
        return bodies(names[server.name], stories(count, seed), streamed=streamed, **fields)

    found: Measured = {}
    for streamed in [mode == "streamed" for mode in options.modes]:
        for server in servers:
            await volley(server.url, requests(server, options.requests, 999, streamed), 8)
        for concurrency in options.concurrency:
            count = at_once(options, concurrency)

            async def one(
                server: Server, number: int, streamed: bool = streamed, asked: int = concurrency, count: int = count
            ) -> Figures:
                return await measure(server, requests(server, count, begun + number, streamed), asked)

            found[streamed, concurrency] = await by_turns(servers, options.rounds // options.starts, one)
    return found


def at_once(options: argparse.Namespace, concurrency: int) -> int:
    """Requests of a round."""
    return max(options.requests, options.requests * concurrency // 4)


def up(
    options: argparse.Namespace, folder: str, thinks: bool, number: int, stack: ExitStack, started: dict[str, str]
) -> list[Server]:
    """Both servers, ready, for the start of that number; `started` is told how each was started, by its name."""
    urls = {"vllm": options.vllm_url, "ponder": options.ponder_url, "before": None}
    servers: list[Server] = []
    both = list(starts(options, folder, thinks).items())
    for name, start in both if number % 2 == 0 else both[::-1]:
        if url := urls[name]:
            servers.append(Server(name, str(url)))
            continue
        command = start.command
        if name == "vllm" and thinks and options.opening:
            command += template(folder, options.opening, stack)
        log = stack.enter_context(tempfile.NamedTemporaryFile(suffix=f"-{name}.log"))  # noqa: SIM115 (the stack's)
        port = machine.free_port()
        command = [*command, "--port", str(port)]
        started[name] = " ".join([f"{k}={v}" for k, v in start.environment.items()] + ["python", *command[1:]])
        if start.checkout != machine.ROOT:
            started[name] += f"  # of {machine.commit(start.checkout)}"
        servers.append(
            stack.enter_context(
                machine.started(name, command, port, start.ready, log, start.environment, start.checkout)
            )
        )
    return servers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo, smollm2, a folder or a hub id")
    parser.add_argument("--against", metavar="DIR", help="Ponder of this checkout, in the place of vLLM's server")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--modes", nargs="+", choices=["streamed", "whole"], default=["streamed", "whole"])
    parser.add_argument("--starts", type=int, default=4, help="times both servers are started; the rounds are divided")
    parser.add_argument("--rounds", type=int, help="left out: 40 for the demo, 16 for others")
    parser.add_argument(
        "--requests", type=int, help="of a round at concurrency 1, more at higher ones; left out: 32 for the demo, 8"
    )
    parser.add_argument("--max-tokens", type=int, help="of one answer, hidden and visible; left out: 512, or 32")
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--dtype", default="auto", help="of the weights, on a CPU")
    parser.add_argument("--reasoning-parser", default="qwen3", help="vLLM's, for a family that thinks")
    parser.add_argument("--opening", default=OPENING, help="of a thought; empty: leave vLLM's template alone")
    parser.add_argument("--gpu-share", type=float, default=0.4, help="of the GPU's memory, for each server")
    parser.add_argument("--vllm-args", default="", help="more flags for vLLM's server")
    parser.add_argument("--ponder-args", default="", help="more flags for Ponder")
    parser.add_argument("--vllm-url", help="one that runs already (its CPU and memory are not measured)")
    parser.add_argument("--ponder-url", help="one that runs already")
    parser.add_argument("--json", help="keep the result in this file")
    options = parser.parse_args()
    for name, value in asdict(DEMO if options.model in ("demo", "models/demo") else OTHERS).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.starts = min(options.starts, options.rounds)
    folder = locate(options.model)
    thinks = has_markers(folder)
    head = machine.describe({})
    print(f"{head['machine']}\n{head['versions']}")
    started: dict[str, str] = {}
    measured: list[Measured] = []
    for number in range(options.starts):
        with ExitStack() as stack:
            servers = up(options, folder, thinks, number, stack, started)
            # Who is asked first changes with every round, and from start to start.
            turns = servers if number // 2 % 2 == 0 else servers[::-1]
            measured.append(asyncio.run(rounds(turns, options, thinks, number * options.rounds)))
        print(f"start {number + 1} of {options.starts} is measured", file=sys.stderr, flush=True)
    results = entries(measured, partial(at_once, options))
    for entry in results:
        show(entry, target=not options.against)
    if options.against:
        verdict(results)
    result = {
        "model": options.model,
        "starts": options.starts,
        "rounds": options.rounds // options.starts * options.starts,
        "max_tokens": options.max_tokens,
        "servers": started,
    }
    machine.keep({**head, **result, "results": [asdict(e) for e in results]}, options.json)


if __name__ == "__main__":
    main()
