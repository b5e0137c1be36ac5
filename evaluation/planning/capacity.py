"""What a load needs, as formulas: a request is so many tokens, a token is so much of a replica, a door and a database.

    a step              seconds by chains + seconds of a context's token x tokens in all contexts
    price of a token    seconds of a step with all slots taken / slots
    price of a request  tokens x price of a token + prompt x price of a token read
    replicas            arrivals at the busiest hour x price of a request / the load they may have
    doors               arrivals x (a request's processor time + tokens x a token's) / the load they may have

How long requests wait does not follow from formulas of ours: it is simulated (`fleet.py`).
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ponder.evaluation.planning.demand import Kind, Question
from ponder.evaluation.planning.patterns import Pattern
from ponder.evaluation.planning.replica import Costs

DRAWS = 4000
"""Requests that are drawn to know what one takes whose chains depend on how they vote."""


@dataclass(frozen=True, slots=True)
class Door:
    """What one door carries, as `bench/doors.py` measured it, and the settings of `ponder serve` that bound it."""

    request_cpu: float = 3.2e-3
    """Seconds of its one processor for a request."""
    token_cpu: float = 6.2e-6
    """The same for a token of a chain, hidden ones included."""
    load: float = 0.6
    """The part of its processor that may be used."""
    max_inflight: int = 256
    max_chains: int = 4096


@dataclass(frozen=True, slots=True)
class Database:
    """What PostgreSQL carries, as `bench/ledger.py` measured it."""

    requests: float = 6745.0
    """Opened and settled a second, grouped: 64 at a time (`bench/results/ledger.json`)."""
    commits_a_request: int = 2
    """At most: under load many requests share a commit."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a request takes, the mean."""

    tokens: float
    chains: float
    counted: float
    """Chains that it may ask for at a time, as which it counts at the door."""
    prompt: float
    context: float
    """Tokens in the context of a chain that is being written: its prompt and half of it, long chains weighing more
    because they are there for longer."""

    def step(self, costs: Costs, slots: int) -> float:
        """Seconds, with all slots taken."""
        return costs.step(slots, slots * self.context)

    def rate(self, costs: Costs, slots: int) -> float:
        """Tokens a second of a replica, with all slots taken."""
        return slots / self.step(costs, slots)

    def seconds(self, costs: Costs, slots: int) -> float:
        """Of a replica with all slots taken."""
        return self.tokens / self.rate(costs, slots) + self.prompt * costs.read


def alone(pattern: Pattern, question: Question) -> list[float]:
    """Tokens of each chain of one request on a model that nobody else uses."""
    running: list[tuple[float, int, float, int | None]] = []
    begun, clock = 0, 0.0
    ended: list[float] = []
    wanted = pattern.first()
    while wanted > 0:
        while len(running) < wanted and begun < pattern.chains:
            length = question.chain()
            answer = question.answer() if pattern.votes else None
            heapq.heappush(running, (clock + length, begun, clock, answer))
            begun += 1
        if not running:
            break
        clock, number, since, answer = heapq.heappop(running)
        ended.append(clock - since)
        wanted = pattern.ended(number, answer, clock - since, [clock - begin for _, _, begin, _ in running])
    return ended + [clock - since for _, _, since, _ in running]


def taken(kinds: Sequence[Kind], seed: int) -> Taken:
    """The mean of requests of several kinds."""
    whole = sum(kind.share for kind in kinds)
    tokens = chains = counted = prompt = before = 0.0
    for number, kind in enumerate(kinds):
        part, pattern = kind.share / whole, kind.pattern()
        if pattern.votes:
            drawn: list[list[float]] = []
            for draw in range(DRAWS):
                chance = random.Random((seed * 64 + number) * DRAWS + draw)  # noqa: S311 (no secret)
                drawn.append(alone(kind.pattern(), kind.lengths.question(chance)))
            many = sum(len(each) for each in drawn) / DRAWS
            written = sum(map(sum, drawn)) / DRAWS
            squares = sum(length**2 for each in drawn for length in each) / DRAWS
        else:
            many = pattern.chains
            written, squares = many * kind.lengths.mean, many * kind.lengths.square
        tokens += part * written
        chains += part * many
        before += part * (written * kind.prompt + squares / 2)
        counted += part * pattern.chains
        prompt += part * kind.prompt
    return Taken(tokens, chains, counted, prompt, before / max(1.0, tokens))


def replicas(rate: float, each: float, load: float) -> int:
    """How many carry so many requests a second of so many seconds each."""
    return max(1, math.ceil(rate * each / load - 1e-9))


def doors(rate: float, request: Taken, door: Door) -> int:
    """How many have the processor time for them."""
    return max(1, math.ceil(door_busy(rate, request, door) / door.load - 1e-9))


def door_busy(rate: float, request: Taken, door: Door) -> float:
    """Processors that all doors together use."""
    return rate * (door.request_cpu + request.tokens * door.token_cpu)


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that a growing load comes up against."""

    name: str
    used: float
    """The part of it that this load takes."""
    advice: str


def limits(
    rate: float,
    seconds: float,
    request: Taken,
    fleet: tuple[int, float],
    door: Door,
    many: int,
    database: Database,
) -> list[Limit]:
    """All of them, the first to break first. `seconds`: how long a request is under way; `fleet`: replicas, and what a
    request takes of one; `many` doors."""
    number, each = fleet
    inside = rate * seconds
    return sorted(
        [
            Limit("replicas", rate * each / number, "add replicas"),
            Limit("doors' processors", door_busy(rate, request, door) / many, "add a door"),
            Limit("max_inflight", inside / many / door.max_inflight, "raise max_inflight, or add a door"),
            Limit("max_chains", inside * request.counted / many / door.max_chains, "raise max_chains, or add a door"),
            Limit("PostgreSQL", rate / database.requests, "give it faster disks"),
        ],
        key=lambda limit: -limit.used,
    )
