"""The server while its engines are killed and stopped under load: no request is lost, none has another answer for it.

The engine is scripted, in a process of its own that writes down each token it makes. `make soak` kills it 100 times.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from ponder.engines.supervised import SupervisedEngine, SupervisedRewardModel
from ponder.engines.supervisor import Supervisor
from ponder.server.settings import Settings
from ponder.testing import in_virtual_time
from tests.engines.mortal import KILLED, Mortal, MortalProcess, supervised
from tests.engines.token_process import TokenEngine, TokenProcess, TokenRewards
from tests.server.serving import ASK, PATH, Line, counted, door, events, its_door, refused

FORMS: tuple[dict[str, Any], ...] = (
    {"strategy": "direct", "thinking_budget": 60},
    {"strategy": "direct", "thinking_budget": 20, "stream": True},
    {"strategy": "direct", "thinking_budget": 60, "response_format": {"type": "json_object"}},
    {"strategy": "direct", "thinking_budget": 60, "response_format": {"type": "json_object"}, "stream": True},
    {"strategy": {"name": "best_of_n", "n": 4}, "thinking_budget": 400},
    {"strategy": {"name": "majority_vote", "n": 3}, "thinking_budget": 400, "stream": True},
    {"strategy": {"name": "beam_search", "beams": 2, "width": 2}, "thinking_budget": 300},
    {"strategy": "direct", "thinking_budget": 80, "n": 3},
)
"""Of a mixed load."""


@dataclass
class Place:
    """A server over engines that are killed."""

    app: FastAPI
    engine: SupervisedEngine
    process: TokenProcess
    rewards: SupervisedRewardModel
    judge: TokenProcess
    client: httpx.AsyncClient
    seen: list[Any] = field(default_factory=list[Any])

    async def ask(self, number: int) -> Any:
        """One request of the load, which the number decides; what of its answer must be the same each time."""
        form = FORMS[number % len(FORMS)]
        said = f"{'As JSON. ' if 'response_format' in form else ''}What is {number}?"
        body = ASK | form | {"seed": number, "messages": [{"role": "user", "content": said}]}
        if form.get("stream"):
            body["stream_options"] = {"include_usage": True}
        response = await self.client.post(PATH["path"], json=body, timeout=120)
        assert response.status_code == 200, response.text
        if not form.get("stream"):
            answer = response.json()
            return [choice["message"]["content"] for choice in answer["choices"]], answer["usage"]
        chunks = events(response.text)
        text = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
        return "".join(text), chunks[-1]["usage"]


@asynccontextmanager
async def place(folder: Path) -> AsyncGenerator[Place]:
    process, judge = TokenProcess(folder / "truth"), TokenProcess(folder / "judged", name="judge")
    engine = TokenEngine(process=process)
    rewards = TokenRewards(lambda line: sum(map(ord, line)) % 100 / 100, process=judge)
    await process.start()
    await judge.start()
    watching, judging = Supervisor(process, engine.check, took=0.2), Supervisor(judge, rewards.check, took=0.2)
    try:
        async with watching.watching(), judging.watching():
            model, reward_model = SupervisedEngine(engine, watching), SupervisedRewardModel(rewards, judging)
            app = door(model, Settings(max_inflight=64), reward_model=reward_model, verifier="prm")
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                yield Place(app, model, process, reward_model, judge, client)
    finally:
        await process.end()
        await judge.end()


Blow = Callable[[Place, int], Awaitable[None]]


async def load(place: Place, requests: int, blow: Blow | None = None, blows: int = 0) -> list[Any]:
    """All the requests, some at the same time, while the engine is given so many blows."""
    answers: list[Any] = [None] * requests
    numbers = iter(range(requests))
    struck = asyncio.Event()

    async def asking() -> None:
        for number in numbers:
            answers[number] = await place.ask(number)

    async def striking() -> None:
        chance = random.Random(7)
        for one in range(blows):
            await asyncio.sleep(chance.uniform(0.01, 0.4))
            if blow is not None:
                await blow(place, one)
        struck.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(striking())
        for _ in range(8):
            group.create_task(asking())
    return answers


async def strike(process: TokenProcess, supervisor: Supervisor, sign: signal.Signals) -> float:
    """A blow; how much longer than a start the way back from it took, in seconds."""
    deaths = len(supervisor.deaths)
    process.send(sign)
    began = asyncio.get_running_loop().time()
    while len(supervisor.deaths) == deaths or supervisor.state != "up":  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time() - began - supervisor.took


def campaign(folder: Path, kills: int, stops: int, judges: int) -> dict[str, float]:
    """Raises `AssertionError`, or tells what it came to."""
    ways: list[float] = []
    signs = [signal.SIGKILL] * kills + [signal.SIGSTOP] * stops
    blows = [("engine", sign) for sign in signs] + [("judge", signal.SIGKILL)] * judges
    random.Random(5).shuffle(blows)
    requests = 4 * len(blows)

    async def undisturbed() -> list[Any]:
        async with place(folder / "a") as one:
            return await load(one, requests)

    async def blow(one: Place, number: int) -> None:
        whom, sign = blows[number]
        if whom == "engine":
            ways.append(await strike(one.process, one.engine.supervision, sign))
        else:
            ways.append(await strike(one.judge, one.rewards.supervision, sign))

    async def disturbed() -> tuple[list[Any], Place]:
        async with place(folder / "b") as one:
            answers = await load(one, requests, blow, len(blows))
            told = (await one.client.get("/metrics")).text
            assert 'ponder_engine_up{model="demo",role="generator"} 1' in told
            assert counted(one.app, "ponder_inflight_requests") == 0
            return answers, one

    (folder / "a").mkdir()
    (folder / "b").mkdir()
    expected = asyncio.run(undisturbed())
    answers, one = asyncio.run(disturbed())
    assert [number for number in range(requests) if answers[number] != expected[number]] == []
    # Every token is billed once, however often it was made.
    made = one.process.made("/")
    billed = counted(one.app, 'ponder_billed_tokens_total{kind="reasoning"}')
    billed += counted(one.app, 'ponder_billed_tokens_total{kind="visible"}')
    assert billed == len(made)
    wasted = counted(one.app, "ponder_wasted_tokens_total")
    assert wasted <= sum(made.values()) - len(made), "what was made twice, but for what was never handed over"
    assert counted(one.app, 'ponder_engine_restarts_total{role="generator"}') == kills + stops
    assert counted(one.app, 'ponder_engine_restarts_total{role="verifier"}') == judges
    resumed = counted(one.app, "ponder_resumed_samples_total")
    assert resumed > 0
    assert counted(one.app, "ponder_budget_violations_total") == 0
    unseen = sum(made.values()) - len(made) - wasted
    told = {"requests": requests, "billed": billed, "wasted": wasted, "unseen": unseen, "resumed": resumed}
    return told | {"longest_way_back_beyond_a_start": max(ways)}


def test_an_engine_that_is_killed_and_stopped_under_load_loses_no_request(tmp_path: Path) -> None:
    campaign(tmp_path, 3, 3, 3)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_engines_that_are_killed_and_stopped_all_the_time_lose_no_request(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    told = campaign(tmp_path, 100, 30, 30)
    for name, value in told.items():
        record_property(name, value)
    assert told["wasted"] > 0
    assert told["longest_way_back_beyond_a_start"] < 3


# -- what is told meanwhile -------------------------------------------------------------------------------------------


def asked_while_away(process: MortalProcess, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    """What a server says whose engine was killed a second ago; in virtual time."""

    async def go() -> list[httpx.Response]:
        async with supervised(Mortal(process=process)) as engine:
            transport = httpx.ASGITransport(door(engine))
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                assert (await client.get("/readyz")).status_code == 200
                process.die(KILLED)
                await asyncio.sleep(1)
                return [await client.request(method, url, json=body or None) for method, url, body in requests]

    return in_virtual_time(go())


def test_probes_and_metrics_say_that_an_engine_is_being_started_again() -> None:
    pages = [("GET", f"/{page}", dict[str, Any]()) for page in ("readyz", "healthz", "livez", "metrics")]
    ready, health, live, metrics = asked_while_away(MortalProcess(), *pages)
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "engine_unavailable")
    assert 1 <= int(ready.headers["retry-after"]) <= 4
    told = health.json()
    assert (health.status_code, told["status"]) == (503, "unavailable")
    assert told["models"]["demo"]["engine"] == "restarting"
    assert told["models"]["demo"]["answers"] is False
    assert live.status_code == 200
    assert 'ponder_engine_up{model="demo",role="generator"} 0.0' in metrics.text
    assert 'ponder_engine_restarts_total{model="demo",role="generator"} 1.0' in metrics.text


def test_an_engine_that_cannot_be_started_again_is_no_longer_alive() -> None:
    slow = [("POST", PATH["path"], ASK | {"timeout": 30})]
    pages = [("GET", f"/{page}", dict[str, Any]()) for page in ("livez", "healthz")]
    lost, live, health = asked_while_away(MortalProcess(broken=9), *slow, *pages)
    refused(lost, 503, "engine_unavailable")
    assert int(lost.headers["retry-after"]) >= 1
    assert live.status_code == 503
    assert health.json()["models"]["demo"]["engine"] == "failed"


def test_requests_wait_for_a_restart_within_their_time_and_are_refused_beyond_it() -> None:
    answered, late = asked_while_away(
        MortalProcess(takes=20), ("POST", PATH["path"], ASK | {"timeout": 60}), ("POST", PATH["path"], ASK)
    )
    assert answered.status_code == 200
    assert late.status_code == 200
    process = MortalProcess(takes=20)
    (refusal,) = asked_while_away(process, ("POST", PATH["path"], ASK | {"timeout": 5}))
    refused(refusal, 503, "engine_unavailable")
    assert 14 <= int(refusal.headers["retry-after"]) <= 20


class Slower(MortalProcess):
    """Takes much longer to start than the last time."""

    async def start(self) -> None:
        await asyncio.sleep(600)


@pytest.mark.parametrize("process", [Slower(takes=3), MortalProcess(broken=9)])
@pytest.mark.parametrize("stream", [False, True])
def test_who_waited_in_vain_for_an_engine_is_refused_with_its_status_and_counted(
    stream: bool, process: MortalProcess
) -> None:
    refusal, metrics = asked_while_away(
        replace(process), ("POST", PATH["path"], ASK | {"timeout": 30, "stream": stream}), ("GET", "/metrics", {})
    )
    refused(refusal, 503, "engine_unavailable")
    assert int(refusal.headers["retry-after"]) >= 1
    assert 'ponder_admission_rejections_total{reason="engine_unavailable"} 1.0' in metrics.text


def test_a_stream_begins_when_its_engine_is_back_or_has_been_awaited_for_long() -> None:
    async def begun(takes: float) -> tuple[float, Line]:
        """When it began, of an engine that takes so long to start."""
        loop = asyncio.get_running_loop()
        process = MortalProcess(takes=takes)
        async with supervised(Mortal(process=process)) as engine:
            app = door(engine, Settings(stream_timeout=900))
            process.die(KILLED)
            await asyncio.sleep(1)
            came, line = loop.time(), Line(stream=True, timeout=600)
            calling = asyncio.create_task(line.call(app))
            while not line.sent:  # noqa: ASYNC110 (of virtual time there is enough)
                await asyncio.sleep(0.1)
            at = loop.time() - came
            await calling
            return at, line

    for takes, expected in ((20.0, 19.5), (200.0, 45.0)):
        at, line = in_virtual_time(begun(takes))
        assert at == pytest.approx(expected, abs=0.6)
        assert line.sent[0]["status"] == 200
        assert line.text.endswith(b"data: [DONE]\n\n")
        assert (line.text.count(b": keep-alive") > 5) == (takes > 45)


def test_a_server_that_goes_down_tells_who_waits_for_an_engine() -> None:
    async def go() -> Line:
        process = MortalProcess(takes=200)
        async with supervised(Mortal(process=process)) as engine:
            app, line = door(engine), Line(stream=True, timeout=600)
            process.die(KILLED)
            await asyncio.sleep(1)
            async with asyncio.TaskGroup() as group:
                group.create_task(line.call(app))
                await asyncio.sleep(5)
                group.create_task(its_door(app).drain())
            assert counted(app, 'ponder_admission_rejections_total{reason="draining"}') == 1
            return line

    line = in_virtual_time(go())
    assert line.sent[0]["status"] == 503
    assert b"draining" in line.text


def test_a_restart_makes_nobody_wait_for_longer() -> None:
    """How long a place is kept says when to come again; the time of a restart does not."""

    async def go() -> httpx.Response:
        process = MortalProcess(takes=300)
        async with supervised(Mortal(process=process)) as engine:
            app = door(engine, Settings(max_inflight=1, max_queue=1))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
                ask = partial(client.post, PATH["path"], json=ASK | {"timeout": 550}, timeout=600)
                for waits in (False, True):
                    async with asyncio.TaskGroup() as group:
                        if waits:
                            process.die(KILLED)
                            await asyncio.sleep(1)
                        asking = group.create_task(ask())
                        if not waits:
                            await asyncio.sleep(0.1)
                            process.die(KILLED)
                    assert asking.result().status_code == 200
                async with asyncio.TaskGroup() as group:
                    for _ in range(2):
                        group.create_task(ask())
                    await asyncio.sleep(0.05)
                    return await ask()

    late = in_virtual_time(go())
    refused(late, 429, "server_busy")
    assert int(late.headers["retry-after"]) <= 5


def test_a_request_over_which_the_engine_dies_twice_is_refused() -> None:
    async def go() -> tuple[httpx.Response, Mortal]:
        mortal = Mortal(poison=lambda transcript: transcript.hidden > 9)
        async with supervised(mortal) as engine:
            transport = httpx.ASGITransport(door(engine))
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                return await client.post(PATH["path"], json=ASK), mortal

    response, mortal = in_virtual_time(go())
    assert refused(response, 400, "request_quarantined")
    assert mortal.process.lives == 3


def test_a_server_goes_down_while_its_engine_is_being_started() -> None:
    process = MortalProcess(takes=10_000)

    async def go() -> float:
        async with supervised(Mortal(process=process)):
            process.die(KILLED)
            await asyncio.sleep(5)
        return asyncio.get_running_loop().time()

    assert in_virtual_time(go()) < 6
