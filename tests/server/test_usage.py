"""What was used and what it cost, asked for over HTTP: by group, by request, and as OpenAI's SDK asks."""

from __future__ import annotations

import asyncio
import csv
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import StringIO
from typing import Any

import pytest
from openai.types.admin.organization import UsageCompletionsResponse, UsageCostsResponse
from sqlalchemy import text

from ponder.metering.database import database
from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.server.usage import MOST_RESULTS
from tests.metering.databases import postgresql
from tests.metering.ledgers import execute, put
from tests.server.ledgered import Ledgered, ledgered, told
from tests.server.serving import chat, door, refused, scripted

NOON = 1_767_268_800_000
"""2026-01-01T12:00:00Z in milliseconds."""
KEYS = [
    KeySettings(name="alice", hash=digest("pk-a")),
    KeySettings(name="bob", hash=digest("pk-b")),
    KeySettings(name="carol", hash=digest("pk-c"), scopes=frozenset({"infer"})),
    KeySettings(name="root", hash=digest("pk-r"), scopes=frozenset({"usage", "admin"})),
]


def by(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer pk-{name[0]}"}


@asynccontextmanager
async def used(address: str) -> AsyncGenerator[tuple[Ledgered, list[dict[str, Any]]]]:
    """Two requests of alice's on one day, one of bob's on the next; and their last words."""
    async with ledgered(scripted(), address, Settings(keys=KEYS)) as on:
        words: list[dict[str, Any]] = []
        for i, (name, fields) in enumerate(
            [
                ("alice", {"metadata": {"team": "red"}}),
                ("alice", {"metadata": {"team": "blue"}, "strategy": "best_of_n", "thinking_budget": 300}),
                ("bob", {"user": "u-1"}),
            ]
        ):
            response = await on.chat(headers=by(name), **fields)
            words.append(told(response, False) | {"request": response.headers["x-request-id"]})
            at = NOON + (i // 2) * 86_400_000 + i * 60_000
            execute(address, "UPDATE requests SET begun_ms = :at WHERE id = :id", at=at, id=words[-1]["request"])
        yield on, words


async def lines(on: Ledgered, name: str, url: str) -> list[dict[str, Any]]:
    response = await on.get(url, headers=by(name))
    assert response.status_code == 200, response.text
    return response.json()["data"]


def test_usage_is_added_up_by_what_is_asked_for(address: str) -> None:
    async def go() -> None:
        async with used(address) as (on, words):
            tokens = [word["usage"]["completion_tokens"] for word in words]
            (all_,) = await lines(on, "root", "/v1/usage")
            assert all_["requests"] == 3
            assert all_["thinking"] + all_["answer"] == sum(tokens)
            assert all_["cost_usd"] == pytest.approx(sum(word["thinking"]["cost_usd"] for word in words))
            by_key = await lines(on, "root", "/v1/usage?group_by=key")
            assert [(line["key"], line["requests"]) for line in by_key] == [("alice", 2), ("bob", 1)]
            by_day = await lines(on, "root", "/v1/usage?group_by=day,model")
            assert [(line["day"], line["model"], line["requests"]) for line in by_day] == [
                ("2026-01-01", "demo", 2),
                ("2026-01-02", "demo", 1),
            ]
            by_team = await lines(on, "root", "/v1/usage?group_by=metadata.team&group_by=user")
            assert [(line["metadata.team"], line["user"]) for line in by_team] == [
                (None, "u-1"),
                ("blue", None),
                ("red", None),
            ]
            by_hour = await lines(on, "root", "/v1/usage?group_by=hour,strategy,verifier")
            assert by_hour[0]["hour"] == "2026-01-01T12:00:00Z"
            early = await lines(on, "root", "/v1/usage?start=2026-01-01&end=2026-01-02")
            assert early[0]["requests"] == 2
            assert (await lines(on, "root", f"/v1/usage?start={NOON // 1000 + 60}"))[0]["requests"] == 2
            (none,) = await lines(on, "root", "/v1/usage?start=2030-01-01")
            assert none["requests"] == none["cost_nano_usd"] == 0

    asyncio.run(go())


def test_each_key_sees_its_own_and_admin_all(address: str) -> None:
    async def go() -> None:
        async with used(address) as (on, words):
            assert (await lines(on, "alice", "/v1/usage"))[0]["requests"] == 2
            assert [line["key"] for line in await lines(on, "bob", "/v1/usage?group_by=key")] == ["bob"]
            url = f"/v1/usage/{words[0]['request']}"
            refused(await on.get(url, headers=by("bob")), 404, code="request_not_found")
            for name in ("alice", "root"):
                row = (await on.get(url, headers=by(name))).json()
                assert row["thinking"] + row["answer"] == words[0]["usage"]["completion_tokens"]
                assert row["cost_usd"] == words[0]["thinking"]["cost_usd"]
                assert (row["key"], row["metadata"], row["outcome"]) == ("alice", {"team": "red"}, "answered")
                assert not {"owner", "epoch"} & row.keys()
            costs = "/v1/organization/costs?start_time=1767225600&api_key_ids=alice&group_by=api_key_id"
            assert all(not bucket["results"] for bucket in await lines(on, "bob", costs))
            for path in ("/v1/usage", url, costs, "/v1/organization/usage/completions?start_time=0"):
                refused(await on.get(path), 401)
                refused(await on.get(path, headers={"authorization": "Bearer pk-x"}), 401)
                refused(await on.get(path, headers=by("carol")), 403, code="missing_scope")

    asyncio.run(go())


def test_a_report_comes_in_pages_and_as_a_table(tmp_path: Any) -> None:
    async def go() -> None:
        async with used(f"sqlite:///{tmp_path}/ledger.db") as (on, _):
            first = (await on.get("/v1/usage?group_by=key&limit=1", headers=by("root"))).json()
            assert (first["has_more"], first["group_by"]) == (True, ["key"])
            after = f"/v1/usage?group_by=key&limit=1&page={first['next_page']}"
            rest = (await on.get(after, headers=by("root"))).json()
            assert (rest["has_more"], rest["next_page"], rest["data"][0]["key"]) == (False, None, "bob")
            for ask in ({"params": {"format": "csv"}}, {"headers": by("root") | {"accept": "text/csv"}}):
                headers = {"headers": by("root")} | ask
                response = await on.get("/v1/usage?group_by=key" if "headers" in ask else "/v1/usage", **headers)
                assert response.headers["content-type"] == "text/csv; charset=utf-8"
                assert sum(int(line["requests"]) for line in csv.DictReader(StringIO(response.text))) == 3

    asyncio.run(go())


def test_openai_s_reports_are_what_its_sdk_reads(address: str) -> None:
    async def go() -> None:
        async with used(address) as (on, words):
            url = "/v1/organization/usage/completions?start_time=1767225600&end_time=1767484800&group_by[]=model"
            raw = (await on.get(f"{url}&group_by[]=api_key_id", headers=by("root"))).json()
            page = UsageCompletionsResponse.model_validate(raw)
            assert [(bucket.start_time, len(bucket.results)) for bucket in page.data] == [
                (1767225600, 1),
                (1767312000, 1),
                (1767398400, 0),
            ]
            assert not page.has_more
            none = "/v1/organization/usage/completions?start_time=1767225600&end_time=0"
            assert (await on.get(none, headers=by("root"))).json()["data"] == []
            result: Any = page.data[0].results[0]
            assert (result.object, result.api_key_id, result.model) == (
                "organization.usage.completions.result",
                "alice",
                "demo",
            )
            assert result.num_model_requests == 2
            assert result.output_tokens == sum(word["usage"]["completion_tokens"] for word in words[:2])
            assert result.input_tokens == sum(word["usage"]["prompt_tokens"] for word in words[:2])
            costs_url = "/v1/organization/costs?start_time=1767225600&end_time=1767484800&limit=1"
            costs = UsageCostsResponse.model_validate((await on.get(costs_url, headers=by("root"))).json())
            amount: Any = costs.data[0].results[0]
            assert amount.amount.value == pytest.approx(sum(word["thinking"]["cost_usd"] for word in words[:2]))
            assert amount.amount.currency == "usd"
            assert costs.has_more
            after = f"{costs_url}&page={costs.next_page}"
            rest = UsageCostsResponse.model_validate((await on.get(after, headers=by("root"))).json())
            assert rest.data[0].start_time == 1767312000

    asyncio.run(go())


def test_no_line_comes_twice_and_none_is_left_out_whatever_is_written_between_two_pages(address: str) -> None:
    async def go() -> None:
        async with ledgered(scripted(), address) as on:
            named = [None, "ä", "b", "b", "C", "d", "e"]
            put(address, len(named), lambda number: {"user": named[number]})
            url, seen = "/v1/usage?group_by=user,day&limit=2", list[Any]()
            page = (await on.get(url)).json()
            while True:
                seen += [(line["user"], line["requests"]) for line in page["data"]]
                if len(seen) == 2:
                    put(address, 1, id="req_new", user="")
                if page["next_page"] is None:
                    break
                page = (await on.get(f"{url}&page={page['next_page']}")).json()
            assert sorted(seen, key=str) == sorted(
                [(None, 1), ("ä", 1), ("b", 2), ("C", 1), ("d", 1), ("e", 1)], key=str
            )

    asyncio.run(go())


def test_a_report_with_more_users_than_a_page_holds_goes_on_in_the_same_bucket(tmp_path: Any) -> None:
    address = f"sqlite:///{tmp_path}/ledger.db"

    async def go() -> None:
        async with ledgered(scripted(), address) as on:
            day = 86_400_000
            put(address, 20_005, lambda number: {"user": f"u-{number % 20_003}"}, begun_ms=day)
            execute(address, "UPDATE requests SET begun_ms = :next WHERE id IN ('req_7', 'req_8')", next=2 * day)
            url = "/v1/organization/usage/completions?start_time=86400&end_time=345600&group_by=user_id"
            pages = [(await on.get(url)).json()]
            while pages[-1]["next_page"] is not None:
                pages.append((await on.get(f"{url}&page={pages[-1]['next_page']}")).json())
            for page in pages:
                assert sum(len(bucket["results"]) for bucket in page["data"]) <= MOST_RESULTS
                assert page["has_more"] == (page is not pages[-1])
            found = Counter[tuple[int, str]]()
            for bucket in (bucket for page in pages for bucket in page["data"]):
                for result in bucket["results"]:
                    found[bucket["start_time"], result["user_id"]] += 1
            assert set(found.values()) == {1}
            assert {user for start, user in found if start == 172_800} == {"u-7", "u-8"}
            assert len(found) == 20_003

    asyncio.run(go())


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("/v1/usage?group_by=colour", "group_by"),
        ("/v1/usage?group_by=metadata.a%22b", "group_by"),
        ("/v1/usage?start=yesterday", "start"),
        ("/v1/usage?end=9999999999999999", "end"),
        ("/v1/usage?limit=0x1", "limit"),
        ("/v1/usage?limit=0", "limit"),
        ("/v1/usage?limit=100000", "limit"),
        ("/v1/usage?page=-1", "page"),
        ("/v1/usage?page=1", "page"),
        ("/v1/usage?group_by=key&page=W10", "page"),
        ("/v1/usage?group_by=key&page=WzFd", "page"),
        ("/v1/usage?group_by=day&page=WyJhIl0", "page"),
        ("/v1/usage?group_by=day,key&page=WzFd", "page"),
        ("/v1/organization/costs?start_time=0&page=7", "page"),
        ("/v1/usage?format=xml", "format"),
        ("/v1/organization/usage/completions", "start_time"),
        ("/v1/organization/usage/completions?start_time=0&bucket_width=1y", "bucket_width"),
        ("/v1/organization/usage/completions?start_time=0&group_by=colour", "group_by"),
        ("/v1/organization/costs?start_time=0&bucket_width=1h", "bucket_width"),
    ],
)
def test_what_cannot_be_meant_is_a_400_that_names_it(query: str, param: str, tmp_path: Any) -> None:
    async def go() -> None:
        async with ledgered(scripted(), f"sqlite:///{tmp_path}/ledger.db") as on:
            refused(await on.get(query), 400, param=param)

    asyncio.run(go())


def test_names_that_no_row_can_have_are_nobody_s(address: str) -> None:
    async def go() -> None:
        async with ledgered(scripted(), address) as on:
            refused(await on.get("/v1/usage/%00"), 404, code="request_not_found")
            for path in ("usage/completions", "costs"):
                page = (await on.get(f"/v1/organization/{path}?start_time=1767225600&user_ids=%00")).json()
                assert not any(bucket["results"] for bucket in page["data"])

    asyncio.run(go())


def test_reports_that_take_long_leave_the_threads_to_others() -> None:
    """In which requests are read."""

    async def go(address: str) -> None:
        async with ledgered(scripted(), address) as on, asyncio.TaskGroup() as group:
            other = database(address).engine(long=True)
            with other.begin() as lock, database(address).engine().connect() as eye:
                lock.execute(text("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"))
                reports = [group.create_task(on.get("/v1/usage")) for _ in range(40)]
                waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
                async with asyncio.timeout(30):
                    while eye.execute(waiting).scalar_one() < 4:
                        eye.rollback()
                        await asyncio.sleep(0.01)
                async with asyncio.timeout(5):
                    await asyncio.to_thread(str)
            for report in reports:
                assert (await report).status_code == 200
            other.dispose()

    with postgresql() as server:
        asyncio.run(go(server.new()))


def test_without_a_ledger_there_is_nothing_to_tell() -> None:
    from tests.server.serving import ask

    app = door(scripted())
    assert chat(app).status_code == 200
    refused(ask(app, "GET", "/v1/usage"), 404, code="no_ledger")
