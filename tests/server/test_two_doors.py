"""Three servers that begin at once on an empty PostgreSQL: what one does the others know, and what one leaves they
end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ponder.server.auth.keys import digest
from tests.metering.databases import PostgreSQL
from tests.needs import tool
from tests.server.serving import ASK, PATH, until
from tests.server.several import Door, door

ROOT = Path(__file__).parent.parent.parent
KNOWN = 10.0
"""Seconds in which a change of a key is known everywhere: half a second, and more on a machine that is busy."""
DEAD = 60.0
"""The same for a server that was killed: 10 seconds."""


@pytest.fixture(scope="module")
def three(a_postgresql: PostgreSQL) -> Iterator[Sequence[Door]]:
    """The last one is killed by the last tests."""
    key = {"name": "root", "hash": digest("root"), "scopes": ["infer", "usage", "trace", "admin"]}
    settings: dict[str, Any] = {
        "keys": [key],
        "ledger": {"url": a_postgresql.new()},
        "idempotency": {"secret": "s" * 32},
        "sealed_thoughts": {"secrets": ["t" * 32]},
    }
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        begun = [pool.submit(stack.enter_context, door(settings)) for _ in range(3)]
        yield [one.result() for one in begun]


@asynccontextmanager
async def clients(doors: Sequence[Door]) -> AsyncGenerator[Sequence[httpx.AsyncClient]]:
    headers = {"authorization": "Bearer root"}
    made = [httpx.AsyncClient(base_url=one.url, timeout=90, trust_env=False, headers=headers) for one in doors]
    try:
        yield made
    finally:
        for client in made:
            await client.aclose()


async def asked(client: httpx.AsyncClient, words: str = "What?", key: str | None = None, **body: Any) -> httpx.Response:
    said = ASK | {"messages": [{"role": "user", "content": words}], "strategy": "direct"} | body
    return await client.post(PATH["path"], json=said, headers={} if key is None else {"idempotency-key": key})


async def created(client: httpx.AsyncClient, words: str, **body: Any) -> dict[str, Any]:
    response = await client.post("/v1/responses", json={"model": "demo", "input": words} | body)
    assert response.status_code == 200, response.text
    return response.json()


async def status(client: httpx.AsyncClient, id: str) -> str:
    response = await client.get(f"/v1/responses/{id}")
    assert response.status_code == 200, response.text
    return response.json()["status"]


async def becomes(client: httpx.AsyncClient, id: str, wanted: str, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while await status(client, id) != wanted:  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.1)


def test_servers_that_begin_at_once_on_an_empty_database_share_it(three: Sequence[Door]) -> None:
    async def go() -> None:
        async with clients(three) as made:
            answers = await asyncio.gather(*(asked(client) for client in made))
            ids = [answer.headers["x-request-id"] for answer in answers]
            for client in made:
                for id in ids:
                    assert (await client.get(f"/v1/usage/{id}")).status_code == 200
                ready = await client.get("/healthz")
                assert ready.status_code == 200

    asyncio.run(go())


def test_a_key_is_made_changed_and_revoked_for_all(three: Sequence[Door]) -> None:
    async def go() -> None:
        async with clients(three) as (one, other, _):
            answer = await one.post("/v1/keys", json={"name": "alice"})
            assert answer.status_code == 201, answer.text
            secret, id = answer.json()["key"], answer.json()["id"]
            theirs = {"authorization": f"Bearer {secret}"}

            async def known(url: str, wanted: int) -> None:
                async with asyncio.timeout(KNOWN):
                    while (await other.get(url, headers=theirs)).status_code != wanted:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)

            await known("/v1/models", 200)
            assert (await other.get("/v1/traces", headers=theirs)).status_code == 403
            assert (await one.post(f"/v1/keys/{id}", json={"scopes": ["infer", "trace"]})).status_code == 200
            await known("/v1/traces", 200)
            assert (await one.delete(f"/v1/keys/{id}")).status_code == 200
            await known("/v1/models", 401)

    asyncio.run(go())


def test_a_key_of_a_request_that_comes_to_all_at_once_runs_once(three: Sequence[Door]) -> None:
    async def go() -> None:
        async with clients(three) as made:
            answers = await asyncio.gather(*(asked(client, key="order-1") for client in made for _ in range(2)))
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.content for answer in answers}) == 1
            (id,) = {answer.headers["x-request-id"] for answer in answers}
        await asyncio.to_thread(until, lambda: any(id in told(one) for one in three))
        assert sum(request == id for one in three for _, change, request in one.calls if change == 1) == 1

    asyncio.run(go())


def test_what_runs_in_the_background_of_one_is_followed_and_ended_by_another(three: Sequence[Door]) -> None:
    async def go() -> None:
        async with clients(three) as (one, other, _):
            short = await created(one, "Hello", background=True)
            await becomes(other, short["id"], "completed")
            again = await created(other, "And?", previous_response_id=short["id"])
            assert again["status"] == "completed"
            assert again["previous_response_id"] == short["id"]
            whole = events(await other.get(f"/v1/responses/{short['id']}", params={"stream": "true"}))
            params = {"stream": "true", "starting_after": "2"}
            assert events(await other.get(f"/v1/responses/{short['id']}", params=params)) == whole[3:]
            long = await created(one, "long", background=True)
            await becomes(other, long["id"], "in_progress")
            async with other.stream("GET", f"/v1/responses/{long['id']}", params={"stream": "true"}) as stream:
                seen = 0
                async for line in stream.aiter_lines():
                    seen += line.startswith("data: ")
                    if seen == 5:
                        assert (await other.post(f"/v1/responses/{long['id']}/cancel")).json()["status"] == "cancelled"
                # It has come to its end.
                assert seen >= 5
            assert await status(one, long["id"]) == "cancelled"

    asyncio.run(go())


def events(response: httpx.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


def test_through_nginx_a_stream_comes_as_it_is_made_and_a_hang_up_is_heard_of(
    three: Sequence[Door], tmp_path: Path
) -> None:
    async def go() -> None:
        text = (ROOT / "deploy/nginx/ponder.conf").read_text().replace("listen 8000", f"listen unix:{tmp_path}/front")
        for old, one in zip(("127.0.0.1:8001", "127.0.0.1:8002"), three[1:], strict=True):
            assert old in text
            text = text.replace(old, f"127.0.0.1:{one.port}")
        paths = "".join(f"{kind}_temp_path {tmp_path}/{kind}; " for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
        http = f"access_log off; client_body_temp_path {tmp_path}/body; {paths}\n{text}"
        head = f"daemon off; master_process off; error_log {tmp_path}/error.log; pid {tmp_path}/pid; events {{}}\n"
        (tmp_path / "nginx.conf").write_text(f"{head}http {{ {http} }}")
        command = [tool("nginx", "nginx"), "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
        nginx = await asyncio.create_subprocess_exec(*command)
        try:
            async with asyncio.timeout(20):
                while not (tmp_path / "front").exists():
                    assert nginx.returncode is None
                    await asyncio.sleep(0.02)
            async with httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(tmp_path / "front")),
                base_url="http://localhost",
                headers={"authorization": "Bearer root"},
                timeout=60,
            ) as client:
                assert (await client.get("/metrics")).status_code == 404
                # Both are asked.
                answers = await asyncio.gather(*(asked(client) for _ in range(8)))
                ids = {answer.headers["x-request-id"] for answer in answers}
                await asyncio.to_thread(until, lambda: ids <= told(three[1]) | told(three[2]))
                assert ids & told(three[1])
                assert ids & told(three[2])
                await streamed(client, three[1:])
        finally:
            nginx.terminate()
            await nginx.wait()

    asyncio.run(go())


async def streamed(client: httpx.AsyncClient, doors: Sequence[Door]) -> None:
    """A stream whose first words come long before its end; its caller then hangs up, and the model stops."""
    said = ASK | {"messages": [{"role": "user", "content": "long"}], "stream": True, "max_completion_tokens": 4000}
    async with client.stream("POST", PATH["path"], json=said) as stream:
        id, seen = stream.headers["x-request-id"], 0
        async for line in stream.aiter_lines():
            seen += '"content"' in line
            if seen == 5:
                break
    await asyncio.to_thread(until, lambda: any(call[1:] == (-1, id) for one in doors for call in one.calls))
    async with asyncio.timeout(20):
        while (row := (await client.get(f"/v1/usage/{id}")).json())["outcome"] is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert row["outcome"] == "disconnected"


def told(one: Door) -> set[str]:
    return {request for _, _, request in one.calls}


def test_what_a_killed_server_ran_is_ended_by_the_others(three: Sequence[Door]) -> None:
    async def go() -> None:
        async with clients(three) as (one, _, killed):
            before = told(three[2])
            long = await created(killed, "long", background=True)
            run = asyncio.create_task(asked(killed, "long", key="order-2", max_completion_tokens=300))
            await asyncio.to_thread(until, lambda: len(told(three[2]) - before) == 2)
            waits = asyncio.create_task(asked(one, "long", key="order-2", max_completion_tokens=300))
            await becomes(one, long["id"], "in_progress")
            assert not waits.done()
            await asyncio.to_thread(three[2].kill)
            with pytest.raises(httpx.HTTPError):
                await run
            await becomes(one, long["id"], "failed", DEAD)
            answer = await asyncio.wait_for(waits, DEAD)
            ran = [(await one.get(f"/v1/usage/{id}")).json() for id in told(three[2]) - before]
            assert {row["outcome"] for row in ran} == {"lost"}
            if answer.status_code == 200:
                # Nothing was billed, so another has run it.
                assert answer.headers["x-request-id"] in told(three[0])
                assert "idempotent-replayed" not in answer.headers
            else:
                # It was billed and came to nothing: it does not run a second time.
                assert answer.status_code == 409, answer.text
                assert answer.json()["error"]["code"] == "idempotency_lost"

    asyncio.run(go())
