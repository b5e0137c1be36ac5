"""Every promise of the server holds in any dialect; shown in one that has words, framing and headers of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from ponder.compute.lengths import Lengths
from ponder.server.app import ServedModel, create_app
from ponder.server.auth.keys import digest
from ponder.server.dialect import Dialect, FieldNames
from ponder.server.dialects import DEFAULT, DIALECTS
from ponder.server.dialects.anthropic.dialect import AnthropicMessages
from ponder.server.dialects.openai_responses.dialect import OpenAIResponses
from ponder.server.settings import KeySettings, ModelSettings, Settings
from ponder.strategies import strategies
from ponder.testing import MARKER, Caller, Chain, ScriptedEngine, check_dialect
from tests.server import toy_dialect
from tests.server.callers import AnthropicCaller, OpenAICaller, ResponsesCaller, ToyCaller
from tests.server.serving import PATH, Line, ask, counted, its_door, scripted, written
from tests.server.test_hangups import LONG
from tests.server.toy_dialect import Toy

ASK: dict[str, Any] = {"brain": "demo", "talk": ["What is 3 + 4?"]}
KEY = KeySettings(name="toy", hash=digest("secret"))


def toy_door(engine: ScriptedEngine, settings: Settings | None = None) -> FastAPI:
    served = ServedModel(engine, Lengths(20, 40), ModelSettings(path="scripted"))
    return create_app(settings or Settings(), {"demo": served}, dialects=[*DIALECTS, Toy()])


def asked(app: FastAPI, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return ask(app, url=Toy.path, json=ASK | body, headers=headers)


def lines(raw: bytes | str) -> list[dict[str, Any]]:
    return [json.loads(one) for one in raw.splitlines()]


async def turns(true: Callable[[], bool]) -> None:
    """Turns of the loop, until something is true."""
    while not true():  # noqa: ASYNC110 - it is the engine's own count that is looked at
        await asyncio.sleep(0)


class ToyLine(Line):
    """A connection held in the hand, on which the toy is spoken."""

    def __init__(self, **body: Any) -> None:
        super().__init__()
        self._body = json.dumps(ASK | body).encode()

    async def call(self, app: FastAPI, key: str | None = None) -> None:
        head = PATH | {"path": Toy.path, "headers": [(b"content-type", b"application/json")]}
        await app(head, self.receive, self.send)


def test_the_toy_is_short() -> None:
    assert len(Path(toy_dialect.__file__).read_text().splitlines()) <= 100


@pytest.mark.parametrize(
    ("dialect", "caller"),
    [
        (Toy(), ToyCaller()),
        (DEFAULT, OpenAICaller()),
        (AnthropicMessages(), AnthropicCaller()),
        (OpenAIResponses(), ResponsesCaller()),
    ],
)
def test_it_keeps_what_every_dialect_promises(dialect: Dialect, caller: Caller) -> None:
    check_dialect(dialect, caller)


@pytest.mark.parametrize("strategy", strategies())
@pytest.mark.parametrize("ponder", [0, 7, 60, 700])
def test_the_budget_binds_every_token_is_counted_and_thoughts_are_hidden(strategy: str, ponder: int) -> None:
    for live in (False, True):
        engine = scripted()
        app = toy_door(engine)
        response = asked(app, ponder=ponder, plan={"name": strategy}, copies=2, live=live)
        assert response.status_code == 200, response.text
        told = lines(response.content)
        cost = told[-2] if live else told[-1]
        assert cost["thought_tokens"] <= cost["allowed"] <= ponder
        assert cost["all_tokens"] == engine.produced == written(app)
        assert MARKER not in f"{response.text} {response.headers}"
        assert response.headers["x-toy"] == "yes"
        assert response.headers["content-type"] == ("application/x-toy-lines" if live else "application/x-toy")
        assert counted(app, "ponder_budget_violations_total") == 0


def test_what_is_streamed_is_what_is_given_whole() -> None:
    app = toy_door(scripted())
    streamed, whole = lines(asked(app, copies=2, live=True).content), lines(asked(app, copies=2).content)[0]
    assert (streamed[0], streamed[-1]) == ({"hello": True}, {"bye": True})
    for i, copy in enumerate(whole["copies"]):
        assert "".join(one.get("said", "") for one in streamed if one.get("copy") == i) == copy["said"]
        assert {"copy": i, "over": copy["over"]} in streamed


@pytest.mark.parametrize("live", [False, True])
def test_tool_calls_are_found_for_it(live: bool) -> None:
    text = 'So: <tool_call>{"name": "add", "arguments": {"a": 3}}</tool_call>'
    told = lines(asked(toy_door(scripted(Chain(MARKER, text))), actions={"add": {"type": "object"}}, live=live).content)
    if live:
        assert {"copy": 0, "do": "add", "given": '{"a": 3}'} in told
        assert {"copy": 0, "over": "tool_calls"} in told
    else:
        assert told[0]["copies"] == [{"said": "So:", "do": ["add"], "over": "tool_calls"}]


@pytest.mark.parametrize(
    ("body", "status", "oops", "where"),
    [
        ({"talk": []}, 400, "invalid_value", "talk"),
        ({"brain": 3}, 400, "invalid_type", "brain"),
        ({"brain": "none"}, 404, "model_not_found", "brain"),
        ({"brain": "demo:direct", "plan": {"name": "best_of_n"}}, 400, "conflicting_parameters", "plan"),
        ({"ponder": 1 << 30}, 400, "thinking_budget_too_large", "ponder"),
        ({"plan": {"name": "none"}}, 400, "strategy_not_found", "plan"),
        ({"plan": {"name": "best_of_n", "n": "many"}}, 400, "invalid_type", "plan.n"),
        ({"plan": {"name": "best_of_n", "n": 257}}, 400, "invalid_value", "plan.n"),
        ({"copies": 65}, 400, "above_max_value", "copies"),
        ({"talk": ["x"] * 1025}, 400, "too_many", "talk"),
        ({"talk": ["x" * 100_001]}, 400, "context_length_exceeded", "talk"),
        ({"actions": {"add": json.loads('{"a":' * 40 + "1" + "}" * 40)}}, 400, "too_deep", "actions.0.parameters"),
    ],
)
def test_errors_name_its_own_fields(body: dict[str, Any], status: int, oops: str, where: str) -> None:
    response = asked(toy_door(scripted()), **body)
    told = lines(response.content)[0]
    assert (response.status_code, told["oops"], told["where"]) == (status, oops, where)
    assert set(told) == {"oops", "where", "why"}
    assert not any(word in told["why"] for word in ("messages", "thinking_budget", "strategy.", "max_"))
    assert response.headers["x-request-id"].startswith("req_")


def test_its_keys_come_in_its_own_header_and_the_way_to_it_speaks_it() -> None:
    app = toy_door(scripted(), Settings(keys=[KEY]))
    missing = asked(app, {"authorization": "Bearer secret"})
    assert (missing.status_code, lines(missing.content)[0]["oops"]) == (401, "missing_api_key")
    assert "X-Toy-Key" in lines(missing.content)[0]["why"]
    assert "www-authenticate" not in missing.headers
    assert asked(app, {"x-toy-key": "wrong"}).status_code == 401
    assert asked(app, {"x-toy-key": "secret"}).status_code == 200
    wrong = ask(app, "GET", Toy.path)
    assert (wrong.status_code, lines(wrong.content)[0]["oops"]) == (405, "method_not_allowed")
    broken = ask(app, url=Toy.path, content=b"{", headers={"x-toy-key": "secret", "content-type": "application/json"})
    assert lines(broken.content)[0]["oops"] == "invalid_json"


def test_a_failed_engine_is_told_in_its_words_whole_and_in_a_stream() -> None:
    whole = asked(toy_door(scripted(fail_at=0)))
    assert (whole.status_code, lines(whole.content)[0]["oops"]) == (500, "engine_error")
    told = lines(asked(toy_door(scripted(fail_at=0)), live=True).content)
    assert told[-1]["oops"] == "engine_error"
    assert {"bye": True} not in told
    assert MARKER not in f"{whole.text} {told}"


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("produced", [0, 1, 70])
def test_a_hang_up_stops_the_engine_and_every_token_is_counted(live: bool, produced: int) -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: LONG, tail=3)
        app = toy_door(engine)
        line = ToyLine(live=live)
        async with asyncio.TaskGroup() as group:
            group.create_task(line.call(app))
            await turns(lambda: engine.running > 0 and engine.produced >= produced)
            line.gone.set()
        assert engine.running == 0
        assert written(app) == engine.produced
        assert counted(app, "ponder_client_disconnects_total") == 1
        assert its_door(app).admission.inside == 0

    asyncio.run(go())


def test_a_silent_stream_hears_its_own_keep_alive() -> None:
    async def go() -> None:
        line = ToyLine(live=True)
        await line.call(toy_door(ScriptedEngine(lambda p, t, c: LONG, delay=0.005), Settings(keepalive=0.02)))
        assert {"still": "here"} in lines(line.text)
        assert b": keep-alive" not in line.text

    asyncio.run(go())


@pytest.mark.parametrize("live", [False, True])
def test_a_reader_who_does_not_read_is_dropped(live: bool) -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: LONG)
        app = toy_door(engine, Settings(limits={"send_timeout": 0.1}))  # pyright: ignore[reportArgumentType]
        line = ToyLine(live=live)
        line.blocked.clear()
        await line.call(app)
        assert engine.running == 0
        assert written(app) == engine.produced
        assert counted(app, 'ponder_client_disconnects_total{phase="slow_reader"}') == 1

    asyncio.run(go())


@pytest.mark.parametrize("live", [False, True])
def test_a_drain_lets_it_answer_with_its_best_and_turns_others_away_in_its_words(live: bool) -> None:
    async def go() -> tuple[ToyLine, ToyLine]:
        engine = ScriptedEngine(lambda p, t, c: Chain(MARKER * 1000, "It is 7."), delay=0.001)
        app = toy_door(engine, Settings(drain_timeout=0.05))
        inside, late = ToyLine(live=live), ToyLine()
        async with asyncio.TaskGroup() as group:
            group.create_task(inside.call(app))
            await turns(lambda: engine.running > 0)
            group.create_task(its_door(app).drain())
            await turns(lambda: its_door(app).admission.draining)
            await late.call(app)
        assert written(app) == engine.produced
        return inside, late

    inside, late = asyncio.run(go())
    told = lines(inside.text)
    said = "".join(one.get("said", "") for one in told) if live else told[0]["copies"][0]["said"]
    assert said == "It is 7."
    assert (late.sent[0]["status"], lines(late.text)[0]["oops"]) == (503, "draining")
    assert MARKER.encode() not in inside.text


def test_openai_is_untouched_beside_it() -> None:
    app = toy_door(scripted())
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}
    assert ask(app, json=body).json()["object"] == "chat.completion"
    assert set(ask(app, "GET", "/openapi.json").json()["paths"]) >= {Toy.path, "/v1/chat/completions"}


def test_paths_are_renamed_by_their_longest_known_part() -> None:
    names = FieldNames({"tools": "actions", "tools.*.parameters": "actions.*.takes.schema"})
    assert names("tools") == "actions"
    assert names("tools.3.parameters.a.0") == "actions.3.takes.schema.a.0"
    assert names("tools.3.name") == "actions.3.name"
    assert names("seed") == "seed"
