"""Responses that are kept: asked for again, gone on with, listed, deleted; for their own API key, and sealed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent

from ponder.compute.text import Image, Message, ToolCall
from ponder.metering.database import database
from ponder.metering.tables import response_events, responses
from ponder.server.auth import keys
from ponder.server.dialect import Reading
from ponder.server.kept.answer import said
from ponder.server.request import Request
from ponder.server.settings import IdempotencySettings, KeySettings, ResponseSettings, Settings
from ponder.testing import MARKER, ScriptedEngine, always
from tests.metering.ledgers import execute
from tests.metering.test_responses import kept
from tests.server.keeping import app_of, events_of, keeping, text_of
from tests.server.resent import KEY, Held, soon
from tests.server.sdk_types import strange
from tests.server.serving import CHAIN, asked, its_door, refused, scripted
from tests.server.test_description import answer_of, fits
from tests.server.test_loop_thoughts import READS

SECRETS = [keys.make() for _ in range(2)]
TWO_KEYS = Settings(keys=[KeySettings(name=f"k{i}", hash=hash) for i, (_, hash) in enumerate(SECRETS)])
BEARERS = [{"authorization": f"Bearer {key}"} for key, _ in SECRETS]


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


def sent(engine: Any) -> list[str]:
    """The texts of the conversation that a model was asked to go on with last."""
    return [message.content for message in engine.prompts[-1].messages]


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_found_again_over_a_restart_unless_it_was_not_to_be_kept(stream: bool, sqlite: str) -> None:
    async def go() -> None:
        async with keeping(scripted(), sqlite) as on:
            told = await on.create(stream=stream)
            response = events_of(told.text)[-1]["response"] if stream else told.json()
            other = await on.create(stream=stream, store=False)
            gone = events_of(other.text)[-1]["response"] if stream else other.json()
        async with keeping(scripted(), sqlite) as on:
            assert await on.response(response["id"]) == response
            refused(await on.one(gone["id"]), 404, "response_not_found", "id")
            assert (await on.delete(response["id"])).json() == {
                "id": response["id"],
                "object": "response",
                "deleted": True,
            }
            for asks in (on.one, on.delete, on.cancel):
                refused(await asks(response["id"]), 404, "response_not_found")
        assert not kept(sqlite)

    asyncio.run(go())


def test_a_conversation_is_gone_on_with(sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with keeping(engine, sqlite) as on:
            first = await on.created(input="one")
            second = await on.created(input="two", previous_response_id=first["id"])
            third = await on.created(input="three", previous_response_id=second["id"], store=False)
            assert sent(engine) == ["one", "It is 7.", "two", "It is 7.", "three"]
            # Each has all it was made from.
            await on.delete(first["id"])
            await on.created(input="four", previous_response_id=second["id"])
            assert sent(engine)[:3] == ["one", "It is 7.", "two"]
            for id in (first["id"], third["id"], "resp_none"):
                told = await on.create(previous_response_id=id)
                refused(told, 400, "previous_response_not_found", "previous_response_id")

    asyncio.run(go())


def test_a_conversation_that_grows_beyond_the_bounds_of_a_request_is_refused(sqlite: str) -> None:
    async def go() -> None:
        settings = Settings()
        limits = settings.limits.model_copy(update={"messages": 3})
        async with keeping(scripted(), sqlite, settings.model_copy(update={"limits": limits})) as on:
            first = await on.created()
            second = await on.created(previous_response_id=first["id"])
            refused(await on.create(previous_response_id=second["id"]), 400)

    asyncio.run(go())


def test_what_is_kept_cannot_be_named_until_it_is_more_than_a_request_may_bring(sqlite: str) -> None:
    async def go() -> None:
        settings = Settings(responses=ResponseSettings(response_bytes=1 << 14))
        limits = settings.limits.model_copy(update={"body_bytes": 1 << 14})
        engine = scripted(replace(CHAIN, answer="7" * 2000))
        async with keeping(engine, sqlite, settings.model_copy(update={"limits": limits})) as on:
            first = await on.created()
            said = {"type": "item_reference", "id": first["output"][-1]["id"]}
            asks = {"role": "user", "content": "Why?"}
            assert (await on.create(input=[*[said] * 10, asks])).status_code == 200
            refused(await on.create(input=[*[said] * 40, asks]), 413, "conversation_too_large", "input")
            assert len(engine.prompts) == 2

    asyncio.run(go())


def test_what_another_key_keeps_is_not_there(sqlite: str) -> None:
    async def go() -> None:
        async with keeping(scripted(), sqlite, TWO_KEYS) as on:
            id = (await on.create(BEARERS[0])).json()["id"]
            for path in ("", "/input_items"):
                assert (await on.one(id, path, headers=BEARERS[0])).status_code == 200
                refused(await on.one(id, path, headers=BEARERS[1]), 404, "response_not_found")
                refused(await on.one(id, path), 401)
            refused(await on.cancel(id, headers=BEARERS[1]), 404, "response_not_found")
            refused(await on.delete(id, headers=BEARERS[1]), 404, "response_not_found")
            told = await on.create(BEARERS[1], previous_response_id=id)
            refused(told, 400, "previous_response_not_found", "previous_response_id")
            assert (await on.delete(id, headers=BEARERS[0])).status_code == 200

    asyncio.run(go())


def test_input_items_come_in_pages(sqlite: str) -> None:
    async def go() -> None:
        async with keeping(scripted(), sqlite) as on:
            id = None
            for number in range(4):
                id = (await on.created(input=f"in {number}", previous_response_id=id))["id"]
            assert id is not None

            async def page(**params: Any) -> dict[str, Any]:
                return (await on.one(id, "/input_items", params=params)).json()

            oldest = await page(order="asc", limit=100)
            items = oldest["data"]
            # Three messages of the user with the answers to them, each behind a thought, and the last message.
            said = [item["content"][0]["text"] for item in items if item["type"] == "message"]
            assert said[::2] == [f"in {number}" for number in range(4)]
            assert len(items) == 10
            assert (oldest["object"], oldest["has_more"]) == ("list", False)
            assert (oldest["first_id"], oldest["last_id"]) == (items[0]["id"], items[-1]["id"])
            assert (await page())["data"] == items[::-1]
            found, after = list[Any](), {}
            while True:
                some = await page(limit=3, **after)
                found += some["data"]
                if not some["has_more"]:
                    break
                after = {"after": some["last_id"]}
            assert found == items[::-1]
            before = await page(order="asc", limit=2, before=items[5]["id"])
            assert (before["data"], before["has_more"]) == (items[3:5], True)
            between = await page(order="asc", after=items[2]["id"], before=items[5]["id"])
            assert (between["data"], between["has_more"]) == (items[3:5], False)
            assert (await page(after=items[0]["id"]))["data"] == []
            for wrong in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"order": "up"}, {"after": "no"}):
                refused(await on.one(id, "/input_items", params=wrong), 400, None, next(iter(wrong)))

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_thoughts_are_kept_sealed_and_go_on_with_the_conversation(stream: bool, background: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = ScriptedEngine(always(CHAIN), replace(READS, keeps_thoughts=True))
        async with keeping(engine, sqlite) as on:
            await on.create(stream=stream, background=background)
            await on.ended()
            (id,) = kept(sqlite)
            second = await on.created(previous_response_id=id)
            (thought,) = [message.thought for message in engine.prompts[-1].messages if message.thought]
            assert thought.unseal() == CHAIN.thought
            # Who kept it is not given it without asking.
            plain: dict[str, Any] = {"id": id.replace("resp", "rs", 1), "type": "reasoning", "summary": []}
            assert (await on.response(id))["output"][0] == plain
            wanted = {"include[]": "reasoning.encrypted_content"}
            told = (await on.response(id, params=wanted))["output"][0]
            assert {name: value for name, value in told.items() if name != "encrypted_content"} == plain
            items = (await on.one(second["id"], "/input_items", params=wanted)).json()["data"]
            assert told in items
            assert plain in (await on.one(second["id"], "/input_items")).json()["data"]
            refused(await on.one(id, params={"include": "everything"}), 400, None, "include")
            # It is the thought itself, for this key and this model.
            turn = [{"role": "user", "content": "hi"}, told, {"role": "assistant", "content": "It is 7."}]
            await on.created(input=turn)
            (thought,) = [message.thought for message in engine.prompts[-1].messages if message.thought]
            assert thought.unseal() == CHAIN.thought

    asyncio.run(go())


def test_a_conversation_goes_on_with_another_model_without_its_thoughts(sqlite: str) -> None:
    async def go() -> None:
        engine = ScriptedEngine(always(CHAIN), replace(READS, keeps_thoughts=True))
        async with keeping(engine, sqlite) as on:
            first = await on.created()
            first = await on.created(previous_response_id=first["id"])
            assert [message.thought for message in engine.prompts[-1].messages if message.thought]
            await on.created(previous_response_id=first["id"], model="demo:best_of_n")
            assert not [message.thought for message in engine.prompts[-1].messages if message.thought]
            assert sent(engine)[1] == "It is 7."

    asyncio.run(go())


def test_a_thought_that_was_shown_is_not_kept(sqlite: str) -> None:
    async def go() -> None:
        (_, hash), (key, shows) = SECRETS
        scopes = frozenset({"infer", "reveal"})
        settings = Settings(keys=[KeySettings(name="k", hash=shows, scopes=scopes), KeySettings(name="o", hash=hash)])  # type: ignore[arg-type]
        async with keeping(scripted(), sqlite, settings) as on:
            bearer = {"authorization": f"Bearer {key}"}
            told = await on.create(bearer, include_reasoning=True)
            assert MARKER in told.text
            assert MARKER not in (await on.one(told.json()["id"], headers=bearer)).text
            told = await on.create(bearer, include_reasoning=True, background=True)
            refused(told, 400, "conflicting_parameters", "include_reasoning")

    asyncio.run(go())


def typed(told: Any, kind: Any, *more: str) -> Any:
    """What OpenAI's SDK has types for is as those have it."""
    assert strange(told, kind, extension=frozenset(more)) is None, told
    return told


def test_what_is_given_again_is_as_described(sqlite: str) -> None:
    async def go() -> None:
        async with keeping(scripted(), sqlite) as on:
            document = (await on.get("/openapi.json")).json()
            first = await on.created(background=True)
            await on.ended()
            page = "/v1/responses/{id}"

            def as_described(told: Any, path: str = page, method: str = "get", media: str = "application/json") -> None:
                fits(told, answer_of(document, path, method)[media]["schema"], document)

            as_described(await on.response(first["id"]))
            as_described(first, "/v1/responses", "post")
            for event in events_of((await on.one(first["id"], params={"stream": "true"})).text):
                as_described(event, media="text/event-stream")
            as_described((await on.one(first["id"], "/input_items")).json(), page + "/input_items")
            as_described((await on.cancel(first["id"])).json(), page + "/cancel", "post")
            as_described((await on.delete(first["id"])).json(), page, "delete")

    asyncio.run(go())


@pytest.mark.parametrize("background", [False, True])
def test_what_is_given_again_is_as_openai_s_types_have_it(background: bool, sqlite: str) -> None:
    async def go() -> None:
        async with keeping(scripted(), sqlite) as on:
            call = {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": "{}"}
            items: list[Any] = [
                {"role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
                {"role": "user", "content": "What is 3 + 4?"},
                {"type": "reasoning", "id": "rs_mine", "summary": []},
                {"role": "assistant", "content": "Let me add."},
                call,
                {"type": "function_call_output", "call_id": "call_1", "output": "7"},
            ]
            first = await on.created(input=items, background=background)
            typed(first, Response, "thinking")
            await on.ended()
            typed(await on.response(first["id"]), Response, "thinking")
            second = await on.created(previous_response_id=first["id"], input="And 4 + 4?", background=background)
            page = (await on.one(second["id"], "/input_items", params={"order": "asc"})).json()
            typed(page, ResponseItemList)
            assert [item["type"] for item in page["data"]] == [
                "message",
                "message",
                "reasoning",
                "message",
                "function_call",
                "function_call_output",
                "reasoning",
                "message",
                "message",
            ]
            assert page["data"][2]["id"] == "rs_mine"
            typed(
                (await on.one(second["id"], "/input_items", params={"after": page["first_id"]})).json(),
                ResponseItemList,
            )
            await on.ended()
            if background:
                for event in events_of((await on.one(first["id"], params={"stream": "true"})).text):
                    if "response" in event:
                        event["response"].pop("thinking", None)
                    typed(event, ResponseStreamEvent)

    asyncio.run(go())


def test_what_is_sealed_beside_the_event_loop_is_told_by_all_that_is_kept() -> None:
    long = "x" * (1 << 16)
    image = Image("image/png", long.encode(), "", "input.0.content.0.image_url")
    for message in (
        Message("user", long),
        Message("user", "?", images=((0, image),)),
        Message("assistant", "", tool_calls=(ToolCall("call_1", "add", long),)),
        Message("assistant", "", sealed=long),
    ):
        reading = Reading(Request("demo", (message,)), lambda _: pytest.fail("it is not answered"), {})
        assert said(reading) >= 1 << 16


def unreadable(folder: Path) -> None:
    secret = folder / "ledger.db.key"
    everything = b"".join(file.read_bytes() for file in folder.glob("ledger.db*") if file != secret)
    for word in (b"It is 7", b"What is 3", b"output_text", MARKER.encode(), b"sealed"):
        assert word not in everything


def test_nothing_that_was_said_can_be_read_in_the_ledger_s_files(sqlite: str, tmp_path: Path) -> None:
    async def go() -> None:
        async with keeping(scripted(), sqlite) as on:
            await on.created(user="u-1")
            await on.created(background=True)
            await on.ended()
            unreadable(tmp_path)

    asyncio.run(go())


def test_no_thought_is_in_anything_that_is_kept_or_told(sqlite: str, caplog: pytest.LogCaptureFixture) -> None:
    """Opened with the secret, as the server would."""

    async def go() -> None:
        async with keeping(scripted(), sqlite) as on:
            store = its_door(on.app).kept
            bodies: list[dict[str, Any]] = [{}, {"background": True}, {"stream": True}]
            for body in (*bodies, bodies[1] | bodies[2]):
                await on.create(**body)
            await on.ended()
            assert len(kept(sqlite)) == 4
            for id, row in kept(sqlite).items():
                found, content = await store.find(id, "anyone")
                assert MARKER not in content.dumped().decode()
                events = await store.events(found, 0) if row["pieces"] else []
                assert bool(events) == found.background
                assert MARKER not in b"".join(events).decode()
                for path in ("", "/input_items"):
                    assert MARKER not in (await on.one(id, path)).text
        assert MARKER not in caplog.text

    asyncio.run(go())


@pytest.mark.parametrize("what", ["content", "pieces", "other", "status", "lost"])
def test_rows_that_were_altered_are_told_as_such_and_not_given(what: str, sqlite: str) -> None:
    async def go() -> None:
        async with keeping(scripted(), sqlite) as on:
            ids = [(await on.created(background=True))["id"] for _ in range(2)]
            await on.ended()
            rows = kept(sqlite)
            engine = database(sqlite).engine(long=True)
            own, of_stream = responses.c.id == ids[0], response_events.c.response == ids[0]
            with engine.begin() as connection:
                if what == "pieces":
                    piece = bytearray(rows[ids[0]]["pieces"][0])
                    piece[40] ^= 1
                    connection.execute(response_events.update().where(of_stream).values(content=bytes(piece)))
                elif what == "lost":
                    connection.execute(response_events.delete().where(of_stream))
                elif what == "status":
                    connection.execute(responses.update().where(own).values(status="cancelled"))
                else:
                    content = bytearray(rows[ids[what == "other"]]["content"])
                    content[40] ^= what == "content"
                    connection.execute(responses.update().where(own).values(content=bytes(content)))
            engine.dispose()
            stream = what in ("pieces", "lost")
            if not stream:
                told = await on.one(ids[0])
                refused(told, 500, "response_altered")
                assert told.headers["x-should-retry"] == "false"
                told = await on.create(previous_response_id=ids[0])
                refused(told, 500, "response_altered")
            else:
                with pytest.raises(Exception):  # noqa: B017, PT011 (the connection is broken off)
                    await on.one(ids[0], params={"stream": "true"})
            assert (await on.response(ids[1]))["status"] == "completed"

    asyncio.run(go())


def test_a_server_with_another_secret_says_so(sqlite: str) -> None:
    async def go() -> None:
        async with keeping(scripted(), sqlite) as on:
            id = (await on.created())["id"]
        other = Settings(idempotency=IdempotencySettings(secret="t" * 40))  # type: ignore[arg-type]
        async with keeping(scripted(), sqlite, other) as on:
            assert "secret" in refused(await on.one(id), 500, "response_unreadable")

    asyncio.run(go())


def test_a_response_is_forgotten_when_its_time_is_over(sqlite: str) -> None:
    async def go() -> None:
        settings = Settings(responses=ResponseSettings(retention_days=2))
        async with keeping(scripted(), sqlite, settings) as on:
            id = (await on.created())["id"]
            row = kept(sqlite)[id]
            assert row["until_ms"] - row["begun_ms"] == 2 * 86_400_000
            execute(sqlite, "UPDATE responses SET until_ms = 1")
            refused(await on.one(id), 404, "response_not_found")
            on.ledger._writer._sweep()  # pyright: ignore[reportPrivateUsage]
            assert not kept(sqlite)

    asyncio.run(go())


@pytest.mark.parametrize("background", [False, True])
def test_a_key_with_too_many_loses_its_oldest_and_never_a_request(background: bool, sqlite: str) -> None:
    async def go() -> None:
        settings = TWO_KEYS.model_copy(update={"responses": ResponseSettings(most_per_key=2)})
        async with keeping(scripted(), sqlite, settings) as on:
            theirs = (await on.created(headers=BEARERS[1]))["id"]
            ids: list[str] = []
            for number in range(4):
                made = await on.created(headers=BEARERS[0], background=background)
                ids.append(made["id"])
                await soon(lambda id=made["id"]: kept(sqlite)[id]["status"] == "completed")
                execute(sqlite, f"UPDATE responses SET begun_ms = {number} WHERE id = '{made['id']}'")
            await soon(lambda: kept(sqlite).keys() == {theirs, *ids[2:]})
            refused(await on.one(ids[0], headers=BEARERS[0]), 404, "response_not_found")
            assert (await on.one(ids[3], headers=BEARERS[0])).status_code == 200

    asyncio.run(go())


def test_one_that_is_too_large_is_answered_and_not_kept(sqlite: str) -> None:
    async def go() -> None:
        settings = Settings(responses=ResponseSettings(response_bytes=8192))
        async with keeping(scripted(), sqlite, settings) as on:
            small = await on.created()
            large = await on.created(input="x" * 9000)
            assert text_of(small) == text_of(large)
            assert kept(sqlite).keys() == {small["id"]}

    asyncio.run(go())


WISHES = [{"store": True}, {"background": True}, {"previous_response_id": "resp_1"}]


@pytest.mark.parametrize("off", ["no ledger", "no retention"])
def test_where_nothing_is_kept_what_wants_it_is_refused_by_name(off: str, sqlite: str) -> None:
    async def go() -> None:
        settings = Settings(responses=ResponseSettings(retention_days=0))
        async with keeping(scripted(), sqlite, settings) as on:
            app = on.app if off == "no retention" else app_of(scripted())
            for wish in WISHES:
                told = await asked(app, "POST", "/v1/responses", json={"model": "demo", "input": "hi"} | wish)
                refused(told, 400, "responses_not_kept", next(iter(wish)))
            for wish in ({}, {"store": False}):
                told = await asked(app, "POST", "/v1/responses", json={"model": "demo", "input": "hi"} | wish)
                assert told.status_code == 200
            refused(await asked(app, "GET", "/v1/responses/resp_1"), 404, "responses_not_kept")
        assert not kept(sqlite)

    asyncio.run(go())


def test_the_same_key_and_body_are_kept_once(sqlite: str) -> None:
    async def go() -> None:
        async with keeping(scripted(), sqlite) as on:
            first, again = await on.create(KEY), await on.create(KEY)
            assert first.content == again.content
            assert kept(sqlite).keys() == {first.json()["id"]}

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_one_whose_caller_has_gone_or_that_came_to_nothing_is_not_kept(stream: bool, sqlite: str) -> None:
    async def go() -> None:
        async with keeping(scripted(fail_at=0), sqlite) as on:
            told = await on.create(stream=stream)
            if stream:
                # What a stream has told stands.
                assert [row["status"] for row in kept(sqlite).values()] == ["failed"]
                assert (await on.response(events_of(told.text)[-1]["response"]["id"]))["status"] == "failed"
            else:
                assert told.status_code == 500
                assert not kept(sqlite)

    asyncio.run(go())


def test_an_answer_goes_out_where_the_database_is_away_and_is_kept_when_it_is_back(sqlite: str) -> None:
    async def go() -> None:
        engine = Held()
        async with keeping(engine, sqlite) as on, asyncio.TaskGroup() as group:
            asks = group.create_task(on.created())
            await engine.held.wait()
            execute(sqlite, "ALTER TABLE responses RENAME TO elsewhere")
            engine.on.set()
            id = (await asks)["id"]
            execute(sqlite, "ALTER TABLE elsewhere RENAME TO responses")
            await soon(lambda: id in kept(sqlite))
            assert (await on.response(id))["status"] == "completed"

    asyncio.run(go())
