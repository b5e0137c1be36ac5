"""Requests are seen while they run: which there are, and the calls of one as they come; nobody else's, and no text but
for who may see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator

from ponder.server.auth.keys import digest
from ponder.server.live import LOOK, WATCHERS
from ponder.server.settings import KeySettings, Settings
from ponder.testing import MARKER, Chain, ScriptedEngine, always, in_virtual_time
from tests.server.serving import ASK, PATH, Line, door, refused

KEYS = {
    "mine": ["infer", "trace"],
    "other": ["infer", "trace"],
    "boss": ["infer", "trace", "admin"],
    "seer": ["infer", "trace", "admin", "reveal"],
    "plain": ["infer"],
}
CHAINS = [Chain(f"{MARKER} {'and so on ' * (n + 2)}", f"It is {7 + n % 2}.") for n in range(4)]
VOTE: dict[str, Any] = {"name": "majority_vote", "n": 4, "first": 4, "confidence": 1}


def live(**more: Any) -> FastAPI:
    keys = [KeySettings.model_validate({"name": k, "hash": digest(k), "scopes": s}) for k, s in KEYS.items()]
    return door(ScriptedEngine(always(*CHAINS), delay=0.05), Settings(keys=keys, **more))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def get(app: FastAPI, url: str, key: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
        return await client.get(url, headers=bearer(key))


def told(text: str) -> list[dict[str, Any]]:
    """The events of a stream that ended as it should."""
    assert text.endswith(": end\n\n")
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("event: ")]
    found = [json.loads(block[1].removeprefix("data: ")) for block in blocks]
    assert [block[0] for block in blocks] == [f"event: {event['type']}" for event in found]
    return found


async def watched(app: FastAPI, *keys: str, **body: Any) -> tuple[str, Sequence[httpx.Response], dict[str, Any]]:
    """A request that others watch with these keys: its id, what they are told, its trace."""
    line = Line(thinking_budget=2000, **body)
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(line.call(app, "mine"))
        await asyncio.sleep(0.2)
        listed = (await get(app, "/v1/requests", "mine")).json()["data"]
        assert [one["state"] for one in listed] == ["running"]
        id = listed[0]["id"]
        streams = [group.create_task(get(app, f"/v1/requests/{id}/events", key)) for key in keys]
    await asked
    assert (await get(app, "/v1/requests", "boss")).json()["data"] == []
    return id, [one.result() for one in streams], (await get(app, f"/v1/traces/{id}", "seer")).json()


def test_who_watches_a_request_has_seen_its_whole_trace_in_the_end() -> None:
    app = live()
    id, (heard,), trace = in_virtual_time(watched(app, "mine", strategy=VOTE))
    assert heard.headers["content-type"].startswith("text/event-stream")
    events = told(heard.text)
    assert events[-1] == {"type": "end", "ended": "answered"}
    assert {event["request"]["id"] for event in events if event["type"] == "request"} == {id}
    calls: dict[int, Any] = {}
    for event in events:
        if event["type"] == "call":
            assert event["choice"] == 0
            calls[event["call"]["number"]] = event["call"]
    assert [calls[number] for number in sorted(calls)] == trace["choices"][0]["calls"]
    grown = [event["call"]["tokens"]["hidden"] for event in events if event["type"] == "call"]
    assert len(grown) > 2 * len(calls)
    last = next(event["request"] for event in reversed(events) if event["type"] == "request")
    assert (last["samples"], last["open"]) == (len(calls), 0)
    assert last["tokens"] == trace["choices"][0]["tokens"]
    assert MARKER not in heard.text
    assert len(events) <= (6 / LOOK) * 6


@pytest.mark.parametrize("kept", [True, False])
def test_text_comes_when_a_call_has_ended_for_who_may_see_it_alone(kept: bool) -> None:
    app = live(retain_text=kept)
    _, (mine, boss, seer), _ = in_virtual_time(watched(app, "mine", "boss", "seer", strategy=VOTE))
    assert MARKER not in mine.text + boss.text
    assert (MARKER in seer.text) is kept
    texts = [event["call"]["text"] for event in told(seer.text) if "text" in event.get("call", {})]
    assert {text["answer"] for text in texts} == ({"It is 7.", "It is 8."} if kept else set())


def test_a_key_sees_its_own_requests_and_an_administrator_all() -> None:
    async def go() -> None:
        app, line = live(), Line(thinking_budget=2000)
        asking = asyncio.create_task(line.call(app, "mine"))
        await asyncio.sleep(0.2)
        seen = {key: await get(app, "/v1/requests", key) for key in KEYS}
        refused(seen.pop("plain"), 403, "missing_scope")
        counts = {key: len(response.json()["data"]) for key, response in seen.items()}
        assert counts == {"mine": 1, "other": 0, "boss": 1, "seer": 1}
        one = seen["boss"].json()["data"][0]
        assert (one["key"], one["model"], one["strategy"]) == ("mine", "demo", "direct")
        assert one["tokens"]["hidden"] > 0
        refused(await get(app, f"/v1/requests/{one['id']}/events", "other"), 404, "request_not_found", "id")
        refused(await get(app, f"/v1/requests/{one['id']}/events", "plain"), 403, "missing_scope")
        await asking
        refused(await get(app, f"/v1/requests/{one['id']}/events", "mine"), 404, "request_not_found", "id")

    in_virtual_time(go())


def test_what_waits_is_listed_as_waiting_and_a_caller_who_goes_ends_the_events() -> None:
    async def go() -> None:
        app = live(max_inflight=1)
        first, second = Line(thinking_budget=2000), Line(thinking_budget=2000)
        asking = [asyncio.create_task(one.call(app, "mine")) for one in (first, second)]
        await asyncio.sleep(0.2)
        listed = (await get(app, "/v1/requests", "mine")).json()["data"]
        assert [one["state"] for one in listed] == ["running", "queued"]
        assert listed[1]["tokens"] == {"hidden": 0, "visible": 0, "verifier": 0}
        watching = asyncio.create_task(get(app, f"/v1/requests/{listed[1]['id']}/events", "mine"))
        await asyncio.sleep(0.5)
        second.gone.set()
        events = told((await watching).text)
        assert [event["type"] for event in events] == ["request", "end"]
        assert events[-1]["ended"] == "disconnected"
        await asyncio.wait(asking)

    in_virtual_time(go())


def test_only_so_many_may_watch_and_one_who_does_not_read_is_dropped() -> None:
    async def go() -> None:
        app, line = live(), Line(thinking_budget=2000)
        app = live(limits={"send_timeout": 1.0})
        asking = asyncio.create_task(line.call(app, "mine"))
        await asyncio.sleep(0.1)
        id = (await get(app, "/v1/requests", "mine")).json()["data"][0]["id"]
        scope = PATH | {
            "method": "GET",
            "path": f"/v1/requests/{id}/events",
            "raw_path": f"/v1/requests/{id}/events".encode(),
            "headers": [(b"authorization", b"Bearer mine")],
        }
        stuck = [Line() for _ in range(WATCHERS)]
        for one in stuck:
            one.blocked.clear()
        streams = [asyncio.create_task(app({**scope}, one.receive, one.send)) for one in stuck]
        await asyncio.sleep(0.1)
        refused(await get(app, f"/v1/requests/{id}/events", "mine"), 429, "server_busy")
        await asyncio.wait(streams)
        assert not asking.done()
        assert (await get(app, f"/v1/requests/{id}/events", "mine")).status_code == 200
        await asking
        assert b"It is 7." in line.text

    in_virtual_time(go())


def test_events_are_as_described() -> None:
    app = live(retain_text=True)
    document: dict[str, Any] = asyncio.run(get(app, "/openapi.json", "mine")).json()
    content = document["paths"]["/v1/requests/{id}/events"]["get"]["responses"]["200"]["content"]
    assert list(content) == ["text/event-stream"]
    whole: Any = {**content["text/event-stream"]["schema"], "components": document["components"]}
    _, (heard,), _ = in_virtual_time(watched(app, "seer", strategy=VOTE))
    events = told(heard.text)
    for event in events:
        Draft202012Validator(whole).validate(event)  # pyright: ignore[reportUnknownMemberType]
    assert ASK["model"] == events[0]["request"]["model"]
