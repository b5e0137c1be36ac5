"""The server behind Serve's HTTP, and what is said of a configuration that cannot be served so; without a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from ponder.compute.errors import EngineError, PonderError
from ponder.compute.lengths import Lengths
from ponder.compute.slots import Slots
from ponder.engines.ray.commands import Judging, Writing, flags, needs_vllm
from ponder.engines.ray.meetings import Told
from ponder.metering.metrics import Metrics
from ponder.server.admission import Admission
from ponder.server.app import ServedModel, create_app
from ponder.server.http.hosts import Hosts
from ponder.server.plan import Work
from ponder.server.ray import app as application
from ponder.server.ray.door import Behind, demand, taken_out
from ponder.server.serve_proxy import middlewares
from ponder.server.settings import ModelSettings, Settings
from ponder.testing import EchoEngine, in_virtual_time

DEMO = Path(__file__).parents[2] / "models" / "demo"
ASK = b'{"model": "echo", "stream": true, "messages": [{"role": "user", "content": "Say it."}]}'


@dataclass
class Served:
    """A lifespan, and requests within it, as Serve has them."""

    behind: Behind
    engine: EchoEngine
    told: list[Message] = field(default_factory=list[Message])

    async def asked(
        self, receive: Callable[[], Any], send: Callable[[Message], Any], *, host: bytes = b"localhost"
    ) -> None:
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "http_version": "1.1"}
        headers = [(b"host", host), (b"content-type", b"application/json")]
        await self.behind(scope | {"headers": headers, "query_string": b""}, receive, send)


@asynccontextmanager
async def served(delay: float = 0.0) -> AsyncGenerator[Served]:
    settings, engine = Settings(), EchoEngine()
    engine.delay = delay

    @asynccontextmanager
    async def opened() -> AsyncGenerator[FastAPI]:
        model = ServedModel(engine=engine, lengths=Lengths(8, 16), settings=ModelSettings(path="echo"))
        yield create_app(settings, {"echo": model})

    found = Served(Behind(opened, lambda _: Hosts(settings)), engine)
    ends, begun = asyncio.Event(), asyncio.Event()
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Message:
        if begun.is_set():
            await ends.wait()
        return {"type": next(messages)}

    async def send(message: Message) -> None:
        found.told.append(message)
        begun.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(found.behind({"type": "lifespan"}, receive, send))
        await begun.wait()
        yield found
        ends.set()
    assert [one["type"] for one in found.told] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def body() -> Callable[[], Any]:
    messages = iter([{"type": "http.request", "body": ASK, "more_body": False}])

    async def receive() -> Message:
        if (message := next(messages, None)) is not None:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    return receive


def test_a_request_that_serve_cancels_ends_as_one_whose_caller_hangs_up() -> None:
    async def go() -> None:
        async with served(delay=0.05) as server:
            begun = asyncio.Event()

            async def send(message: Message) -> None:
                if message["type"] == "http.response.body":
                    begun.set()

            async with asyncio.TaskGroup() as group:
                asking = group.create_task(server.asked(body(), send))
                await begun.wait()
                while not server.engine.running:  # noqa: ASYNC110 (the engine has no event)
                    await asyncio.sleep(0.01)
                asking.cancel()
            assert not server.engine.running
            assert asking.cancelled()

    asyncio.run(go())


def test_a_request_whose_end_serve_raises_ends_too() -> None:
    """Serve's own exception, where the body and what is behind it are read."""

    class Cancelled(Exception):
        pass

    async def go() -> None:
        async with served(delay=0.05) as server:
            whole, parts = body(), list[Message]()

            async def receive() -> Message:
                if not parts:
                    return await whole()
                raise Cancelled

            async def send(message: Message) -> None:
                parts.append(message)

            async with asyncio.timeout(10):
                await server.asked(receive, send)
            assert not server.engine.running

    asyncio.run(go())


def test_without_a_key_it_answers_to_names_of_this_machine_alone() -> None:
    async def go() -> None:
        async with served() as server:
            told = list[Message]()

            async def send(message: Message) -> None:
                told.append(message)

            await server.asked(body(), send, host=b"example.com")
            assert told[0]["status"] == 403

    asyncio.run(go())


def test_a_server_that_cannot_begin_says_why() -> None:
    told = list[Message]()

    @asynccontextmanager
    async def opened() -> AsyncGenerator[FastAPI]:
        raise EngineError("no replica answers")
        yield FastAPI()

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        told.append(message)

    asyncio.run(Behind(opened, lambda _: Hosts(Settings()))({"type": "lifespan"}, receive, send))
    assert told == [{"type": "lifespan.startup.failed", "message": "no replica answers"}]


def test_a_door_that_is_not_counted_three_times_in_a_row_is_taken_out() -> None:
    looks = [
        [], ["other"],  # It is not counted yet.
        ["own", "other"], ["other"], ["other"], ["other", "own"],  # It comes back.
        ["other"], RuntimeError("Serve does not say"), ["other", RuntimeError("it does not answer")], [],
        ["other"], ["never asked"],
    ]  # fmt: skip

    async def look() -> Sequence[object]:
        found = looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def go() -> None:
        await taken_out(look, "own")

    in_virtual_time(go())
    assert looks == [["never asked"]]


def test_what_waits_for_its_turn_at_a_door_counts_as_what_waits_for_replicas() -> None:
    async def go() -> None:
        slots, other = Slots(4, 10.0), Slots(4, 10.0)
        admission = Admission(1, 8, Metrics(), chains=64)
        assert demand("a door", None, admission) == Told("a door")

        def work(of: Slots, chains: int) -> Work:
            return Work("alice", 1.0, chains, 100.0, of.share("alice"))

        async with AsyncExitStack() as stack:
            for of, chains in ((slots, 2), (slots, 3), (other, 5), (slots, 1)):
                await stack.enter_async_context(admission.place((), work(of, chains), 60.0))
            assert (admission.inside, admission.queued) == (1, 3)
            # Of those that wait, the chains of this model; the first runs.
            assert demand("a door", slots, admission).waiting == 3 + 1
            assert demand("a door", other, admission).waiting == 5
            assert demand("a door", slots, None).waiting == 0

    asyncio.run(go())


def test_an_answer_behind_a_proxy_has_one_request_id_the_servers() -> None:
    async def go(own: bool) -> list[tuple[bytes, bytes]]:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            """What Serve's proxy makes of an answer."""
            headers = [(b"x-request-id", b"req_1"), (b"a", b"b")] if own else [(b"a", b"b")]
            await send({"type": "http.response.start", "status": 200, "headers": [*headers, (b"X-Request-ID", b"s")]})
            await send({"type": "http.response.body", "body": b""})

        told = list[Message]()

        async def send(message: Message) -> None:
            told.append(message)

        (found,) = middlewares()
        await cast("Any", found).cls(app)({"type": "http"}, body(), send)
        assert [one["type"] for one in told] == ["http.response.start", "http.response.body"]
        return told[0]["headers"]

    assert asyncio.run(go(own=True)) == [(b"x-request-id", b"req_1"), (b"a", b"b")]
    assert asyncio.run(go(own=False)) == [(b"a", b"b"), (b"X-Request-ID", b"s")]


# -- configurations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "on Ray Serve the ledger is in PostgreSQL"),
        ('ray_doors = 2\n[ledger]\nurl = "none"', "2 servers share what they know in PostgreSQL"),
        ("[ray]\nmin_replicas = 3\nmax_replicas = 2", "max_replicas 2 is below min_replicas 3"),
        ("[ray]\nreplicas = 3", "there is no such setting; did you mean min_replicas"),
        ('adapters = { law = "/law" }\n[ledger]\nurl = "none"', "are not loaded on Ray Serve"),
    ],
)
def test_what_cannot_be_served_so_is_said_before_anything_is_started(
    tmp_path: Path, written: str, message: str
) -> None:
    file = tmp_path / "ponder.toml"
    file.write_text(written)
    with pytest.raises(PonderError, match=message):
        application({"config": str(file)})


def test_an_argument_that_is_none_is_refused() -> None:
    with pytest.raises(PonderError, match="colour: there is no such argument"):
        application({"colour": "ponder.toml"})


def test_a_deployment_for_each_model_and_each_reward_model(tmp_path: Path) -> None:
    file = tmp_path / "ponder.toml"
    models = '[models.a]\npath = "demo"\nprm = "demo-prm"\nray = { max_replicas = 4 }\n[models."b/c"]\npath = "demo"'
    file.write_text(f'ray_doors = 3\n[ledger]\nurl = "postgresql://ponder@db/ponder"\n{models}')
    built = application({"config": str(file)})
    assert built is not None


def locate(path: str) -> str:
    return str(DEMO) if path == "demo" else path


def test_vllm_is_started_with_a_key_that_nobody_sees_in_its_command() -> None:
    command = Writing("demo", "reasoner", locate)("10.0.0.1", 8001, "secret")
    words = " ".join(command.words)
    assert "secret" not in words + repr(command)
    assert command.environment["VLLM_API_KEY"] == "secret"
    assert f"--model {DEMO}" in words
    assert "--host 10.0.0.1 --port 8001" in words
    assert "--enable-scale-out" in words
    judge = " ".join(Judging("demo-prm", locate)("10.0.0.1", 8001, "secret").words)
    assert "--runner pooling" in judge
    assert flags({"a_b": True, "c": False, "d": {"e": 1}, "f": [1, 2]}) == [
        "--a-b", "--no-c", "--d", '{"e": 1}', "--f", "1", "2"
    ]  # fmt: skip


def test_where_vllm_is_not_installed_the_replica_says_what_to_install() -> None:
    with pytest.raises(EngineError, match=r"pip install 'ponder-server\[ray,gpu\]'"):
        needs_vllm("no_such_vllm")
