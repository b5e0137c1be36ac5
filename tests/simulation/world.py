"""What a seed says: which faults there are and how often, who asks for what, and the log of all that happens."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from tests.simulation.loop import SeededLoop

Fault = Literal[
    "killed",
    "crashed",
    "hangs",
    "slow",
    "lost",
    "fails",
    "no_start",
    "judge_fails",
    "hang_up",
    "slow_reader",
    "split",
    "half_body",
    "slow_body",
    "slow_database",
    "database_away",
    "lost_commit",
    "twice",
    "fenced",
    "freeze",
    "wall_clock",
    "short_deadline",
    "cancelled",
    "drain",
    "hurry",
    "reload",
    "door_killed",
    "cut",
    "busy",
    "flaps",
    "lost_end",
    "twice_told",
    "unlike",
    "members",
]
"""Of an engine: its process is killed, or dies of itself; it makes no token more; a batch takes long; a chain is lost,
or raises, though the process goes on; its process does not start. Of a reward model: it raises. Of a caller: goes;
reads slowly, or not at all for a while; sends half of a body, or a body slowly. Of the database: slow; away; commits
and does not say so; has to be told twice; another server takes this one for dead. Of the machine: stands still; its
clock is set. Of requests: little time; the server cancels their task. Of the server: SIGTERM; a second one; the
configuration read again; killed, and started again. Of a replica: nothing of it is heard for a while; it takes no call,
by its own word; it says for once that it does not live, though it does; the end of a call gets lost, or comes twice;
when it is reached again it is another model. Of those that belong to a pool: some are taken out, and put in again."""

EVERY: Sequence[Fault] = get_args(Fault)
FAILING: Sequence[Fault] = ("fails", "lost", "lost_end", "twice_told")
"""Those in which a model that lives fails a chain."""
OF_REPLICAS = EVERY[EVERY.index("cut") :]
ALL = EVERY[: EVERY.index("cut")]
"""Those that there are for every kind of engine."""
RATES: Mapping[Fault, float] = {
    "killed": 0.004,
    "crashed": 0.003,
    "hangs": 0.001,
    "slow": 0.01,
    "lost": 0.02,
    "fails": 0.002,
    "no_start": 0.3,
    "judge_fails": 0.2,
    "hang_up": 0.3,
    "slow_reader": 0.4,
    "split": 0.1,
    "half_body": 0.15,
    "slow_body": 0.3,
    "slow_database": 0.3,
    "database_away": 0.08,
    "lost_commit": 0.08,
    "twice": 0.1,
    "short_deadline": 0.8,
    "cancelled": 0.2,
    "cut": 0.01,
    "busy": 0.1,
    "flaps": 0.05,
    "lost_end": 0.1,
    "twice_told": 0.05,
    "unlike": 0.3,
    "members": 0.3,
}
"""How often one strikes where it may, at most; what is not here happens once, at a moment that is drawn."""
ONCE = tuple(fault for fault in ALL if fault not in RATES)
KINDS = ("supervised", "supervised", "replicas")
"""Kinds of engines, of which seeds have one after the other."""

STRATEGIES: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("direct", {}),
    ("direct", {}),
    ("budget_forcing", {}),
    ("majority_vote", {"n": 3}),
    ("majority_vote", {"n": 5}),
    ("confidence_vote", {"n": 4}),
    ("short_m_at_k", {}),
    ("best_of_n", {"n": 3}),
    ("universal_self_consistency", {"n": 3}),
    ("revision", {}),
    ("deep_think", {}),
    ("beam_search", {}),
    ("dvts", {}),
    ("particle_filter", {}),
    ("rebase", {}),
    ("auto", {}),
    ("auto", {}),
)


@dataclass(frozen=True)
class Asked:
    """A request, as its caller sends it."""

    number: int
    key: str
    at: float
    """Seconds after the beginning."""
    body: Mapping[str, Any]
    timeout: float
    """Seconds it has."""

    @property
    def seeded(self) -> bool:
        return "seed" in self.body

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def strategy(self) -> str:
        asked = self.body["strategy"]
        return asked if isinstance(asked, str) else asked["name"]

    def other_way(self) -> Asked:
        """The same, streamed where it was not, and with all the time there is."""
        body = {name: value for name, value in self.body.items() if name not in ("stream", "stream_options")}
        return replace(self, body=body if self.streamed else {**body, **STREAM}, timeout=LONG)


STREAM: Mapping[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
LONG = 540.0
"""Seconds of a request that has no deadline of its own."""


@dataclass(frozen=True)
class Scenario:
    """All that a seed has drawn before it begins."""

    seed: int
    faults: Mapping[Fault, float]
    """Those that happen, with their rates; of those that happen once, the second."""
    asked: Sequence[Asked]
    keys: Mapping[str, Mapping[str, Any]]
    """The limits of API keys, by their names."""
    inflight: int
    queue: int
    places: int | None
    """Calls the engine works on at a time; None: all."""
    pace: float
    """Seconds of a batch of tokens."""
    doors: int
    """Servers on the same database, each with its own engine."""
    kind: str = "supervised"
    """Of its engines."""
    replicas: int = 0
    """Of each pool."""
    steady: bool = False
    """One of them always lives and is heard."""

    def without(self, *faults: Fault) -> Scenario:
        return replace(self, faults={one: rate for one, rate in self.faults.items() if one not in faults})

    def undisturbed(self) -> Scenario:
        """The seeded requests alone, the other way round, on a server with one engine, on which nothing is short and
        nothing fails."""
        asked = [one.other_way() for one in self.asked if one.seeded]
        return replace(
            self,
            faults={},
            asked=asked,
            keys={key: {} for key in self.keys},
            inflight=64,
            queue=64,
            doors=1,
            kind="supervised",
        )

    def of_kind(self, kind: str) -> Scenario:
        """The same, with engines of this kind. What strikes replicas, and how many there are, is drawn for itself."""
        if kind == "supervised":
            return replace(self, kind=kind)
        chance = random.Random(f"replicas {self.seed}")
        faults = dict(self.faults)
        for fault in chance.sample(OF_REPLICAS, chance.choice((0, 1, 2, 3, len(OF_REPLICAS)))):
            faults[fault] = RATES[fault] * chance.uniform(0.1, 1)
        replicas, steady = chance.choice((2, 2, 3, 4)), chance.random() < 0.7
        return replace(self, kind=kind, faults=faults, replicas=replicas, steady=steady)


def drawn(seed: int, kind: str | None = None) -> Scenario:
    """The scenario of a seed; `kind`: with other engines than it has."""
    chance = random.Random(f"scenario {seed}")
    faults: dict[Fault, float] = {}
    within = chance.choice((0.01, 2.0, 10.0))
    for fault in chance.sample(ALL, chance.choice((0, 1, 2, 3, 4, 6, 9, len(ALL) // 2))):
        faults[fault] = chance.uniform(0, 4 + within) if fault in ONCE else RATES[fault] * chance.uniform(0.1, 1)
    keys = {f"key{i}": _limits(chance) for i in range(chance.randint(1, 3))}
    asked = [_asked(chance, i, list(keys), faults, within) for i in range(chance.randint(3, 8))]
    scenario = Scenario(
        seed,
        faults,
        asked,
        keys,
        inflight=chance.choice((1, 2, 4, 64)),
        queue=chance.choice((1, 4, 64, 64)),
        places=chance.choice((None, None, 1, 2, 8)),
        pace=chance.choice((0.02, 0.1, 0.4)),
        doors=chance.choice((1, 1, 2)),
    )
    return scenario.of_kind(kind or KINDS[seed % len(KINDS)])


def _limits(chance: random.Random) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if chance.random() < 0.3:
        limits["max_inflight"] = chance.randint(1, 3)
    if chance.random() < 0.3:
        limits["thinking_tokens_per_minute"] = chance.randint(100, 1500)
    if chance.random() < 0.2:
        limits["thinking_tokens_per_day"] = chance.randint(200, 3000)
    return limits


def _asked(
    chance: random.Random, number: int, keys: Sequence[str], faults: Mapping[Fault, float], within: float
) -> Asked:
    name, parameters = chance.choice(STRATEGIES)
    body: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": f"What is {number} and {chance.randint(1, 99)}?"}],
        "strategy": {"name": name, **parameters},
        "thinking_budget": chance.choice((0, 30, 80, 150, 300, 600)),
        "max_completion_tokens": 1200,
    }
    if chance.random() < 0.2:
        body["n"] = 2
    if chance.random() < 0.6:
        body["seed"] = chance.randint(0, 10_000)
    if chance.random() < 0.5:
        body |= STREAM
    short = chance.random() < faults.get("short_deadline", 0.0)
    timeout = 20 * chance.uniform(0.05, 1) ** 3 if short else LONG
    return Asked(number, chance.choice(keys), chance.uniform(0, within), body, round(timeout, 3))


def after(number: int, key: str) -> Asked:
    """A small request of a key."""
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": f"What is {number} and 1?"}],
        "strategy": "direct",
        "thinking_budget": 0,
    }
    return Asked(number, key, 0.0, body, LONG)


@dataclass
class World:
    """A scenario while it runs. Everything that is drawn is drawn from streams of the one seed, which do not change
    when a fault is switched off."""

    scenario: Scenario
    loop: SeededLoop
    lines: list[str] = field(default_factory=list[str])
    """What has happened, each with the moment it did."""
    struck: Counter[str] = field(default_factory=Counter[str])
    """Faults that have happened."""
    frozen: float = 0.0
    """Seconds in which the machine stood still."""
    wall: int = 1_770_000_000_000
    """The machine's clock at the beginning, in milliseconds since 1970."""
    healed: bool = False
    """No more faults."""
    shows: bool = False
    _streams: dict[str, random.Random] = field(default_factory=dict[str, random.Random])

    def chance(self, name: str) -> random.Random:
        """A stream of what is drawn."""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = random.Random(f"{self.scenario.seed} {name}")
        return found

    def log(self, what: str) -> None:
        line = f"{self.loop.time():11.6f} {what}"
        self.lines.append(line)
        if self.shows:
            print(line, flush=True)

    def strikes(self, fault: Fault, where: str) -> bool:
        """Whether it happens here and now."""
        rate = self.scenario.faults.get(fault)
        if rate is None or self.healed:
            return False
        happens = self.chance(f"{fault} {where}").random() < rate
        if happens:
            self.struck[fault] += 1
            self.log(f"! {fault}: {where}")
        return happens

    def now_ms(self) -> int:
        """The machine's clock."""
        return self.wall + int(self.loop.time() * 1000)

    async def pause(self, most: float, name: str) -> None:
        """Some time, `most` seconds at most."""
        await asyncio.sleep(most * self.chance(f"pause {name}").random())

    @property
    def hash(self) -> str:
        """Equal for runs in which the same has happened."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]
