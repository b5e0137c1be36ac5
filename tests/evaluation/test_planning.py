"""The model in events beside what it is a model of: the real server over scripted replicas, in virtual time."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from statistics import variance
from typing import Any

import pytest
from fastapi import FastAPI

from ponder.compute.clock import now
from ponder.compute.engine import Delta, ModelCard, Sampling
from ponder.compute.lengths import Lengths
from ponder.compute.policy import BUILT_IN
from ponder.compute.slots import Slots
from ponder.compute.text import Hidden, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.samples import Question, Sample
from ponder.evaluation.planning.capacity import Door, door_busy, taken
from ponder.evaluation.planning.demand import Arrivals, Asked, Demand, Kind, LogNormal, Pool
from ponder.evaluation.planning.figures import Figures
from ponder.evaluation.planning.fleet import Fleet, Layout
from ponder.evaluation.planning.patterns import Fixed, Pattern, Settling, of
from ponder.evaluation.planning.replica import Costs
from ponder.evaluation.planning.routing import RULES, Router, Rule
from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.strategies.auto import Auto
from ponder.testing import in_virtual_time
from tests.server.serving import Line, counted, door

REPLICAS, SLOTS, PROMPT = 8, 8, 8
COSTS = Costs(((1, 0.01), (4, 0.013), (8, 0.021)), read=0.002)
VISIBLE = len("It is 0.")
DIRECT: dict[str, Any] = {"strategy": "direct"}
VOTE: dict[str, Any] = {"strategy": {"name": "majority_vote", "n": 8, "first": 4, "confidence": 0.9}}
AUTO: dict[str, Any] = {"strategy": {"name": "auto", "evidence": "votes"}, "verifier": "agreement"}


@dataclass(frozen=True)
class Story:
    """A request of a test: when it comes, of whom, how it draws, and what its chains will be."""

    at: float
    owner: str
    body: dict[str, Any]
    question: Question

    @property
    def pattern(self) -> Pattern:
        if self.body is DIRECT:
            return Fixed(1)
        return Settling(8, 4, 0.9) if self.body is VOTE else of(Auto(), BUILT_IN, 32)()


def stories(
    count: int, rate: float, *, seed: int = 5, bodies: Sequence[dict[str, Any]] = (DIRECT, VOTE)
) -> list[Story]:
    """Of two keys: one asks for light answers, another for votes."""
    chance, at, told = random.Random(seed), 0.0, list[Story]()
    lengths = LogNormal(40, 130, longest=400)
    for number in range(count):
        at += chance.expovariate(rate)
        heavy = len(bodies) > 1 and chance.random() < 0.25
        drawn = lengths.question(chance)
        samples = tuple(Sample(min(9, drawn.answer() or 0), VISIBLE + drawn.chain()) for _ in range(32))
        question = Question(str(number), frozenset(), samples)
        told.append(Story(at, "heavy" if heavy else "light", bodies[heavy], question))
    return told


class Batches:
    """An engine of several replicas, token by token: in each step a replica writes one token of every chain it has.
    Chains go to the replica with the fewest."""

    def __init__(self, told: Sequence[Story]) -> None:
        self.card = ModelCard(name="batches", context=1 << 16, thinks=True, typical_chain=(60, 150))
        self.slots = Slots(REPLICAS * SLOTS, 60)
        self._told = told
        self._drawn: dict[int, int] = defaultdict(int)
        self._running: list[set[asyncio.Event]] = [set() for _ in range(REPLICAS)]
        self._loads = [0] * REPLICAS
        self._left: dict[asyncio.Event, int] = {}
        self._reading = [0.0] * REPLICAS
        self._read: set[tuple[int, int]] = set()
        self._wakes = [asyncio.Event() for _ in range(REPLICAS)]
        self.written = 0

    async def step(self, replica: int) -> None:
        """A replica's life."""
        while True:
            if not self._running[replica]:
                self._wakes[replica].clear()
                await self._wakes[replica].wait()
            reading, self._reading[replica] = self._reading[replica], 0.0
            batch = list(self._running[replica])
            await asyncio.sleep(reading + COSTS.step(len(batch)))
            for chain in batch:
                if chain not in self._running[replica]:
                    continue
                self._left[chain] -= 1
                self.written += 1
                if not self._left[chain]:
                    self._running[replica].discard(chain)
                    chain.set()

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        return PROMPT

    async def accept(self, sampling: Sampling) -> None:
        pass

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        (told,) = re.findall(r"question (\d+)", str(prompt.messages[-1]))
        number = int(told)
        sample = self._told[number].question.samples[self._drawn[number]]
        self._drawn[number] += 1
        replica = min(range(REPLICAS), key=lambda one: (self._loads[one], one))
        self._loads[replica] += 1
        if (replica, number) not in self._read:
            self._read.add((replica, number))
            self._reading[replica] += PROMPT * COSTS.read
        transcript.read(PROMPT, 0)
        ended = asyncio.Event()
        self._left[ended] = sample.tokens
        self._running[replica].add(ended)
        self._wakes[replica].set()
        try:
            await ended.wait()
        finally:
            self._loads[replica] -= 1
            self._running[replica].discard(ended)
            made = sample.tokens - self._left.pop(ended)
            hidden = min(made, sample.tokens - VISIBLE)
            said = f"It is {sample.answer}."[: made - hidden]
            transcript.think(range(hidden))
            if said:
                transcript.close_thought()
                transcript.say(range(len(said)), said)
            transcript.end("finished" if ended.is_set() else "aborted", Hidden("(numbers)"))
        yield Delta(said)

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass


@dataclass
class Seen:
    """What callers of the real server saw."""

    latency: dict[str, list[float]]
    tokens: int = 0
    seconds: float = 0.0
    """When the last was answered."""
    queued: float = 0.0
    """Seconds at the door, of all of them."""
    slot_wait: float = 0.0
    """Seconds for slots, of all chains."""


async def served(told: Sequence[Story], inflight: int) -> Seen:
    """All of them through the whole server."""
    engine = Batches(told)
    keys = [KeySettings(name=name, hash=digest("pk-" + name)) for name in ("heavy", "light")]
    app = door(engine, Settings(keys=keys, max_inflight=inflight), lengths=Lengths(60, 150))
    seen = Seen(defaultdict(list))
    async with asyncio.TaskGroup() as life:
        replicas = [life.create_task(engine.step(replica)) for replica in range(REPLICAS)]
        async with asyncio.TaskGroup() as callers:
            for number, story in enumerate(told):
                callers.create_task(caller(app, number, story, seen))
        for replica in replicas:
            replica.cancel()
    seen.tokens = engine.written
    seen.queued = counted(app, "ponder_queue_wait_seconds_sum")
    seen.slot_wait = counted(app, "ponder_slot_wait_seconds_sum")
    return seen


async def caller(app: FastAPI, number: int, story: Story, seen: Seen) -> None:
    await asyncio.sleep(story.at)
    messages = [{"role": "user", "content": f"What is it? This is question {number}"}]
    line = Line(messages=messages, thinking_budget=60_000, timeout=3600, **story.body)
    await line.call(app, "pk-" + story.owner)
    assert line.sent[0]["status"] == 200, line.text
    seen.latency[story.owner].append(now() - story.at)
    seen.seconds = max(seen.seconds, now())


def planned(told: Sequence[Story], inflight: int) -> Figures:
    """The same requests in the model. All are counted."""
    asked = [
        Asked(
            story.at,
            story.pattern,
            Pool([story.question]).question(_InOrder()),
            story.owner,
            prompt=PROMPT,
            most=60_000,
        )
        for story in told
    ]
    layout = Layout(REPLICAS, COSTS, SLOTS, routing="least", max_inflight=inflight, typical=60)
    return Fleet(layout).run(iter(asked), len(asked), warm=0.0)


class _InOrder(random.Random):
    """Shuffles nothing, so that samples come as they were recorded."""

    def shuffle(self, x: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("bodies", "rate", "inflight"), [((DIRECT,), 45, 256), ((DIRECT, VOTE), 15, 10), ((AUTO,), 5, 256)]
)
def test_it_comes_to_what_the_real_server_comes_to(
    bodies: Sequence[dict[str, Any]], rate: float, inflight: int
) -> None:
    """A direct load that all but fills the slots, one of votes beside light requests that wait for places at the door,
    and `auto`. Throughput and tokens within 5 %, means within a tenth, 95th percentiles and waits within a
    fifth."""
    told = stories(300 if AUTO in bodies else 400, rate, bodies=bodies)
    real, model = in_virtual_time(served(told, inflight)), planned(told, inflight)
    assert model.tokens * model.requests == pytest.approx(real.tokens, rel=0.05)
    assert model.requests == sum(map(len, real.latency.values())) == len(told)
    assert model.seconds_all == pytest.approx(real.seconds, rel=0.05)
    assert model.queued.mean == pytest.approx(real.queued / len(told), rel=0.2, abs=0.002)
    assert model.slot_wait.mean * model.chains == pytest.approx(real.slot_wait / len(told), rel=0.2, abs=0.002)
    for owner, seconds in real.latency.items():
        found, ordered = model.owners[owner], sorted(seconds)
        assert found.mean == pytest.approx(sum(seconds) / len(seconds), rel=0.1), owner
        assert found.p95 == pytest.approx(ordered[int(0.95 * len(ordered))], rel=0.2), owner
    assert (model.queued.mean > 0.05) == (inflight < 256)


LENGTHS = LogNormal(40, 130, longest=400)
FLEET = Layout(REPLICAS, COSTS, SLOTS, typical=60, max_inflight=4096)


def simulated(layout: Layout = FLEET, *, rate: float = 25.0, count: int = 800, seed: int = 0, **kind: Any) -> Figures:
    demand = Demand(Arrivals(rate), [Kind(Fixed, LENGTHS, **kind)], seed)
    return Fleet(layout, seed=seed).run(demand.requests(count), count)


def test_all_of_it_is_the_same_again_and_another_seed_is_another() -> None:
    layout = replace(FLEET, doors=3, routing="two", lives=5.0, away=1.0, poll=0.5)
    assert simulated(layout) == simulated(layout)
    assert simulated(layout) != simulated(layout, seed=1)


def test_what_is_known_beforehand_comes_out() -> None:
    """Chains of one length, one at a time: no step is shared and nobody waits."""
    sure = LogNormal(100, 100)
    told = Demand(Arrivals(0.05), [Kind(Fixed, sure, prompt=100)])
    figures = Fleet(FLEET).run(told.requests(50), 50)
    assert figures.latency.mean == pytest.approx(100 * COSTS.step(1) + 100 * COSTS.read)
    assert figures.latency.p50 == pytest.approx(figures.latency.p99)
    assert (figures.tokens, figures.chains, figures.refused) == (100, 1, 0)
    assert figures.tokens_per_second == pytest.approx(100 * figures.per_second, rel=0.05)


def test_replicas_that_fail_lose_no_request_and_what_they_read_again_is_counted() -> None:
    figures = simulated(replace(FLEET, lives=10.0, away=2.0, noticed=0.1), rate=15, count=600, prompt=10)
    calm = simulated(rate=15, count=600, prompt=10)
    assert figures.requests == calm.requests == 540
    assert figures.tokens == pytest.approx(calm.tokens, rel=0.01)
    assert figures.moved > 0
    assert figures.again > 0
    assert figures.latency.mean > calm.latency.mean


def test_with_every_replica_gone_chains_wait_for_the_first_that_is_back() -> None:
    figures = simulated(replace(FLEET, replicas=1, lives=2.0, away=3.0), rate=1, count=100)
    assert figures.requests == 90
    assert figures.latency.p99 > 3


def test_a_full_queue_refuses() -> None:
    figures = simulated(replace(FLEET, max_inflight=16, max_queue=8), rate=200)
    assert figures.refused > 0
    assert figures.refused + figures.requests == 720


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_of_routing_sends_nothing_to_a_replica_that_is_away(rule: Rule) -> None:
    router = Router(rule, 5, 4, 0)
    router.alive(3, False)
    sent: list[int] = []
    for key in range(16):
        replica = router.choose(key)
        assert replica is not None
        router.sent(replica)
        sent.append(replica)
    assert 3 not in sent
    assert len(set(sent)) > 1
    for replica in range(5):
        router.alive(replica, False)
    assert router.choose(7) is None
    router.alive(2, True)
    assert router.choose(7) == 2


def test_chains_of_a_prompt_stay_together_until_their_replica_is_full() -> None:
    router = Router("affinity", 20, 4, 0)
    places: list[int] = []
    for _ in range(6):
        replica = router.choose(12345)
        assert replica is not None
        router.sent(replica)
        places.append(replica)
    assert len(set(places[:4])) == 1
    assert len({places[0], places[4], places[5]}) == 2
    bounded = Router("bounded", 20, 4, 0)
    assert bounded.choose(12345) == places[0]


def test_arrivals_come_as_often_as_they_are_said_to() -> None:
    for arrivals in (Arrivals(10), Arrivals(10, peak=1.8, day=50), Arrivals(10, burst=4, bursts=0.1, lasting=2)):
        times = arrivals.times(random.Random(3))
        last = [next(times) for _ in range(20_000)][-1]
        assert last == pytest.approx(2000, rel=0.1), arrivals


def test_lengths_have_the_mean_they_are_said_to_have_and_chains_of_a_question_are_alike() -> None:
    lengths = LogNormal(764, 3674, longest=16384)
    drawn: list[list[int]] = []
    for number in range(4000):
        question = lengths.question(random.Random(number))
        drawn.append([question.chain() for _ in range(4)])
    assert sum(map(sum, drawn)) / 16_000 == pytest.approx(lengths.mean, rel=0.1)
    assert sum(tokens**2 for one in drawn for tokens in one) / 16_000 == pytest.approx(lengths.square, rel=0.1)
    logs = [[math.log(tokens) for tokens in one] for one in drawn]
    within = sum(variance(one) for one in logs) / len(logs)
    assert 1 - within / variance([tokens for one in logs for tokens in one]) == pytest.approx(0.8, abs=0.05)


def test_formulas_come_to_what_is_simulated() -> None:
    """Tokens a second, what doors have to do, and what replicas make when more is asked than they can do."""
    kinds = [Kind(of(Auto(n=6), BUILT_IN, 6), LENGTHS, prompt=PROMPT)]
    each = taken(kinds, 0)
    door_ = Door(request_cpu=0.02, token_cpu=2e-4)
    rate = 0.6 * REPLICAS / each.seconds(COSTS, SLOTS)
    layout = replace(FLEET, doors=2, routing="two", request_cpu=door_.request_cpu, token_cpu=door_.token_cpu)
    calm = Fleet(layout).run(Demand(Arrivals(rate), kinds).requests(2500), 2500)
    assert calm.tokens_per_second == pytest.approx(rate * each.tokens, rel=0.1)
    assert calm.chains == pytest.approx(each.chains, rel=0.1)
    assert calm.door_busy == pytest.approx(door_busy(rate, each, door_) / 2, rel=0.1)
    over = replace(FLEET, costs=replace(COSTS, read=0.0))
    full = Fleet(over).run(Demand(Arrivals(4 * rate), kinds).requests(2000), 2000, warm=0.3)
    assert full.slots_used > 0.97
    assert full.tokens_per_second == pytest.approx(over.capacity, rel=0.03)


def by_steps(coming: Sequence[tuple[float, int, int]], costs: Costs) -> list[float]:
    """Seconds that chains take which come to one replica at a time, with so many tokens of context, to write so many:
    step by step."""
    waiting, running, seconds = sorted(coming), list[list[float]](), list[float]()
    now = 0.0
    while waiting or running:
        if not running:
            now = max(now, waiting[0][0])
        while waiting and waiting[0][0] <= now:
            at, context, tokens = waiting.pop(0)
            running.append([at, context, tokens])
        now += costs.step(len(running), sum(context for _, context, _ in running))
        for chain in running:
            chain[1] += 1
            chain[2] -= 1
        seconds += [now - at for at, _, left in running if not left]
        running = [chain for chain in running if chain[2]]
    return seconds


def test_a_step_takes_the_longer_the_more_tokens_there_are_in_all_contexts() -> None:
    """One chain alone, as can be reckoned beforehand, and many of one replica, against all steps one by one."""
    costs = replace(COSTS, read=0.0, context=2e-5)
    one = replace(FLEET, replicas=1, slots=64, costs=costs)
    alone = Fleet(one).run(Demand(Arrivals(0.02), [Kind(Fixed, LogNormal(100, 100), prompt=700)]).requests(50), 50)
    assert alone.latency.p50 == pytest.approx(100 * COSTS.step(1) + 2e-5 * 100 * (700 + 50))
    many = Demand(Arrivals(1.8), [Kind(Fixed, LENGTHS, prompt=100)])
    figures = Fleet(one).run(many.requests(600), 600, warm=0)
    seconds = by_steps([(asked.at, asked.prompt, asked.question.chain()) for asked in many.requests(600)], costs)
    assert figures.latency.mean == pytest.approx(sum(seconds) / len(seconds), rel=0.03)
    short = Fleet(replace(one, costs=replace(COSTS, read=0.0))).run(many.requests(600), 600, warm=0)
    assert figures.latency.mean > 1.2 * short.latency.mean


def test_contexts_weigh_in_the_formulas_as_they_do_in_the_events() -> None:
    """Replicas that are asked for more than they can do, with chains so long that reading them is half of a step."""
    costs = replace(COSTS, read=0.0, context=2e-5)
    kinds = [Kind(Fixed, LENGTHS, prompt=PROMPT)]
    each = taken(kinds, 0)
    rate = REPLICAS * each.rate(costs, SLOTS) / each.tokens
    full = Fleet(replace(FLEET, costs=costs)).run(Demand(Arrivals(3 * rate), kinds).requests(3000), 3000, warm=0.3)
    assert full.slots_used > 0.97
    assert full.tokens_per_second == pytest.approx(REPLICAS * each.rate(costs, SLOTS), rel=0.05)
    assert each.rate(costs, SLOTS) < 0.9 * each.rate(COSTS, SLOTS)


def test_a_door_whose_processor_is_full_answers_late() -> None:
    free = simulated(count=400, prompt=0).latency.mean
    for door_ in ({"request_cpu": 0.035}, {"request_cpu": 0.005, "token_cpu": 5e-4}):
        assert simulated(replace(FLEET, **door_), count=400, prompt=0).latency.mean > 1.05 * free
