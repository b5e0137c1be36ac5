"""What routing by the beginning of a conversation keeps of the prefix cache: the share of prompt tokens that are found
there, of one replica with all the traffic and of several that share it.

    python -m bench.replica_pool --json bench/results/replica_pool.json

Replicas are modelled: each has a prefix cache of blocks, the oldest of which go, and answers at once. Conversations of
many programs come and go; those of a program have its system prompt. The pool is the real one, in virtual time. A
replica of N has 1/N of the cache that the one alone has, so what is lost is lost by where requests go, not for want of
room; `by request` is a hash of the request in place of the conversation, and `by chance` sends each chain anywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.machine import describe
from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.text import Hidden, Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.replicas.member import PoolOptions
from ponder.engines.replicas.membership import Listed
from ponder.engines.replicas.pool import ReplicaPool
from ponder.engines.replicas.replica import Load
from ponder.testing import CARD, ScriptedEngine, always, in_virtual_time
from ponder.testing.scripted import Chain

BLOCK = 16
WAYS = ("conversation", "request", "chance")


@dataclass
class Caching(ScriptedEngine):
    """A replica that says how much of each prompt its prefix cache has. A character is a token."""

    url: str = ""
    blocks: int = 1 << 12
    kept: OrderedDict[int, None] = field(default_factory=OrderedDict[int, None])
    read: int = 0
    found: int = 0

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        text = "".join(f"{one.role}: {one.content}\n" for one in prompt.messages)
        hits = True
        for end in range(BLOCK, len(text) + 1, BLOCK):
            block = hash(text[:end])
            hits = hits and block in self.kept
            self.read, self.found = self.read + BLOCK, self.found + BLOCK * hits
            self.kept[block] = None
            self.kept.move_to_end(block)
        while len(self.kept) > self.blocks:
            self.kept.popitem(last=False)
        transcript.think([1])
        transcript.close_thought()
        transcript.say([ord("x")], "x")
        transcript.end("finished", Hidden(""))
        yield Delta("x")

    async def health(self) -> None:
        """It lives."""

    async def load(self) -> Load:
        return Load(0, 0, 0.0)


@dataclass(frozen=True)
class Turn:
    """A request of a conversation."""

    request: str
    prompt: Prompt


def traffic(seed: int, programs: int, conversations: int, turns: int) -> Sequence[Turn]:
    """Conversations that run side by side, in the order in which their turns come."""
    chance, found = random.Random(seed), list[Turn]()
    systems = ["".join(chance.choices("abcdefgh ", k=600)) for _ in range(programs)]
    going: list[tuple[Prompt, int]] = []
    begun = number = 0
    while going or begun < conversations:
        while len(going) < 64 and begun < conversations:
            ask = "".join(chance.choices("abcdefgh ", k=chance.randrange(40, 200)))
            messages = Message("system", chance.choice(systems)), Message("user", ask)
            going.append((Prompt(messages), 1 + chance.randrange(2 * turns - 1)))
            begun += 1
        at = chance.randrange(len(going))
        prompt, left = going.pop(at)
        found.append(Turn(f"req{number}", prompt))
        number += 1
        if left > 1:
            answer = "".join(chance.choices("abcdefgh ", k=300))
            going.append((prompt.then(Message("assistant", answer), Message("user", f"and {number}?")), left - 1))
    return found


async def share(size: int, way: str, turns: Sequence[Turn], chains: int, blocks: int) -> float:
    """The share of prompt tokens that were found in a cache."""
    replicas = {
        f"http://{i}:1": Caching(always(Chain("", "x")), card=CARD, url=f"http://{i}:1", blocks=blocks // size)
        for i in range(size)
    }

    async def connect(url: str) -> Caching:
        return replicas[url]

    pool = ReplicaPool("model", connect, Listed(list(replicas)), PoolOptions())
    chance = random.Random(1)
    async with pool.serving():
        await asyncio.sleep(1)
        for turn in turns:
            spending = Spending(Budget(64 * chains, 64), turn.request)
            for _ in range(chains):
                asked = turn.prompt
                if way == "chance":
                    name = next(iter(chance.sample(list(replicas), 1)))
                    engine: Any = replicas[name]
                else:
                    engine = pool
                tenant = turn.request if way == "request" else None
                with spending.reserve("sample", thinking=32, answer=32) as reservation:
                    sampling = Sampling(32, 32, tenant=tenant)
                    async for _ in engine.generate(replace(asked), sampling, Transcript(reservation, asked)):
                        pass
    return sum(one.found for one in replicas.values()) / sum(one.read for one in replicas.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="the cache hits that a pool keeps")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--conversations", type=int, default=400)
    parser.add_argument("--programs", type=int, default=8)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=1 << 14)
    options = parser.parse_args()
    turns = traffic(0, options.programs, options.conversations, options.turns)
    alone = in_virtual_time(share(1, "conversation", turns, options.chains, options.blocks))
    rows: list[dict[str, Any]] = []
    print(f"{len(turns)} requests of {options.chains} chains; one replica finds {alone:.3f} of its prompt tokens")
    for size in (2, 4, 8):
        row: dict[str, Any] = {"replicas": size}
        for way in WAYS:
            row[way] = round(in_virtual_time(share(size, way, turns, options.chains, options.blocks)) / alone, 4)
        rows.append(row)
        print(f"{size} replicas: " + ", ".join(f"by {way} {row[way]:.3f} of that" for way in WAYS))
    if options.json is not None:
        whole = {name: value for name, value in vars(options).items() if name != "json"}
        told = describe() | {"settings": whole, "requests": len(turns), "alone": round(alone, 4), "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
