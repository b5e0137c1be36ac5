"""Responses that run behind their callers: polled, streamed, gone on with, cancelled, on any server of a ledger."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.types import Receive, Scope, Send

from ponder.compute.account import Account
from ponder.compute.errors import TooBusy
from ponder.compute.usage import Usage
from ponder.metering.ledger import Ledger
from ponder.metering.responses import Opening, ResponseStore
from ponder.server.dialect import Keeping
from ponder.server.idempotency.seal import Sealing
from ponder.server.kept.background import BackgroundRun
from ponder.server.kept.responses import KeptResponses
from ponder.server.respond import HungUp
from ponder.server.settings import IdempotencySettings, ResponseSettings, Settings
from ponder.testing import Chain
from tests.metering.ledgers import a_ledger, execute, intent
from tests.metering.test_responses import kept
from tests.server.keeping import Reader, Server, events_of, keeping, numbers, text_of
from tests.server.resent import KEY, Held, soon, turns
from tests.server.serving import CHAIN, its_door, refused, scripted

SHARED = Settings(idempotency=IdempotencySettings(secret="s" * 32))  # type: ignore[arg-type]
AFTER_THOUGHT = len(CHAIN.thought) + 3
"""Tokens after which there is some text."""


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


def only(on: Server) -> dict[str, Any]:
    """The only row of the ledger."""
    (row,) = on.rows.values()
    return row


async def status(on: Server, id: str) -> str:
    return (await on.response(id))["status"]


def test_one_is_polled_to_its_end_and_billed_once(sqlite: str) -> None:
    async def go() -> None:
        engine = Held()
        async with keeping(engine, sqlite) as on:
            told = await on.create(background=True, unknown_field=1)
            id = told.json()["id"]
            assert (told.json()["status"], told.headers["x-ignored-parameters"]) == ("queued", "unknown_field")
            assert told.headers["content-type"] == "application/json"
            await engine.held.wait()
            while await status(on, id) != "in_progress":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert (await on.response(id))["output"] == []
            engine.on.set()
            await on.ended()
            response = await on.response(id)
            assert (response["status"], text_of(response)) == ("completed", "It is 7.")
            row = only(on)
            assert (row["outcome"], row["thinking"] + row["answer"]) == ("answered", engine.produced)
            assert row["id"] == told.headers["x-request-id"] == kept(sqlite)[id]["request"]
            # It may be gone on with, like any other.
            second = await on.created(previous_response_id=id)
            assert [message.content for message in engine.prompts[-1].messages][1] == "It is 7."
            assert await status(on, second["id"]) == "completed"
            # Cancelling what is over gives it as it is.
            assert (await on.cancel(id)).json() == response
            refused(await on.cancel(second["id"]), 400, "not_in_background")

    asyncio.run(go())


@pytest.mark.parametrize("streamed", [False, True])
def test_its_stream_can_be_gone_on_with_from_any_event_without_gap_or_repeat(streamed: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = Held(at=AFTER_THOUGHT)
        async with keeping(engine, sqlite) as on, asyncio.TaskGroup() as group:
            first = Reader("POST", background=True, stream=streamed)
            asks = group.create_task(first.call(on.app))
            await engine.held.wait()
            await soon(lambda: first.text.endswith(b"\n\n" if streamed else b"}"))
            if streamed:
                await soon(lambda: len(first.events) > 2)
            (id,) = kept(sqlite)
            live = Reader(path=f"/v1/responses/{id}", query="stream=true&starting_after=1")
            reads = group.create_task(live.call(on.app))
            await soon(lambda: bool(live.events))
            # Whoever asked goes, and nothing ends.
            first.gone.set()
            await asks
            engine.on.set()
            await reads
            await on.ended()
            whole = events_of((await on.one(id, params={"stream": "true"})).text)
            assert numbers(whole) == list(range(len(whole)))
            assert whole[-1]["response"] == await on.response(id, params={"include": []}) | {
                "output": whole[-1]["response"]["output"]
            }
            assert live.events == whole[2:]
            if streamed:
                assert first.events == whole[: len(first.events)]
            for after in (0, 3, len(whole) - 2, len(whole) - 1, len(whole) + 5):
                told = await on.one(id, params={"stream": "true", "starting_after": str(after)})
                assert told.headers["content-type"].startswith("text/event-stream")
                assert events_of(told.text) == whole[after + 1 :]
        assert engine.calls == 1

    asyncio.run(go())


def test_only_what_ran_in_the_background_has_a_stream(sqlite: str) -> None:
    async def go() -> None:
        async with keeping(scripted(), sqlite) as on:
            id = (await on.created())["id"]
            refused(await on.one(id, params={"stream": "true"}), 400, "not_streamable", "stream")
            for params in ({"stream": "yes"}, {"starting_after": "1"}, {"stream": "true", "starting_after": "-1"}):
                refused(await on.one(id, params=params), 400, None, list(params)[-1])

    asyncio.run(go())


def test_what_cannot_go_together_is_refused(sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with keeping(engine, sqlite) as on:
            refused(await on.create(background=True, store=False), 400, "conflicting_parameters", "background")
            refused(await on.create(background=True, model="other"), 404)
            assert not kept(sqlite)
        assert engine.calls == 0

    asyncio.run(go())


@pytest.mark.parametrize("streamed", [False, True])
def test_cancelling_stops_the_chains_and_says_cancelled(streamed: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = Held(at=AFTER_THOUGHT)
        async with keeping(engine, sqlite) as on, asyncio.TaskGroup() as group:
            first = Reader("POST", background=True, stream=streamed)
            asks = group.create_task(first.call(on.app))
            await engine.held.wait()
            await soon(lambda: bool(kept(sqlite)))
            (id,) = kept(sqlite)
            told = await on.cancel(id)
            assert (told.status_code, told.json()["status"], told.json()["id"]) == (200, "cancelled", id)
            assert engine.running == 0
            await asks
            assert await status(on, id) == "cancelled"
            assert (await on.cancel(id)).json() == told.json()
            await on.ended()
            row = only(on)
            assert (row["outcome"], row["thinking"] + row["answer"]) == ("cancelled", engine.produced)
            whole = events_of((await on.one(id, params={"stream": "true"})).text)
            assert numbers(whole) == list(range(len(whole)))
            assert (whole[-1]["type"], whole[-1]["response"]["status"]) == ("response.incomplete", "cancelled")
            if streamed:
                assert first.events == whole

    asyncio.run(go())


def test_one_that_is_deleted_ends_and_leaves_nothing(sqlite: str) -> None:
    async def go() -> None:
        engine = Held(at=AFTER_THOUGHT)
        async with keeping(engine, sqlite) as on, asyncio.TaskGroup() as group:
            id = (await on.created(background=True))["id"]
            await engine.held.wait()
            reader = Reader(path=f"/v1/responses/{id}", query="stream=true")
            reads = group.create_task(reader.call(on.app))
            await soon(lambda: bool(reader.events))
            assert (await on.delete(id)).status_code == 200
            assert engine.running == 0
            await reads
            await on.ended()
            refused(await on.one(id), 404, "response_not_found")
            assert not kept(sqlite)
            assert only(on)["outcome"] == "cancelled"

    asyncio.run(go())


# -- several servers --------------------------------------------------------------------------------------------------


def test_another_server_reads_streams_and_cancels_it(address: str) -> None:
    async def go() -> None:
        engine = Held(at=AFTER_THOUGHT)
        async with (
            keeping(engine, address, SHARED) as first,
            keeping(scripted(), address, SHARED) as second,
            asyncio.TaskGroup() as group,
        ):
            id = (await first.created(background=True))["id"]
            await engine.held.wait()
            other = Reader(path=f"/v1/responses/{id}", query="stream=true")
            reads = group.create_task(other.call(second.app))
            await soon(lambda: len(other.events) > 1)
            assert await status(second, id) in ("queued", "in_progress")
            engine.on.set()
            await reads
            here = await first.one(id, params={"stream": "true"})
            assert other.events == events_of(here.text)
            assert await second.response(id) == await first.response(id)
            assert text_of(await second.response(id)) == "It is 7."
            engine.on.clear()
            engine.held.clear()
            engine.at = engine.produced + AFTER_THOUGHT
            id = (await first.created(background=True))["id"]
            await engine.held.wait()
            told = await second.cancel(id)
            assert told.json()["status"] == "cancelled"
            await first.ended()
            assert engine.running == 0
            assert await status(first, id) == "cancelled"
            events = [events_of((await on.one(id, params={"stream": "true"})).text) for on in (first, second)]
            assert events[0] == events[1]
            assert await second.delete(id)

    asyncio.run(go())


def test_one_whose_server_is_taken_for_dead_has_failed_and_stops(address: str) -> None:
    async def go() -> None:
        engine = Held(at=AFTER_THOUGHT)
        async with keeping(engine, address, SHARED) as first, keeping(scripted(), address, SHARED) as second:
            id = (await first.created(background=True))["id"]
            await engine.held.wait()
            me = first.ledger.process.id
            execute(address, "UPDATE servers SET ended_ms = 1, epoch = epoch + 1 WHERE id = :id", id=me)
            response = await second.response(id)
            assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
            assert await second.response(id) == response
            await first.ended()
            assert engine.running == 0
            engine.on.set()
            whole = events_of((await second.one(id, params={"stream": "true"})).text)
            assert numbers(whole) == list(range(len(whole)))
            assert (whole[-1]["type"], whole[-1]["response"]) == ("response.failed", response)
            assert await first.response(id) == response

    asyncio.run(go())


# -- ends that nobody wants -------------------------------------------------------------------------------------------


def test_a_drain_finishes_it_and_what_waits_has_failed(sqlite: str) -> None:
    async def go() -> None:
        engine = Held(at=AFTER_THOUGHT)
        async with keeping(engine, sqlite, Settings(max_inflight=1)) as on, asyncio.TaskGroup() as group:
            id = (await on.created(background=True))["id"]
            await engine.held.wait()
            waits = (await on.created(background=True))["id"]
            drain = group.create_task(its_door(on.app).drain())
            await soon(lambda: its_door(on.app).admission.draining)
            refused(await on.create(background=True), 503, "draining")
            engine.on.set()
            await drain
            assert {one: row["status"] for one, row in kept(sqlite).items()} == {id: "completed", waits: "failed"}
            assert (await on.response(waits))["error"]["code"] == "server_error"
        async with keeping(engine, sqlite) as on:
            assert text_of(await on.response(id)) == "It is 7."

    asyncio.run(go())


def test_one_that_is_cut_off_by_the_end_of_its_server_says_failed(sqlite: str) -> None:
    async def go() -> None:
        engine = Held(at=AFTER_THOUGHT)
        settings = Settings(drain_timeout=0.1)
        async with keeping(engine, sqlite, settings) as on:
            id = (await on.created(background=True))["id"]
            await engine.held.wait()
            await its_door(on.app).kept.close(2)
            assert engine.running == 0
        async with keeping(scripted(), sqlite) as on:
            response = await on.response(id)
            assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
            whole = events_of((await on.one(id, params={"stream": "true"})).text)
            assert numbers(whole) == list(range(len(whole)))
            assert whole[-1]["response"]["status"] == "failed"
            assert only(on)["outcome"] == "cancelled"

    asyncio.run(go())


def test_one_whose_time_is_over_answers_with_its_best(sqlite: str) -> None:
    async def go() -> None:
        engine = scripted(Chain("t" * 500, "a" * 50), delay=0.01)
        async with keeping(engine, sqlite) as on:
            id = (await on.created(background=True, timeout=2.0))["id"]
            await on.ended()
            response = await on.response(id)
            assert response["status"] in ("incomplete", "completed")
            assert engine.running == 0

    asyncio.run(go())


def test_one_that_the_model_fails_says_failed(sqlite: str) -> None:
    async def go() -> None:
        async with keeping(scripted(fail_at=0), sqlite) as on:
            id = (await on.created(background=True))["id"]
            await on.ended()
            response = await on.response(id)
            assert (response["status"], response["error"]["code"]) == ("failed", "server_error")

    asyncio.run(go())


def test_one_that_grows_too_large_fails_and_stops(sqlite: str) -> None:
    async def go() -> None:
        engine = scripted(Chain("so", "word " * 2000))
        settings = Settings(responses=ResponseSettings(response_bytes=4096))
        async with keeping(engine, sqlite, settings) as on:
            id = (await on.created(background=True))["id"]
            await on.ended()
            response = await on.response(id)
            assert (response["status"], "4096" in response["error"]["message"]) == ("failed", True)
            whole = events_of((await on.one(id, params={"stream": "true"})).text)
            assert numbers(whole) == list(range(len(whole)))
            assert whole[-1]["response"] == response
            assert engine.produced < 2000
            refused(await on.create(background=True, input="x" * 5000), 400, "response_too_large", "background")
            await on.ended()
            assert len(kept(sqlite)) == 1

    asyncio.run(go())


class Refuses:
    """An account that takes nothing."""

    async def reserve(self, intent: Any) -> Any:
        raise TooBusy("no", code="rate_limit_exceeded")


def test_one_that_is_refused_is_refused_at_once_and_not_kept(sqlite: str) -> None:
    async def go() -> None:
        async with keeping(scripted(), sqlite, accounts=[Refuses()]) as on:
            for stream in (False, True):
                refused(await on.create(background=True, stream=stream), 429, "rate_limit_exceeded")
            assert not kept(sqlite)
        engine = Held()
        async with keeping(engine, sqlite, Settings(max_inflight=1, max_queue=0)) as on:
            await on.created(background=True)
            refused(await on.create(background=True), 429, "server_busy")
            assert len(kept(sqlite)) == 1
            engine.on.set()

    asyncio.run(go())


def test_those_that_wait_for_their_turn_are_queued(sqlite: str) -> None:
    async def go() -> None:
        engine = Held()
        async with keeping(engine, sqlite, Settings(max_inflight=1)) as on:
            first = (await on.created(background=True))["id"]
            second = (await on.created(background=True))["id"]
            while await status(on, first) != "in_progress":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert await status(on, second) == "queued"
            assert (await on.cancel(second)).json()["status"] == "cancelled"
            engine.on.set()
            await on.ended()
            assert (await status(on, first), await status(on, second)) == ("completed", "cancelled")
            assert engine.calls == 1

    asyncio.run(go())


@dataclass(eq=False)
class Slow(ResponseStore):
    """Writes down no event before it is told to."""

    ledger: Ledger
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    on: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        super().__init__(self.ledger)

    async def append(
        self, id: str, content: bytes | None, number: int, count: int, events: bytes, seconds: float
    ) -> bool:
        self.asked.set()
        await self.on.wait()
        return await super().append(id, content, number, count, events, seconds)


class Endless:
    """A request that has begun its stream, and goes on until it is withdrawn."""

    waits = False

    def __init__(self, account: Account) -> None:
        self._account = account

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        bill = await self._account.reserve(intent("req_1"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"event: a\ndata: {}\n\n", "more_body": True})
        with suppress(HungUp):
            await receive()
        await bill.settle(Usage(), "disconnected")


def test_one_whose_caller_goes_while_its_first_event_is_written_leaves_nothing(sqlite: str) -> None:
    async def go() -> None:
        async with a_ledger(sqlite) as ledger:
            store = Slow(ledger)
            kept_here = KeptResponses(ResponseSettings(), store, Sealing(SHARED.idempotency, None))
            keeping = Keeping(
                "resp_1", None, True, None, [], lambda items, named: pytest.fail("it goes on with nothing")
            )
            endless: Any = Endless
            opening = Opening("resp_1", "req_1", "alice", None, "secret", 3600)
            run = BackgroundRun(kept_here, keeping, opening, await kept_here.seal(), endless, ledger, 0)
            kept_here.begin("resp_1", run, run.go({"type": "http"}))
            await store.asked.wait()
            run.withdraw()
            store.on.set()
            while not run.over:
                await run.news()
            assert not kept(sqlite)

    asyncio.run(go())


# -- the database -----------------------------------------------------------------------------------------------------


def test_nothing_is_begun_without_a_row_and_what_runs_is_written_when_the_database_is_back(sqlite: str) -> None:
    async def go() -> None:
        engine = Held(at=AFTER_THOUGHT)
        async with keeping(engine, sqlite) as on, asyncio.TaskGroup() as group:
            id = (await on.created(background=True))["id"]
            await engine.held.wait()
            reader = Reader(path=f"/v1/responses/{id}", query="stream=true")
            reads = group.create_task(reader.call(on.app))
            await soon(lambda: bool(reader.events))
            execute(sqlite, "ALTER TABLE responses RENAME TO elsewhere")
            refused(await on.create(background=True), 503, "ledger_unavailable")
            assert engine.calls == 1
            engine.on.set()
            await soon(lambda: engine.running == 0)
            execute(sqlite, "ALTER TABLE elsewhere RENAME TO responses")
            await on.ended()
            await reads
            assert await status(on, id) == "completed"
            assert reader.events == events_of((await on.one(id, params={"stream": "true"})).text)

    asyncio.run(go())


def test_nobody_is_sent_an_event_that_is_not_written_down(sqlite: str) -> None:
    async def go() -> None:
        engine = Held(at=AFTER_THOUGHT)
        async with keeping(engine, sqlite) as on, asyncio.TaskGroup() as group:
            first = Reader("POST", background=True, stream=True)
            group.create_task(first.call(on.app))
            await engine.held.wait()
            await soon(lambda: len(first.events) > 2)
            had = len(first.events)
            execute(sqlite, "ALTER TABLE response_events RENAME TO elsewhere")
            engine.on.set()
            await soon(lambda: engine.running == 0)
            await turns(100)
            assert len(first.events) == had
            execute(sqlite, "ALTER TABLE elsewhere RENAME TO response_events")
        assert numbers(first.events) == list(range(len(first.events)))

    asyncio.run(go())


# -- Idempotency-Key --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_the_same_key_and_body_run_once_in_the_background(streamed: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = Held(at=AFTER_THOUGHT)
        async with keeping(engine, sqlite) as on, asyncio.TaskGroup() as group:
            body = {"background": True, "stream": streamed}
            asks = [group.create_task(on.create(KEY, **body)) for _ in range(3)]
            await engine.held.wait()
            if not streamed:
                for one in asks:
                    await one
            engine.on.set()
            await on.ended()
            told = [await one for one in (*asks, group.create_task(on.create(KEY, **body)))]
            assert len({one.content for one in told}) == 1
            assert sum("idempotent-replayed" in one.headers for one in told) == 3
            (id,) = kept(sqlite)
            assert await status(on, id) == "completed"
            if not streamed:
                assert json.loads(told[0].content)["id"] == id
            assert (engine.calls, len(on.rows)) == (1, 1)

    asyncio.run(go())


def test_openai_s_client_polls_streams_lists_cancels_and_deletes(sqlite: str) -> None:
    async def go() -> None:
        engine = Held(at=AFTER_THOUGHT)
        async with keeping(engine, sqlite) as on:
            http: Any = httpx.AsyncClient(transport=httpx.ASGITransport(on.app))
            async with openai.AsyncOpenAI(base_url="http://door/v1", api_key="none", http_client=http) as client:
                first = await client.responses.create(model="demo", input="What is 3 + 4?", background=True)
                assert first.status == "queued"
                await engine.held.wait()
                other = await client.responses.create(model="demo", input="And 4 + 4?", background=True)
                other = await client.responses.cancel(other.id)
                assert other.status == "cancelled"
                engine.on.set()
                await on.ended()
                found = await client.responses.retrieve(first.id)
                assert (found.status, found.output_text) == ("completed", "It is 7.")
                stream = await client.responses.retrieve(first.id, stream=True)
                events = [event async for event in stream]
                stream = await client.responses.retrieve(first.id, stream=True, starting_after=4)
                assert [event async for event in stream] == events[5:]
                assert events[-1].type == "response.completed"
                second = await client.responses.create(model="demo", input="Why?", previous_response_id=first.id)
                items = [item async for item in client.responses.input_items.list(second.id, limit=1, order="asc")]
                assert [item.type for item in items] == ["message", "reasoning", "message", "message"]
                await client.responses.delete(first.id)
                with pytest.raises(openai.NotFoundError):
                    await client.responses.retrieve(first.id)
                with pytest.raises(openai.BadRequestError):
                    await client.responses.create(model="demo", input="Why?", previous_response_id=first.id)
                with pytest.raises(openai.BadRequestError):
                    await client.responses.cancel(second.id)

    asyncio.run(go())
