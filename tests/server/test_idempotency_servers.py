"""`Idempotency-Key` on several servers that share a ledger, behind one that was killed, and OpenAI's own client."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from openai.types.chat import ChatCompletion

from ponder.compute.clock import now
from ponder.compute.errors import Lost, NotNow, TooBusy, Unavailable
from ponder.metering.idempotency import Claim
from ponder.server import errors
from ponder.server.answers import Usage
from ponder.server.dialects.openai_chat.dialect import OpenAIChat
from ponder.server.http.outbox import SlowReader
from ponder.server.idempotency.run import Live
from ponder.server.settings import IdempotencySettings, Settings
from ponder.testing import Chain, ScriptedEngine, in_virtual_time
from tests.server.ledgered import ledgered
from tests.server.resent import KEY, Held, Keyed, kept, soon
from tests.server.serving import ASK, door, refused, scripted, serving

SECRET = "s" * 32
SETTINGS = Settings(idempotency=IdempotencySettings(secret=SECRET))  # type: ignore[arg-type]


# -- several servers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_duplicate_on_another_server_waits_and_gets_the_answer(stream: bool, address: str) -> None:
    async def go() -> None:
        one, two = Held(), scripted()
        async with (
            ledgered(one, address, SETTINGS) as first,
            ledgered(two, address, SETTINGS) as second,
            asyncio.TaskGroup() as group,
        ):
            began, again, here = Keyed(stream=stream), Keyed(stream=stream), Keyed(stream=stream)
            group.create_task(began.call(first.app))
            await one.held.wait()
            refused(await second.chat(KEY, stream=stream, seed=1), 422, "idempotency_key_reused")
            late = await second.chat(KEY | {"x-request-timeout": "0.3"}, stream=stream)
            refused(late, 409, "idempotency_in_flight")
            # The caller goes, and who waits elsewhere gets the answer.
            began.gone.set()
            waiting = [group.create_task(line.call(second.app)) for line in (again, here)]
            await soon(lambda: kept(address)[0]["wanted"] > 0)
            assert not any(task.done() for task in waiting)
            one.on.set()
        assert again.status == 200
        assert again.text == here.text
        assert again.headers["idempotent-replayed"] == "true"
        (row,) = first.rows.values()
        assert again.headers["x-request-id"] == row["id"]
        assert (one.calls, two.calls, row["outcome"]) == (1, 0, "answered")

    asyncio.run(go())


def test_whoever_waits_on_another_server_runs_it_where_the_first_was_refused(address: str) -> None:
    class RefusesLater:
        def __init__(self) -> None:
            self.asked, self.on = asyncio.Event(), asyncio.Event()

        async def reserve(self, intent: Any) -> Any:
            self.asked.set()
            await self.on.wait()
            raise TooBusy("no", code="rate_limit_exceeded")

    async def go() -> None:
        account, engine = RefusesLater(), scripted()
        async with (
            ledgered(scripted(), address, SETTINGS, accounts=[account]) as first,
            ledgered(engine, address, SETTINGS) as second,
            asyncio.TaskGroup() as group,
        ):
            began, again = Keyed(), Keyed()
            group.create_task(began.call(first.app))
            await account.asked.wait()
            group.create_task(again.call(second.app))
            await soon(lambda: kept(address)[0]["wanted"] > 0)
            account.on.set()
        assert (began.status, again.status, engine.calls) == (429, 200, 1)
        assert again.headers["x-request-id"] in second.rows

    asyncio.run(go())


def test_behind_a_server_that_was_killed_nothing_billed_runs_again(address: str) -> None:
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-m", "tests.server.killed_keys", address, SECRET]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()

    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, address, SETTINGS) as on:

            async def again(key: str) -> Any:
                return await on.chat({"idempotency-key": key}, user=key)

            whose = {row["user"]: row for row in on.rows.values()}
            assert whose.keys() == {"answered", "middle"}
            answered = await again("answered")
            assert (answered.status_code, answered.headers["x-request-id"]) == (200, whose["answered"]["id"])
            assert whose["middle"]["thinking"] > 0
            for _ in range(2):
                lost = await again("middle")
                assert whose["middle"]["id"] in refused(lost, 409, "idempotency_lost")
                assert lost.headers["x-should-retry"] == "false"
            assert engine.calls == 0
            # Of this one the server had the key, and no row in the ledger.
            before = await again("before")
            assert (before.status_code, "idempotent-replayed" in before.headers) == (200, False)
            assert (await again("before")).content == before.content
            assert (engine.calls, len(on.rows)) == (1, 3)

    asyncio.run(go())


def test_servers_of_one_machine_have_one_secret(address: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, address) as first, ledgered(engine, address) as second:
            answers = [await on.chat(KEY) for on in (first, second, first)]
            assert len({answer.content for answer in answers}) == 1
            assert engine.calls == 1

    asyncio.run(go())


# -- how long a run goes on -------------------------------------------------------------------------------------------


def live() -> Live:
    return Live(Claim("id", "req_1", "alice", "secret", b"body"), 1 << 20)


@pytest.mark.parametrize(("wanted", "until"), [(0, 30.0), (3, 120.0)])
def test_a_run_goes_on_while_somebody_waits_on_another_server(wanted: int, until: float) -> None:
    """`wanted` grows so often, between two looks each time."""
    looks = 0

    async def number() -> int:
        nonlocal looks
        looks += 1
        return min(looks // 2, wanted)

    async def go() -> float:
        began, run = now(), live()
        await run.linger(30, number)
        assert run.gone.is_set()
        assert (await run.receive())["type"] == "http.disconnect"
        return now() - began

    assert in_virtual_time(go()) == pytest.approx(until)


def test_where_nobody_can_say_nobody_waits() -> None:
    async def number() -> int:
        raise Unavailable("away", code="ledger_unavailable")

    async def go() -> None:
        run = live()
        await run.linger(30, number)
        assert run.gone.is_set()

    in_virtual_time(go())


def test_a_run_goes_on_while_somebody_waits_here_and_a_while_longer() -> None:
    async def number() -> int:
        return 0

    async def go() -> None:
        run, line = live(), Keyed()
        await line.receive()
        async with asyncio.TaskGroup() as group:
            group.create_task(run.linger(30, number))
            given = group.create_task(run.give(line.receive, line.send, first=True, until=now() + 1, patience=9))
            await asyncio.sleep(1000)
            assert not run.gone.is_set()
            line.gone.set()
            assert await given
            await asyncio.sleep(29)
            assert not run.gone.is_set()
            await asyncio.sleep(2)
            assert run.gone.is_set()

    in_virtual_time(go())


def test_a_reader_that_takes_nothing_is_given_up() -> None:
    async def go() -> None:
        run, line = live(), Keyed(stream=True)
        await line.receive()
        line.blocked.clear()
        run.start({"type": "http.response.start", "status": 200})
        with pytest.raises(SlowReader):
            await run.give(line.receive, line.send, first=True, until=now() + 1, patience=9)

    in_virtual_time(go())


# -- OpenAI's own client ----------------------------------------------------------------------------------------------


def slow() -> ScriptedEngine:
    return scripted(Chain("t" * 1000, "a" * 50), delay=0.6)


@pytest.mark.parametrize(
    ("engine", "error", "more"),
    [
        (lambda: scripted(fail_at=0), openai.InternalServerError, {}),
        (lambda: scripted(vanish_at={0: 1}), openai.InternalServerError, {}),
        # The prompt was read.
        (lambda: scripted(vanish_at={0: 0}), openai.InternalServerError, {}),
        (slow, openai.InternalServerError, {"timeout": 0.5}),
    ],
)
def test_openais_client_does_not_ask_again_where_tokens_were_spent(
    engine: Callable[[], ScriptedEngine], error: type[openai.APIStatusError], more: dict[str, Any]
) -> None:
    made = engine()
    with serving(door(made)) as place, openai.OpenAI(base_url=f"{place.url}/v1", api_key="none") as client:
        assert client.max_retries == 2
        with pytest.raises(error) as raised:
            asks(client, **more)
        assert raised.value.response.headers["x-should-retry"] == "false"
        assert raised.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert len({identity.request for identity in made.identities}) == 1


@pytest.mark.parametrize("kind", errors.STATUS)
def test_no_error_that_cost_anything_is_worth_another_try_of_a_client(kind: type[Any]) -> None:
    error = kind("no", code="no") if issubclass(kind, NotNow) else kind("no")
    spent = Usage(prompt=1, cached=0, generated=0, hidden=0)
    assert not errors.failure(error, "req_1", spent).again
    again = errors.failure(error, "req_1").again
    assert again == (kind not in (errors.TooSlow, errors.AlreadyRun, errors.Unreadable))
    for usage in (None, spent):
        response = errors.response(error, "req_1", OpenAIChat().error, usage)
        assert response.headers.get("x-should-retry") == (None if again and usage is None else "false")
        assert ("retry-after" in response.headers) == isinstance(error, NotNow | Lost)


class Refuses:
    """An account that takes nothing; it is asked by each try."""

    def __init__(self) -> None:
        self.asked = 0

    async def reserve(self, intent: Any) -> Any:
        self.asked += 1
        raise TooBusy("no", code="rate_limit_exceeded")


def test_openais_client_asks_again_where_nothing_was_spent() -> None:
    engine, account = scripted(), Refuses()
    app = door(engine, accounts=[account])
    with serving(app) as place, openai.OpenAI(base_url=f"{place.url}/v1", api_key="none", max_retries=1) as client:
        with pytest.raises(openai.RateLimitError) as raised:
            asks(client)
        assert "x-should-retry" not in raised.value.response.headers
    assert (account.asked, engine.calls) == (2, 0)


def test_openais_client_that_loses_patience_finds_its_run_when_it_asks_again(tmp_path: Path) -> None:
    async def go() -> None:
        engine, tries = Held(), 0
        async with ledgered(engine, f"sqlite:///{tmp_path}/ledger.db", SETTINGS) as on:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                nonlocal tries
                tries += scope["type"] == "http"
                if tries == 2:
                    engine.on.set()
                await on.app(scope, receive, send)

            with socket.create_server(("127.0.0.1", 0)) as listening:
                server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
                url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
                async with (
                    asyncio.TaskGroup() as group,
                    openai.AsyncOpenAI(base_url=url, api_key="none", timeout=1, max_retries=5) as client,
                ):
                    group.create_task(server.serve([listening]))
                    await soon(lambda: server.started)
                    create: Any = client.chat.completions.with_raw_response.create
                    response = await create(**ASK, extra_headers=KEY)
                    server.should_exit = True
            (row,) = on.rows.values()
        assert (response.request_id, row["outcome"]) == (row["id"], "answered")
        assert response.headers["idempotent-replayed"] == "true"
        assert tries > engine.calls == 1

    asyncio.run(go())


@pytest.mark.parametrize("retention", [86400, 0])
def test_openais_client_with_a_key_is_given_one_answer_and_does_not_ask_in_vain(retention: int, tmp_path: Path) -> None:
    async def go() -> None:
        engine = scripted()
        settings = Settings(idempotency=IdempotencySettings(retention_seconds=retention))
        async with ledgered(engine, f"sqlite:///{tmp_path}/ledger.db", settings) as on:
            http: Any = httpx.AsyncClient(transport=httpx.ASGITransport(on.app))
            client = openai.AsyncOpenAI(base_url="http://door/v1", api_key="none", http_client=http)

            async def asked(**more: Any) -> tuple[str, ChatCompletion]:
                create: Any = client.chat.completions.with_raw_response.create
                response = await create(**ASK, extra_headers=KEY, **more)
                return response.request_id, response.parse()

            first = await asked()
            with pytest.raises(openai.UnprocessableEntityError) as other:
                await asked(seed=1)
            refusals: list[openai.APIStatusError] = [other.value]
            if retention:
                assert await asked() == first
                assert first[0] in on.rows
            else:
                with pytest.raises(openai.ConflictError) as conflict:
                    await asked()
                refusals.append(conflict.value)
            assert all(one.response.request.headers["x-stainless-retry-count"] == "0" for one in refusals)
            await client.close()
        assert engine.calls == 1

    asyncio.run(go())


def asks(client: openai.OpenAI, **more: Any) -> ChatCompletion:
    return client.chat.completions.create(**ASK, extra_body=more)  # type: ignore[call-overload]
