"""`Idempotency-Key`: the same key and body runs once and is billed once, whoever asks again, when and where."""

from __future__ import annotations

import asyncio
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from ponder.compute.account import Intent
from ponder.compute.errors import TooBusy
from ponder.compute.lengths import Lengths
from ponder.metering.database import database
from ponder.metering.tables import idempotency
from ponder.server.app import create_app
from ponder.server.auth import keys
from ponder.server.registry import ServedModel
from ponder.server.settings import IdempotencySettings, KeySettings, ModelSettings, Settings, WrongSettings
from ponder.testing import MARKER, Chain, ScriptedEngine, always
from tests.metering.ledgers import execute
from tests.server.ledgered import Ledgered, ledgered
from tests.server.resent import KEY, Held, Keyed, kept, soon, turns
from tests.server.serving import CHAIN, PATH, Line, asked, chat, door, its_door, refused, scripted
from tests.server.toy_dialect import Toy

SECRET = "s" * 32


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


def idempotent(**more: Any) -> Settings:
    return Settings(idempotency=IdempotencySettings(**more))


def one(on: Ledgered) -> dict[str, Any]:
    """The only row of the ledger."""
    (row,) = on.rows.values()
    return row


# -- the answer that is kept ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_key_and_body_run_once_and_get_the_same_answer_over_a_restart(stream: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        more: dict[str, Any] = {"stream": stream, "thinking_budget": 99, "unknown_field": 1}
        async with ledgered(engine, sqlite) as on:
            first = await on.chat(KEY, **more)
            again = await on.chat(KEY, **more)
        async with ledgered(engine, sqlite) as on:
            later = await on.chat(KEY, **dict(reversed(more.items())))
            row = one(on)
            assert (await on.get(f"/v1/usage/{later.headers['x-request-id']}")).json()["id"] == row["id"]
        assert first.status_code == 200
        assert "idempotent-replayed" not in first.headers
        for other in (again, later):
            assert (other.status_code, other.content) == (200, first.content)
            assert other.headers["idempotent-replayed"] == "true"
            own = {"idempotent-replayed": "true"}
            assert dict(other.headers) == dict(first.headers) | own
        assert (engine.calls, row["id"]) == (1, first.headers["x-request-id"])
        assert row["thinking"] + row["answer"] == engine.produced

    asyncio.run(go())


def test_another_body_under_a_key_is_422_and_runs_not(sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, sqlite) as on:
            await on.chat(KEY)
            message = refused(await on.chat(KEY, temperature=0.5), 422, "idempotency_key_reused", "Idempotency-Key")
            assert "key of its own" in message
            assert (await on.chat(KEY | {"x-request-timeout": "77"})).headers["idempotent-replayed"] == "true"
            assert engine.calls == len(on.rows) == 1

    asyncio.run(go())


def test_bodies_are_compared_as_json_and_by_their_route(sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, sqlite) as on:
            headers = KEY | {"content-type": "application/json"}

            async def sent(body: str, path: str = PATH["path"]) -> httpx.Response:
                return await asked(on.app, "POST", path, content=body, headers=headers)

            said = '"messages": [{"role": "user", "content": "h\\u0069"}]'
            first = await sent(f'{{"model": "demo", "temperature": 1, {said}}}')
            plain = said.replace("h\\u0069", "hi")
            again = await sent(f'{{{plain},"temperature":1.0, "model": "demo"}}')
            assert first.content == again.content
            refused(await sent(f'{{"model": "demo", "temperature": true, {said}}}'))
            refused(await sent(f'{{"model": "demo", "temperature": 1.5, {said}}}'), 422)
            assert engine.calls == 1

    asyncio.run(go())


BETA = {"anthropic-version": "2023-06-01", "anthropic-beta": "interleaved-thinking-2025-05-14"}
ASKED = {"contents": [{"parts": [{"text": "hi"}]}]}
SAID = {"model": "demo", "max_tokens": 99, "messages": [{"role": "user", "content": "hi"}]}
STREAM = "/v1beta/models/demo:streamGenerateContent"
BARE: dict[str, str] = {}


@pytest.mark.parametrize(
    ("body", "first", "same", "other"),
    [
        (ASKED, (f"{STREAM}?alt=sse", BARE), (f"{STREAM}?%24alt=sse&x=1", BARE), (STREAM, BARE)),
        (ASKED, (STREAM, BARE), (f"{STREAM}?alt=json", BARE), (f"{STREAM}?alt=sse", BARE)),
        (
            SAID,
            ("/v1/messages", BETA),
            ("/v1/messages?beta=true", BETA | {"anthropic-beta": f"another, {BETA['anthropic-beta']}"}),
            ("/v1/messages", BETA | {"anthropic-beta": "another"}),
        ),
    ],
)
def test_what_stands_beside_a_body_and_changes_the_answer_makes_another_request(
    body: dict[str, Any],
    first: tuple[str, dict[str, str]],
    same: tuple[str, dict[str, str]],
    other: tuple[str, dict[str, str]],
    sqlite: str,
) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, sqlite) as on:
            answers = [
                await asked(on.app, "POST", path, json=body, headers=KEY | headers)
                for path, headers in (first, same, other)
            ]
            assert [one.status_code for one in answers] == [200, 200, 422], answers[-1].text
            assert answers[1].content == answers[0].content
            assert answers[1].headers["idempotent-replayed"] == "true"
            assert engine.calls == len(on.rows) == 1

    asyncio.run(go())


def test_callers_do_not_meet_in_a_key(sqlite: str) -> None:
    async def go() -> None:
        made = [keys.make() for _ in range(2)]
        settings = Settings(keys=[KeySettings(name=f"k{i}", hash=hash) for i, (_, hash) in enumerate(made)])
        engine = scripted()
        async with ledgered(engine, sqlite, settings) as on:
            answers = [await on.chat(KEY | {"authorization": f"Bearer {key}"}) for key, _ in made]
            assert {answer.headers["x-request-id"] for answer in answers} == on.rows.keys()
            assert engine.calls == 2

    asyncio.run(go())


def test_a_dialect_of_another_package_keeps_its_own_bytes(sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, sqlite) as on:
            served = {"demo": ServedModel(engine, Lengths(20, 40), ModelSettings(path="scripted"))}
            app = create_app(Settings(), served, ledger=on.ledger, dialects=[Toy()])
            for live in (False, True):
                body = {"brain": "demo", "talk": ["hi"], "live": live}
                header = {"Idempotency-Key": f'"quoted {live}"'}
                first, again = [await asked(app, "POST", "/toy/ask", json=body, headers=header) for _ in range(2)]
                assert first.content == again.content != b""
                assert again.headers["content-type"] == first.headers["content-type"]
                assert (again.headers["x-toy"], again.headers["idempotent-replayed"]) == ("yes", "true")
            assert engine.calls == 2

    asyncio.run(go())


def sealed(folder: Path) -> None:
    """Nothing that was said can be read in the files of the ledger."""
    secret = folder / "ledger.db.key"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    everything = b"".join(file.read_bytes() for file in folder.glob("ledger.db*") if file != secret)
    for word in (b"It is 7", b"What is 3", b"order-1", MARKER.encode(), b"chat.completion"):
        assert word not in everything


def test_what_is_kept_is_sealed_and_bound(sqlite: str, tmp_path: Path) -> None:
    async def go() -> None:
        async with ledgered(scripted(), sqlite) as on:
            await on.chat(KEY, user="u-1")
            await on.chat(KEY | {"idempotency-key": "order-2"}, user="u-1", seed=1)
            sealed(tmp_path)
            one, two = kept(sqlite)
            # An answer that was put under another key opens no more.
            engine = database(sqlite).engine(long=True)
            with engine.begin() as connection:
                connection.execute(
                    idempotency.update().where(idempotency.c.id == one["id"]).values(answer=two["answer"])
                )
            engine.dispose()
            asks = {"user": "u-1"} | ({} if one["request"] == next(iter(on.rows)) else {"seed": 1})
            name = "order-1" if "seed" not in asks else "order-2"
            refused(await on.chat({"idempotency-key": name}, **asks), 409, "idempotency_completed")

    asyncio.run(go())


def test_a_server_with_another_secret_tells_that_it_was_answered(sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, sqlite, idempotent(secret=SECRET)) as on:
            await on.chat(KEY)
        async with ledgered(engine, sqlite, idempotent(secret="t" * 40)) as on:
            response = await on.chat(KEY)
            assert on.rows.keys() <= {word.strip(",") for word in refused(response, 409).split()}
            assert response.headers["x-should-retry"] == "false"
        async with ledgered(engine, sqlite, idempotent(secret=SECRET)) as on:
            assert (await on.chat(KEY)).headers["idempotent-replayed"] == "true"
            assert engine.calls == 1

    asyncio.run(go())


@pytest.mark.parametrize("setting", [{"retention_seconds": 0}, {"answer_bytes": 64}])
@pytest.mark.parametrize("stream", [False, True])
def test_where_no_answer_is_kept_a_duplicate_is_told_so_and_not_billed(
    setting: dict[str, int], stream: bool, sqlite: str
) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, sqlite, idempotent(**setting)) as on:
            first = await on.chat(KEY, stream=stream)
            assert first.status_code == 200
            assert len(first.content) > 64
            again = await on.chat(KEY, stream=stream)
            refused(again, 409, "idempotency_completed", "Idempotency-Key")
            assert again.headers["x-should-retry"] == "false"
            assert first.headers["x-request-id"] in again.text
            refused(await on.chat(KEY, stream=stream, seed=3), 422)
            assert [row["answer"] for row in kept(sqlite)] == [None]
            assert engine.calls == len(on.rows) == 1

    asyncio.run(go())


def test_an_answer_goes_after_its_time_and_the_key_after_a_day(sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, sqlite) as on:
            await on.chat(KEY)
            execute(sqlite, "UPDATE idempotency SET answer_until_ms = 1")
            refused(await on.chat(KEY), 409, "idempotency_completed")
            on.ledger._writer._sweep()  # pyright: ignore[reportPrivateUsage]
            assert [row["answer"] for row in kept(sqlite)] == [None]
            execute(sqlite, "UPDATE idempotency SET until_ms = 1")
            on.ledger._writer._sweep()  # pyright: ignore[reportPrivateUsage]
            assert not kept(sqlite)
            assert (await on.chat(KEY)).status_code == 200
            assert engine.calls == 2

    asyncio.run(go())


# -- while it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_duplicates_in_flight_wait_for_the_first_and_get_its_answer(stream: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = Held(at=len(CHAIN.thought) + 3)
        async with ledgered(engine, sqlite) as on, asyncio.TaskGroup() as group:
            lines = [Keyed(stream=stream) for _ in range(5)]
            for line in lines:
                group.create_task(line.call(on.app))
            await engine.held.wait()
            late, other = Keyed(stream=stream), Keyed(stream=stream, seed=1)
            group.create_task(late.call(on.app))
            await other.call(on.app)
            assert (other.status, other.code) == (422, "idempotency_key_reused")
            if stream:
                # Those who wait for a stream see what there is of it.
                await soon(lambda: all(b'"content": "I' in line.text for line in (*lines, late)))
            engine.on.set()
        async with ledgered(engine, sqlite) as on:
            assert {line.text for line in lines} == {late.text} == {(await on.chat(KEY, stream=stream)).content}
            replayed = Counter(line.headers.get("idempotent-replayed") for line in (*lines, late))
            assert replayed == {None: 1, "true": 5}
            assert {line.headers["x-request-id"] for line in (*lines, late)} == {one(on)["id"]}
            assert all(not line.sent[-1].get("more_body") for line in lines)
        assert engine.calls == 1

    asyncio.run(go())


def test_who_waits_longer_than_its_time_is_told_to_ask_again(sqlite: str) -> None:
    async def go() -> None:
        engine = Held()
        async with ledgered(engine, sqlite) as on, asyncio.TaskGroup() as group:
            first = Keyed()
            group.create_task(first.call(on.app))
            await engine.held.wait()
            late = await on.chat(KEY | {"x-request-timeout": "0.01"})
            refused(late, 409, "idempotency_in_flight")
            assert late.headers["retry-after"] == "1"
            assert "x-should-retry" not in late.headers
            engine.on.set()
        assert first.status == 200

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_goes_on_for_who_asks_again_when_its_caller_has_hung_up(stream: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = Held()
        async with ledgered(engine, sqlite) as on, asyncio.TaskGroup() as group:
            first, second, third = (Keyed(stream=stream) for _ in range(3))
            running = group.create_task(first.call(on.app))
            await engine.held.wait()
            waiting = group.create_task(second.call(on.app))
            first.gone.set()
            await turns()
            # Then nobody waits for a while, and then somebody does.
            second.gone.set()
            await waiting
            group.create_task(third.call(on.app))
            await turns()
            engine.on.set()
            await running
            assert third.status == 200
            assert (await on.chat(KEY, stream=stream)).content == third.text
            row = one(on)
            assert (row["outcome"], row["thinking"] + row["answer"]) == ("answered", engine.produced)
        assert (engine.calls, engine.running) == (1, 0)

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_that_nobody_waits_for_is_ended_and_its_key_is_used_up(stream: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = Held()
        async with ledgered(engine, sqlite, idempotent(linger_seconds=0.02)) as on:
            first = Keyed(stream=stream)
            async with asyncio.TaskGroup() as group:
                group.create_task(first.call(on.app))
                await engine.held.wait()
                first.gone.set()
            assert engine.running == 0
            row = one(on)
            assert (row["outcome"], row["thinking"] + row["answer"]) == ("disconnected", engine.produced)
            engine.on.set()
            again = await on.chat(KEY, stream=stream)
            assert row["id"] in refused(again, 409, "idempotency_lost")
            assert again.headers["x-should-retry"] == "false"
            assert engine.calls == len(on.rows) == 1

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_drains_finishes_what_its_caller_has_left_for_who_comes_back(stream: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = Held()
        async with ledgered(engine, sqlite) as on, asyncio.TaskGroup() as group:
            first = Keyed(stream=stream)
            group.create_task(first.call(on.app))
            await engine.held.wait()
            first.gone.set()
            drain = group.create_task(its_door(on.app).drain())
            await turns()
            assert not drain.done()
            engine.on.set()
        async with ledgered(engine, sqlite) as on:
            again = await on.chat(KEY, stream=stream)
            assert (again.status_code, again.headers["x-request-id"]) == (200, one(on)["id"])
        assert engine.calls == 1

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_server_that_ends_at_once_has_told_stands(stream: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = Held()
        async with ledgered(engine, sqlite) as on:
            first, second = Keyed(stream=stream), Keyed(stream=stream)
            running = asyncio.create_task(first.call(on.app))
            await engine.held.wait()
            waiting = asyncio.create_task(second.call(on.app))
            await turns()
            running.cancel()
            await asyncio.wait([running, waiting])
            assert b"draining" in first.text
            assert engine.running == 0
        async with ledgered(engine, sqlite) as on:
            again = await on.chat(KEY, stream=stream)
            assert again.headers["x-request-id"] == one(on)["id"]
            assert (again.status_code, again.content) == (first.status, first.text)
        assert engine.calls == 1

    asyncio.run(go())


def test_a_slow_reader_holds_up_nobody_else(sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, sqlite) as on, asyncio.TaskGroup() as group:
            first, second = Keyed(stream=True), Keyed(stream=True)
            first.blocked.clear()
            slow = group.create_task(first.call(on.app))
            await second.call(on.app)
            assert b"[DONE]" in second.text
            assert not slow.done()
            first.blocked.set()
        assert first.text == second.text
        assert engine.calls == 1

    asyncio.run(go())


@pytest.mark.parametrize("slow", [False, True])
def test_an_answer_too_large_to_be_kept_is_held_no_longer_than_its_readers_need(slow: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = ScriptedEngine(always(Chain("so", "word " * 2000)))
        async with ledgered(engine, sqlite, idempotent(answer_bytes=5000), answer_tokens=20_000) as on:
            first, other = Keyed(stream=True), Keyed(stream=True)
            async with asyncio.TaskGroup() as group:
                if slow:
                    first.blocked.clear()
                group.create_task(first.call(on.app))
                if slow:
                    group.create_task(other.call(on.app))
                    await soon(lambda: engine.produced > 100)
                    await turns(2000)
                    # The model waits for the reader, as without a key.
                    assert engine.produced < 2000
                    first.blocked.set()
            assert first.text.count(b"data: ") > 5000
            assert first.text.endswith(b"data: [DONE]\n\n")
            assert not slow or other.text == first.text
            refused(await on.chat(KEY, stream=True), 409, "idempotency_completed")

    asyncio.run(go())


# -- what leaves the key free, and what does not ----------------------------------------------------------------------


@dataclass
class Refuses:
    """An account that takes nothing, until it does."""

    refuses: bool = True
    waits: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody waits for what it says."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """It says what it thinks."""

    def __post_init__(self) -> None:
        self.asked.set()

    async def reserve(self, intent: Intent) -> Any:
        refuses = self.refuses
        self.waits.set()
        await self.asked.wait()
        if refuses:
            raise TooBusy("no", code="rate_limit_exceeded")
        return Nothing()


class Nothing:
    used = None

    async def settle(self, usage: Any, ending: str) -> None:
        pass


def test_what_is_refused_before_it_begins_leaves_the_key_free(sqlite: str) -> None:
    async def go() -> None:
        engine, account = scripted(), Refuses()
        async with ledgered(engine, sqlite, accounts=[account]) as on:
            refused(await on.chat(KEY), 429)
            assert not kept(sqlite)
            refused(await on.chat(KEY, model="nobody"), 404)
            refused(await on.chat(KEY, temperature=-1), 400)
            engine.gone = True
            account.refuses = False
            response = await on.chat(KEY)
            engine.gone = False
            # It had read the prompt, so it is billed.
            refused(response, 503, "engine_lost")
            assert response.headers["x-should-retry"] == "false"
            assert (await on.chat(KEY)).content == response.content

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_who_waited_for_one_that_was_refused_runs_itself(stream: bool, sqlite: str) -> None:
    async def go() -> None:
        engine, account = scripted(), Refuses()
        async with ledgered(engine, sqlite, accounts=[account]) as on, asyncio.TaskGroup() as group:
            account.asked.clear()
            lines = [Keyed(stream=stream) for _ in range(3)]
            for line in lines:
                group.create_task(line.call(on.app))
            await account.waits.wait()
            account.asked.set()
            account.refuses = False
        assert sorted(line.status for line in lines) == [200, 200, 429]
        assert len(on.rows) == engine.calls == 1

    asyncio.run(go())


def test_who_waited_for_one_that_found_no_place_runs_itself(sqlite: str) -> None:
    async def go() -> None:
        engine = Held()
        async with ledgered(engine, sqlite, Settings(max_inflight=1)) as on, asyncio.TaskGroup() as group:
            blocks, first, second = Line(), Keyed(timeout="0.3"), Keyed()
            group.create_task(blocks.call(on.app))
            await engine.held.wait()
            running = group.create_task(first.call(on.app))
            await soon(lambda: its_door(on.app).admission.queued == 1)
            waiting = group.create_task(second.call(on.app))
            await running
            assert (first.status, first.code) == (429, "server_busy")
            engine.on.set()
            await waiting
            assert second.status == 200
            assert engine.calls == 2

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("engine", "status", "code"),
    [
        (lambda: scripted(fail_at=0), 500, "engine_error"),
        (lambda: scripted(vanish_at={0: 20}), 503, "engine_lost"),
        (lambda: scripted(delay=0.05), 504, "deadline_passed"),
    ],
)
def test_a_failure_that_was_billed_is_kept_and_told_again(
    engine: Callable[[], ScriptedEngine], status: int, code: str, stream: bool, sqlite: str
) -> None:
    async def go() -> None:
        made = engine()
        more: dict[str, Any] = {"timeout": 0.5} if status == 504 else {}
        async with ledgered(made, sqlite) as on:
            first = await on.chat(KEY, stream=stream, **more)
            calls = made.calls
            again = await on.chat(KEY, stream=stream, **more)
            assert first.status_code == (200 if stream else status)
            assert code in first.text
            assert (again.status_code, again.content) == (first.status_code, first.content)
            if not stream:
                for response in (first, again):
                    assert response.headers["x-should-retry"] == "false"
                    assert ("retry-after" in response.headers) == (status == 503 and response is first)
            assert made.calls == calls
            assert one(on)["cost_nano_usd"] > 0

    asyncio.run(go())


# -- where no ledger is, or it is away --------------------------------------------------------------------------------


def test_without_a_ledger_a_key_is_refused_by_name() -> None:
    engine = scripted()
    message = refused(chat(door(engine), KEY), 400, "idempotency_unavailable", "Idempotency-Key")
    assert "[ledger] url" in message
    assert engine.calls == 0


def test_nothing_runs_under_a_key_that_cannot_be_looked_up(sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, sqlite) as on:
            execute(sqlite, "ALTER TABLE idempotency RENAME TO elsewhere")
            response = await on.chat(KEY)
            refused(response, 503, "ledger_unavailable")
            assert int(response.headers["retry-after"]) > 0
            assert (await on.chat()).status_code == 200
            execute(sqlite, "ALTER TABLE elsewhere RENAME TO idempotency")
            assert (await on.chat(KEY)).status_code == 200
            assert engine.calls == 2

    asyncio.run(go())


def test_an_answer_that_cannot_be_written_goes_out_and_is_written_when_the_database_is_back(sqlite: str) -> None:
    async def go() -> None:
        engine = Held()
        async with ledgered(engine, sqlite) as on, asyncio.TaskGroup() as group:
            first = Keyed()
            group.create_task(first.call(on.app))
            await engine.held.wait()
            execute(sqlite, "ALTER TABLE idempotency RENAME TO elsewhere")
            engine.on.set()
            await soon(lambda: bool(first.text))
            # Known here meanwhile.
            assert (await on.chat(KEY)).content == first.text
            execute(sqlite, "ALTER TABLE elsewhere RENAME TO idempotency")
        async with ledgered(engine, sqlite) as on:
            assert (await on.chat(KEY)).content == first.text
        assert engine.calls == 1

    asyncio.run(go())


# -- the header -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["", " ", '""', '" "', "a b", "a,b", '"a', 'a"', "a\\b", '"a";p=1', "k" * 256, '"' + "k" * 256 + '"', "schlüssel"],
)
def test_a_header_that_cannot_be_a_key_is_400(value: str, sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, sqlite) as on:
            headers = [("idempotency-key", value.encode("latin-1"))]
            refused(await on.chat(headers), 400, "invalid_idempotency_key", "Idempotency-Key")
            assert engine.calls == 0

    asyncio.run(go())


def test_a_key_that_is_there_twice_is_400_and_quotes_are_no_part_of_one(sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, sqlite) as on:
            twice = [("idempotency-key", "a"), ("idempotency-key", "a")]
            assert "twice" in refused(await on.chat(twice), 400, "invalid_idempotency_key")
            for value in ("8e03978e-40d5-43dd-bc93-6894a57f9324", '"8e03978e-40d5-43dd-bc93-6894a57f9324"'):
                assert (await on.chat({"Idempotency-Key": value})).status_code == 200
            assert engine.calls == 1
            assert (await on.chat({"Idempotency-Key": "k" * 255})).status_code == 200

    asyncio.run(go())


def test_a_secret_that_is_none_stops_the_start(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("abc\n")
    for file in (short, tmp_path / "nowhere"):
        with pytest.raises(WrongSettings, match="secret_file"):
            door(scripted(), Settings(idempotency=IdempotencySettings(secret_file=file)))


def test_a_request_without_a_key_is_answered_as_ever(sqlite: str, tmp_path: Path) -> None:
    async def go() -> None:
        async with ledgered(scripted(), sqlite) as on:
            assert (await on.chat()).status_code == 200
            assert not kept(sqlite)

    asyncio.run(go())
    assert not (tmp_path / "ledger.db.key").exists()
