"""Many large requests beside small ones, through the whole door in virtual time: who waits for whom, and how long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi import FastAPI

from bench.fixed_step import FixedStep
from bench.load import percentile
from ponder.compute.lengths import Lengths
from ponder.compute.slots import Slots
from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.testing import Chain, ScriptedEngine, ScriptedRewards, always, in_virtual_time
from tests.server.serving import PATH, Line, counted, door, its_door

STEP = 0.01
DIFFERENT = tuple(range(97))
VOTE: dict[str, Any] = {
    "strategy": {"name": "majority_vote", "n": 64, "first": 64, "confidence": 1},
    "thinking_budget": 100_000,
    "timeout": 3600,
}


def model(places: int, *says: int, fair: bool = True) -> FixedStep:
    """Makes a token of each of `places` calls in each step; the others wait, first come first served."""
    said = says or (7,)
    return FixedStep(STEP, places, says=lambda call: f"It is {said[call % len(said)]}.", fair=fair)


def keys(**weights: float) -> list[KeySettings]:
    return [KeySettings(name=name, hash=digest("pk-" + name), weight=weight) for name, weight in weights.items()]


def lengths() -> Lengths:
    return Lengths(40, 60)


class Caller(Line):
    """A request with the API key of somebody."""

    def __init__(self, owner: str | None = None, **body: Any) -> None:
        super().__init__(**body)
        self._owner = owner

    async def call(self, app: FastAPI, key: str | None = None) -> None:
        headers = [(b"content-type", b"application/json")]
        if self._owner is not None:
            headers.append((b"authorization", f"Bearer pk-{self._owner}".encode()))
        await app(PATH | {"headers": headers}, self.receive, self.send)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def told(self) -> dict[str, Any]:
        return json.loads(self.text)


async def timed(app: FastAPI, owner: str | None, **body: Any) -> float:
    """Seconds that a request takes which is answered."""
    clock = asyncio.get_running_loop().time
    began, line = clock(), Caller(owner, **body)
    await line.call(app)
    assert line.status == 200, line.text
    return clock() - began


async def forever(app: FastAPI, owner: str | None, **body: Any) -> None:
    """A caller who asks again as soon as it is answered."""
    while True:
        line = Caller(owner, **body)
        await line.call(app)
        if line.status == 503:
            # The test is over.
            return
        assert line.status in (200, 429), line.text
        if line.status == 429:
            await asyncio.sleep(1)


async def beside(
    app: FastAPI, callers: Sequence[str | None], light: str | None, n: int = 24, warm: float = 2.0
) -> tuple[float, float]:
    """p95 of a light request alone and beside callers of large votes."""
    body = {"strategy": "direct", "thinking_budget": 1000}
    alone = [await timed(app, light, **body) for _ in range(5)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(forever(app, owner, **VOTE)) for owner in callers]
        await asyncio.sleep(warm)
        loaded: list[float] = []
        for _ in range(n):
            loaded.append(await timed(app, light, timeout=3600, **body))
            await asyncio.sleep(0.037)
        for task in tasks:
            task.cancel()
    return percentile(alone, 0.95), percentile(loaded, 0.95)


@pytest.mark.parametrize("whose", ["one key", "keys of their own", "no key"])
def test_a_light_request_beside_many_large_votes_takes_at_most_three_times_as_long(whose: str) -> None:
    async def go() -> None:
        names = [f"k{number}" for number in range(20)] if whose == "keys of their own" else ["heavy"]
        known = [] if whose == "no key" else keys(light=1, **dict.fromkeys(names, 1.0))
        app = door(model(16), Settings(keys=known), lengths=lengths())
        callers = [None] * 20 if whose == "no key" else (names * 20)[:20]
        alone, loaded = await beside(app, callers, None if whose == "no key" else "light")
        assert loaded <= 3 * alone
        assert its_door(app).admission.inside == its_door(app).admission.queued == 0

    in_virtual_time(go())


def test_without_slots_the_same_request_waits_behind_all_chains_of_the_others() -> None:
    """What the test above is about: the model's own queue is first come, first served."""

    async def go() -> None:
        app = door(model(16, fair=False), Settings(), lengths=lengths())
        alone, loaded = await beside(app, [None] * 20, None, n=1)
        assert loaded > 20 * alone

    in_virtual_time(go())


def test_large_requests_come_to_an_end_beside_ever_new_light_ones_of_the_same_key() -> None:
    async def go() -> None:
        app = door(model(16), Settings(), lengths=lengths())
        body = {"strategy": "direct", "thinking_budget": 1000}
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(forever(app, None, **body)) for _ in range(32)]
            await asyncio.sleep(1)
            # One of 33 callers, it has one turn where each other has one.
            alone = 64 * 40 * STEP / 16
            assert await timed(app, None, **VOTE) <= 32 * alone
            for task in tasks:
                task.cancel()

    in_virtual_time(go())


def test_keys_have_tokens_by_their_weights() -> None:
    async def go() -> None:
        app = door(model(16), Settings(keys=keys(ann=1, bob=3)), lengths=lengths())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(forever(app, owner, **VOTE)) for owner in ("ann", "bob") for _ in range(6)]
            await asyncio.sleep(60)
            for task in tasks:
                task.cancel()
        ann, bob = (
            counted(app, f'ponder_billed_tokens_total{{key_owner="{owner}",kind="reasoning"')
            for owner in ("ann", "bob")
        )
        assert 2.4 < bob / ann < 3.6

    in_virtual_time(go())


def test_places_are_counted_in_chains_and_a_light_request_has_one_all_the_same() -> None:
    async def go() -> None:
        app = door(model(16), Settings(max_chains=160), lengths=lengths())
        admission = its_door(app).admission
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(Caller(None, **VOTE).call(app)) for _ in range(6)]
            await asyncio.sleep(0.1)
            assert (admission.inside, admission.queued) == (2, 4)
            assert counted(app, "ponder_queue_depth") == 4
            await timed(app, None, strategy="direct", thinking_budget=1000)
            assert (admission.inside, admission.queued) == (2, 4)
            for task in tasks:
                task.cancel()
        assert (admission.inside, admission.queued) == (0, 0)

    in_virtual_time(go())


def test_a_request_with_more_chains_than_may_run_at_a_time_runs_alone() -> None:
    async def go() -> None:
        app = door(model(16), Settings(max_chains=10), lengths=lengths())
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(timed(app, None, **VOTE))
            await asyncio.sleep(0.1)
            assert its_door(app).admission.inside == 1

    in_virtual_time(go())


def test_no_key_fills_the_queue() -> None:
    async def go() -> None:
        app = door(model(4), Settings(keys=keys(ann=1, bob=1), max_inflight=1, max_queue=10), lengths=lengths())
        slow = {"strategy": "direct", "timeout": 3600}
        ann = [Caller("ann", **slow) for _ in range(12)]
        bob = [Caller("bob", **slow) for _ in range(4)]
        async with asyncio.TaskGroup() as group:
            for line in (*ann, *bob):
                group.create_task(line.call(app))
                await asyncio.sleep(0)
        assert [line.status for line in ann].count(429) == 6
        assert {line.status for line in bob} == {200}
        turned = next(line for line in ann if line.status == 429)
        assert turned.told["error"]["code"] == "server_busy"
        assert "share of 5" in turned.told["error"]["message"]
        assert 1 <= int(dict(turned.sent[0]["headers"])[b"retry-after"]) <= 120
        assert counted(app, 'ponder_admission_rejections_total{reason="key_share"}') == 6

    in_virtual_time(go())


@pytest.mark.parametrize("fair", [True, False])
def test_what_cannot_make_its_deadline_is_refused_at_once_with_the_reason(fair: bool) -> None:
    async def go() -> None:
        app = door(model(4, fair=fair), Settings(max_inflight=100 if fair else 1), lengths=lengths())
        clock, slow = asyncio.get_running_loop().time, {"strategy": "direct"}
        await timed(app, None, **slow)
        async with asyncio.TaskGroup() as group:
            for _ in range(80 if fair else 20):
                group.create_task(timed(app, None, **slow))
            await asyncio.sleep(0.01)
            began, hasty, patient = clock(), Caller(timeout=2), Caller(timeout=60)
            await hasty.call(app)
            assert clock() == began
            assert hasty.status == 429
            assert hasty.told["error"]["code"] == "deadline_out_of_reach"
            assert "it has 2" in hasty.told["error"]["message"]
            assert 1 <= int(dict(hasty.sent[0]["headers"])[b"retry-after"]) <= 120
            await patient.call(app)
            assert patient.status == 200
        assert counted(app, 'ponder_admission_rejections_total{reason="deadline"}') == 1

    in_virtual_time(go())


def test_hang_ups_while_chains_wait_for_the_model_leave_nothing_behind() -> None:
    async def go() -> None:
        engine = model(8)
        app = door(engine, lengths=lengths())
        lines = [Caller(None, **VOTE) for _ in range(8)]
        async with asyncio.TaskGroup() as group:
            for line in lines:
                group.create_task(line.call(app))
            await asyncio.sleep(0.1)
            assert engine.slots is not None
            assert counted(app, "ponder_calls_waiting") == engine.slots.waiting > 400
            assert engine.running <= 8
            for line in lines[1:]:
                line.gone.set()
            await asyncio.sleep(0)
        assert lines[0].status == 200
        assert (engine.slots.waiting, engine.slots.held, engine.running) == (0, 0, 0)
        assert counted(app, "ponder_slot_wait_seconds_count") > 20
        assert counted(app, 'ponder_requests_total{outcome="disconnected"}') == 7

    in_virtual_time(go())


@pytest.mark.parametrize("body", [{"n": 4}, VOTE, {"strategy": "revision"}, {"strategy": "beam_search"}])
def test_a_seeded_answer_is_the_same_beside_others(body: dict[str, Any]) -> None:
    def script(prompt: Any, thought: str, call: int) -> Chain:
        lines = "\n".join("t" * (3 + (call >> part) % 7) for part in range(4))
        return Chain(f"{thought}\n{lines}" if thought else lines, f"It is {call % 5}.")

    async def asked(busy: bool) -> dict[str, Any]:
        engine = ScriptedEngine(script, delay=STEP, at_once=8, slots=Slots(8, 40.0), seeded=True)
        app = door(engine, reward_model=ScriptedRewards(lambda line: len(line) / 10), lengths=lengths())
        line = Caller(None, **{"thinking_budget": 4000, "timeout": 3600} | body, seed=5)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(forever(app, None, **VOTE)) for _ in range(5 if busy else 0)]
            await asyncio.sleep(1 if busy else 0)
            await line.call(app)
            for task in tasks:
                task.cancel()
        # How far chains had come that were stopped is a matter of time, and so is what they cost.
        judged = {"agreement", "confidence", "score", "verifier", "samples", "samples_requested", "stopped_by"}
        thinking = {name: value for name, value in line.told["thinking"].items() if name in judged}
        return {"choices": line.told["choices"], "thinking": thinking}

    assert in_virtual_time(asked(True)) == in_virtual_time(asked(False))


@pytest.mark.parametrize(
    ("allowed", "seed", "busy", "reduced"),
    [(True, None, True, True), (True, 5, True, False), (False, None, True, False), (True, None, False, False)],
)
def test_auto_spends_less_under_load_where_the_operator_allows_it_and_no_seed_is_given(
    allowed: bool, seed: int | None, busy: bool, reduced: bool
) -> None:
    async def go() -> None:
        app = door(model(8, *DIFFERENT), Settings(reduce_under_load=allowed), lengths=lengths())
        wish: dict[str, Any] = {"strategy": "auto", "thinking_budget": 10_000, "timeout": 3600, "seed": seed}
        line = Caller(None, **{name: value for name, value in wish.items() if value is not None})
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(forever(app, None, **VOTE)) for _ in range(5 if busy else 0)]
            await asyncio.sleep(1)
            await line.call(app)
            for task in tasks:
                task.cancel()
        thinking = line.told["thinking"]
        assert thinking.get("reduced_by_load", False) == reduced
        assert thinking["samples"] <= 11 if reduced else thinking["samples"] == 32

    in_virtual_time(go())


def test_judging_is_shared_between_keys_as_well() -> None:
    async def go() -> None:
        rewards = ScriptedRewards(lambda line: 0.5, delay=0.1, slots=Slots(8, 40.0))
        app = door(model(400), Settings(keys=keys(ann=1, bob=1)), lengths=lengths(), reward_model=rewards)

        def best(n: int) -> dict[str, Any]:
            return {"strategy": {"name": "best_of_n", "n": n}, "thinking_budget": 100_000, "timeout": 3600}

        alone = await timed(app, "bob", **best(2))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(forever(app, "ann", **best(64))) for _ in range(5)]
            await asyncio.sleep(3)
            loaded = [await timed(app, "bob", **best(2)) for _ in range(10)]
            for task in tasks:
                task.cancel()
        assert percentile(loaded, 0.95) <= 3 * alone
        assert counted(app, 'ponder_slot_wait_seconds_count{model="demo",role="verifier"') > 3
        assert rewards.slots is not None
        assert rewards.slots.held == rewards.slots.waiting == 0

    in_virtual_time(go())


def test_a_reader_who_does_not_read_keeps_nobody_from_the_model() -> None:
    async def go() -> None:
        engine = ScriptedEngine(always(Chain("t", "a" * 3000)), delay=STEP, at_once=1, slots=Slots(1, 40.0))
        app = door(engine, Settings(), lengths=lengths())
        slow = Caller(stream=True, max_answer_tokens=5000, timeout=3600)
        other = Caller(max_answer_tokens=5, timeout=3600)
        async with asyncio.TaskGroup() as group:
            slow.blocked.clear()
            group.create_task(slow.call(app))
            await asyncio.sleep(29)
            assert engine.slots is not None
            assert engine.slots.held == 0
            slow.blocked.set()
            await other.call(app)
        assert (slow.status, other.status) == (200, 200)
        assert engine.slots.held == engine.slots.waiting == 0
        assert (engine.slots.free, engine.slots.kept) == (1, 0)

    in_virtual_time(go())


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(keys=keys(ann=1, bob=1)), Settings(max_inflight=32, max_queue=64)],
    ids=["usual", "two keys", "small"],
)
def test_ten_times_the_load_is_answered_as_well_as_the_peak_and_the_rest_refused_at_once(settings: Settings) -> None:
    """Requests of different sizes at a rate of their own, as callers who do not know of one another send them."""

    async def answered(rate: float) -> tuple[int, list[float]]:
        app = door(model(16), settings, lengths=lengths())
        clock, tokens, refusals = asyncio.get_running_loop().time, 0, list[float]()

        async def one(number: int) -> None:
            nonlocal tokens
            began = clock()
            large = {"strategy": {"name": "majority_vote", "n": 8}, "thinking_budget": 2000}
            owner = ("ann", "bob")[number % 3 == 0] if settings.keys else None
            line = Caller(owner, timeout=10, **(large if number % 4 == 0 else {"strategy": "direct"}))
            await line.call(app)
            if line.status == 200:
                if clock() < end and line.told["thinking"]["stopped_by"] != "deadline":
                    tokens += line.told["usage"]["completion_tokens"]
            else:
                refusals.append(clock() - began)

        end = clock() + 20
        async with asyncio.TaskGroup() as group:
            number = 0
            while clock() < end:
                group.create_task(one(number))
                number += 1
                await asyncio.sleep(1 / rate)
        return tokens, refusals

    capacity = 16 / STEP / (40 * (1 + 7 / 4))
    peak, _ = in_virtual_time(answered(capacity))
    tenfold, refusals = in_virtual_time(answered(10 * capacity))
    assert tenfold >= 0.95 * peak
    assert percentile(refusals, 0.99) <= 0.05
