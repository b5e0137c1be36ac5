"""The door itself: who may come in, how many, for how long; what it tells of itself; how it closes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai.types import Model
from starlette.routing import Route

from ponder.compute.engine import Checked
from ponder.compute.lengths import Lengths
from ponder.server.app import ServedModel, create_app
from ponder.server.auth.access import AuthenticatedRoute
from ponder.server.auth.keys import digest
from ponder.server.pages import Page
from ponder.server.settings import KeySettings, ModelSettings, Settings
from ponder.testing import Chain, ScriptedEngine, ScriptedRewards, always, in_virtual_time
from tests.server.serving import (
    Line,
    answered,
    ask,
    chat,
    counted,
    door,
    in_no_time,
    its_door,
    refused,
    scripted,
    written,
)

SLOW = Chain("t" * 50, "a" * 50)
KEYS = Settings(
    keys=[
        KeySettings(name="ann", hash=digest("pk-ann"), scopes=frozenset({"infer"}), models=frozenset({"demo"})),
        KeySettings(name="bob", hash=digest("pk-bob"), scopes=frozenset({"usage", "admin"})),
    ]
)
ANN, BOB = {"authorization": "Bearer pk-ann"}, {"authorization": "Bearer pk-bob"}


# -- who ---------------------------------------------------------------------------------------------------------------


def scope_of(route: Route) -> str | None:
    """What a route says of the keys it is for; it must say something."""
    if isinstance(route, Page):
        return None if route.needs is None else route.needs.scope
    assert isinstance(route.app, AuthenticatedRoute)
    return route.app.scope


def test_without_a_key_nothing_but_the_probes_is_open() -> None:
    app = door(scripted(), KEYS)
    open_routes: set[str] = set()
    for route in app.router.routes:
        assert isinstance(route, Route)
        if scope_of(route) is None:
            open_routes.add(route.path)
            assert ask(app, "GET", route.path).status_code == 200
            continue
        method = "POST" if "POST" in (route.methods or ()) else "GET"
        response = ask(app, method, route.path.replace("{id:path}", "demo"))
        assert response.status_code == 401
        assert '"missing_api_key"' in response.text.lower()
        assert response.headers["www-authenticate"] == "Bearer"
    assert open_routes == {"/livez", "/readyz", "/health"}


def test_a_key_opens_what_its_scopes_say() -> None:
    app = door(scripted(), KEYS)
    assert chat(app, ANN).status_code == 200
    refused(chat(app, BOB), 403, "missing_scope")
    refused(ask(app, "GET", "/metrics", headers=ANN), 403)
    assert ask(app, "GET", "/metrics", headers=BOB).status_code == 200
    assert ask(app, "GET", "/healthz", headers=BOB).status_code == 200
    assert "wrong-key" not in refused(chat(app, {"authorization": "Bearer wrong-key"}), 401, "invalid_api_key")
    assert counted(app, "ponder_admission_rejections_total") >= 3


def test_a_key_may_be_held_to_some_models() -> None:
    engine = scripted()
    served = {name: ServedModel(engine, Lengths(20, 40), ModelSettings(path="x")) for name in ("demo", "other")}
    app = create_app(KEYS, served)
    refused(chat(app, ANN, model="other"), 403, "model_not_permitted", "model")
    assert chat(app, ANN, model="demo:direct").status_code == 200
    ids = [m["id"] for m in ask(app, "GET", "/v1/models", headers=ANN).json()["data"]]
    assert "demo" in ids
    assert "other" not in ids


# -- what it tells -----------------------------------------------------------------------------------------------------


def test_models_are_listed_alone_and_with_each_strategy_and_found_again() -> None:
    app = door(scripted(), name="org/demo")
    listed = ask(app, "GET", "/v1/models").json()
    assert listed["object"] == "list"
    ids = [Model.model_validate(m, strict=True).id for m in listed["data"]]
    assert ids[:2] == ["org/demo", "org/demo:direct"]
    for one in ids:
        assert ask(app, "GET", f"/v1/models/{one}").json()["id"] == one
    refused(ask(app, "GET", "/v1/models/none"), 404, "model_not_found")


def test_strategies_are_listed_with_words_and_schema() -> None:
    listed = ask(door(scripted()), "GET", "/v1/strategies").json()
    by_name = {s["name"]: s for s in listed["data"]}
    assert by_name["direct"]["description"]
    assert by_name["majority_vote"]["parameters"]["properties"]["n"]["maximum"] == 256
    assert {v["name"] for v in listed["verifiers"]} >= {"agreement", "prm"}


def test_health_is_told() -> None:
    engine = scripted()
    app = door(engine)
    assert ask(app, "GET", "/livez").status_code == 200
    assert ask(app, "GET", "/readyz").status_code == 200
    assert ask(app, "GET", "/healthz").json()["models"]["demo"]["answers"] is True
    engine.closed = True
    app = door(engine)
    assert ask(app, "GET", "/livez").status_code == 200
    response = ask(app, "GET", "/readyz")
    refused(response, 503, "engine_unavailable")
    assert int(response.headers["retry-after"]) > 0
    response = ask(app, "GET", "/healthz")
    refused(response, 503, "engine_unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert (response.json()["status"], response.json()["models"]["demo"]["answers"]) == ("unavailable", False)
    assert counted(app, "ponder_engine_up") == 0


def test_a_reward_model_that_is_away_is_told_and_the_server_stays_ready() -> None:
    app = door(scripted(), reward_model=ScriptedRewards(lambda line: 0.5, fails=True))
    assert ask(app, "GET", "/readyz").status_code == 200
    told = ask(app, "GET", "/healthz").json()
    assert (told["status"], told["models"]["demo"]["answers"]) == ("degraded", True)
    assert told["models"]["demo"]["reward_model"] == {"name": "scripted-prm", "answers": False}
    assert counted(app, 'ponder_engine_up{model="demo",role="verifier"}') == 0
    assert counted(app, 'ponder_engine_up{model="demo",role="generator"}') == 1
    answered(app, strategy="best_of_n", thinking_budget=2000)
    assert counted(app, 'ponder_verifier_degraded_total{verifier="prm"}') == 1


def test_prometheus_learns_that_a_model_is_away_without_another_asking() -> None:
    engine, rewards = scripted(), ScriptedRewards(lambda line: 0.5)
    served = {"demo": ServedModel(engine, Lengths(20, 40), ModelSettings(path="x"), rewards)}
    up = 'ponder_engine_up{model="demo",role="%s"} %d.0'
    text = ask(create_app(Settings(), served), "GET", "/metrics").text
    assert up % ("generator", 1) in text
    assert up % ("verifier", 1) in text
    engine.closed = rewards.fails = True
    text = ask(create_app(Settings(), served), "GET", "/metrics").text
    assert up % ("generator", 0) in text
    assert up % ("verifier", 0) in text


def test_what_a_model_writes_to_show_that_it_answers_is_metered_and_billed_to_nobody() -> None:
    class Drawing(ScriptedEngine):
        async def check(self) -> Checked:
            self.produced += 1
            return Checked(prompt=3, cached=2, written=1)

    engine = Drawing(always(Chain("t", "a")))
    app = door(engine)
    for url in ("/readyz", "/healthz", "/metrics"):
        assert ask(app, "GET", url).status_code == 200
    assert engine.produced == 1  # they asked within a second
    assert written(app) == engine.produced
    assert counted(app, 'ponder_engine_tokens_total{kind="prompt",model="demo",role="check"}') == 1
    answered(app)
    assert written(app) == engine.produced
    billed = [counted(app, f'ponder_billed_tokens_total{{kind="{kind}"}}') for kind in ("reasoning", "visible")]
    assert sum(billed) == engine.produced - 1


def test_metrics_are_told_apart_from_those_of_the_engine() -> None:
    served = {"demo": ServedModel(scripted(), Lengths(20, 40), ModelSettings(path="x"))}
    app = create_app(Settings(), served, engine_metrics=lambda: b"vllm:x 1\n")
    answered(app)
    text = ask(app, "GET", "/metrics").text
    assert "ponder_requests_total{" in text
    assert "vllm" not in text
    assert ask(app, "GET", "/metrics/engine").text == "vllm:x 1\n"


def test_the_schema_names_our_fields() -> None:
    schema = ask(door(scripted()), "GET", "/openapi.json").json()
    body = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    body = schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert {"thinking_budget", "strategy", "messages"} <= set(body["properties"])


@pytest.mark.parametrize(
    ("method", "url", "status", "code"),
    [
        ("GET", "/", 404, "route_not_found"),
        ("GET", "/v1/nonesuch", 404, "route_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/demo", 403, "model_is_served"),
        ("DELETE", "/v1/models/none", 404, "model_not_found"),
        ("PUT", "/v1/models/demo", 405, "method_not_allowed"),
        ("PUT", "/livez", 405, "method_not_allowed"),
        ("PATCH", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
def test_wrong_routes_and_methods_have_the_one_shape(method: str, url: str, status: int, code: str) -> None:
    response = ask(door(scripted()), method, url)
    refused(response, status, code)
    if status == 405:
        assert response.headers["allow"]


def test_all_methods_of_a_path_are_told_to_who_takes_another() -> None:
    app = door(scripted())
    assert ask(app, "PUT", "/v1/keys").headers["allow"] == "GET, HEAD, POST"
    assert ask(app, "PUT", "/v1/keys/x").headers["allow"] == "DELETE, GET, HEAD, POST"


def test_head_is_answered_like_get() -> None:
    assert ask(door(scripted()), "HEAD", "/livez").status_code == 200
    assert ask(door(scripted()), "HEAD", "/v1/models").status_code == 200
    assert ask(door(scripted()), "HEAD", "/v1/chat/completions").status_code == 405


def test_every_answer_has_its_own_id() -> None:
    app = door(scripted())
    answers = [chat(app), chat(app), chat(app, n=0), ask(app, "GET", "/livez"), ask(app, "GET", "/nix")]
    assert len({a.headers["x-request-id"] for a in answers}) == 5


# -- how many and how long ---------------------------------------------------------------------------------------------


def test_more_than_run_wait_and_more_than_may_wait_are_turned_away() -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: SLOW, delay=0.001)
        app = door(engine, Settings(max_inflight=2, max_queue=1))
        lines = [Line() for _ in range(5)]
        async with asyncio.TaskGroup() as group:
            for line in lines:
                group.create_task(line.call(app))
        assert sorted(line.sent[0]["status"] for line in lines) == [200, 200, 200, 429, 429]
        assert engine.most_running == 2
        turned = next(line for line in lines if line.sent[0]["status"] == 429)
        assert 1 <= int(dict(turned.sent[0]["headers"])[b"retry-after"]) <= 120
        assert counted(app, 'ponder_admission_rejections_total{reason="busy"}') == 2
        assert its_door(app).admission.inside == its_door(app).admission.queued == 0

    in_virtual_time(go())


def test_who_waits_too_long_is_told_to_come_again() -> None:
    async def go() -> None:
        app = door(ScriptedEngine(lambda p, t, c: SLOW, delay=0.005), Settings(max_inflight=1))
        first, second = Line(), Line(timeout=0.05)
        async with asyncio.TaskGroup() as group:
            group.create_task(first.call(app))
            await asyncio.sleep(0.01)
            group.create_task(second.call(app))
        assert (first.sent[0]["status"], second.sent[0]["status"]) == (200, 429)
        assert its_door(app).admission.inside == 0

    in_virtual_time(go())


def test_a_stream_hears_its_role_and_comments_while_it_waits_for_a_place() -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: SLOW, delay=0.002)
        app = door(engine, Settings(max_inflight=1, max_queue=1, keepalive=0.02))
        first, second, third = Line(), Line(stream=True, n=2), Line(stream=True)
        async with asyncio.TaskGroup() as group:
            for line in (first, second, third):
                group.create_task(line.call(app))
            await asyncio.sleep(0.1)
            assert (its_door(app).admission.inside, its_door(app).admission.queued) == (1, 1)
            assert counted(app, "ponder_queue_depth") == 1
            assert (second.sent[0]["status"], third.sent[0]["status"]) == (200, 429)
            assert second.text.count(b'"role": "assistant"') == 2
            assert second.text.count(b": keep-alive\n\n") >= 2
            assert engine.calls == 1
        assert second.text.count(b'"role": "assistant"') == 2
        assert second.text.endswith(b"data: [DONE]\n\n")
        assert counted(app, "ponder_queue_depth") == its_door(app).admission.inside == 0

    in_virtual_time(go())


@pytest.mark.parametrize(("ends", "code"), [("drain", "draining"), ("time", "server_busy")])
def test_a_stream_that_waited_in_vain_is_told_so_in_an_event(ends: str, code: str) -> None:
    async def go() -> None:
        app = door(ScriptedEngine(lambda p, t, c: SLOW, delay=0.002), Settings(max_inflight=1))
        first, second = Line(), Line(stream=True, timeout=0.1 if ends == "time" else 60)
        async with asyncio.TaskGroup() as group:
            group.create_task(first.call(app))
            waiting = group.create_task(second.call(app))
            await asyncio.sleep(0.02)
            if ends == "drain":
                group.create_task(its_door(app).drain())
            await waiting
            assert its_door(app).admission.queued == 0
        told = json.loads(second.text.decode().strip().rpartition("data: ")[2])["error"]
        assert (second.sent[0]["status"], told["code"], second.sent[-1]["more_body"]) == (200, code, False)
        assert b"[DONE]" not in second.text
        assert counted(app, 'ponder_requests_total{outcome="turned_away"}') == 1

    in_virtual_time(go())


@pytest.mark.parametrize(
    ("headers", "body"), [({}, {"timeout": 0.2}), ({"x-request-timeout": "0.2"}, {}), ({}, {"timeout": 0.2, "n": 2})]
)
def test_at_the_deadline_the_best_so_far_is_the_answer(headers: dict[str, str], body: dict[str, Any]) -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain("t" * 20, "a" * 5000), delay=0.001)
    told = in_no_time(door(engine), headers, **body).json()
    assert told["thinking"]["stopped_by"] == "deadline"
    assert told["choices"][0]["finish_reason"] == "length"
    assert told["choices"][0]["message"]["content"].startswith("a")


def test_a_deadline_with_nothing_at_all_is_504() -> None:
    response = in_no_time(door(ScriptedEngine(lambda p, t, c: SLOW, delay=0.5)), timeout=0.05)
    refused(response, 504, "deadline_passed")


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_tells_what_it_used(stream: bool) -> None:
    """What the metrics bill is what the caller is told, though there is no answer."""
    app = door(engine := scripted(vanish_at={0: 20}))
    text = chat(app, stream=stream).text
    told = json.loads(text.strip().rpartition("data: ")[2]) if stream else json.loads(text)
    assert told["error"]["code"] == "engine_lost"
    assert told["usage"]["completion_tokens"] == engine.produced == 20
    assert told["usage"]["prompt_tokens"] > 0
    assert told["usage"]["completion_tokens_details"]["reasoning_tokens"] <= engine.produced


def test_a_failed_engine_is_500_and_not_to_be_tried_again_where_tokens_were_made() -> None:
    response = chat(door(scripted(fail_at=0)))
    refused(response, 500, "engine_error")
    assert response.headers["x-should-retry"] == "false"


def test_a_model_that_goes_away_is_503_and_no_client_tries_again_by_itself_where_tokens_were_made() -> None:
    app = door(engine := scripted(vanish_at={0: 20}))
    response = chat(app)
    assert "billed" in json.loads(response.text)["error"]["message"]
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_lost"
    assert response.headers["x-should-retry"] == "false"
    assert int(response.headers["retry-after"]) > 0
    (trace,) = ask(app, "GET", f"/v1/traces/{response.headers['x-request-id']}").json()["choices"]
    assert [(call["ending"], call["tokens"]["hidden"]) for call in trace["calls"]] == [("lost", 20)]
    assert written(app) == engine.produced == 20
    assert answered(app)["choices"][0]["finish_reason"] == "stop"


def test_an_answer_given_without_a_chain_whose_model_went_away_says_so() -> None:
    app = door(engine := scripted(vanish_at={1: 20}))
    response = chat(app, strategy="best_of_n", thinking_budget=2000)
    assert response.json()["thinking"]["stopped_by"] == "engine_error"
    (trace,) = ask(app, "GET", f"/v1/traces/{response.headers['x-request-id']}").json()["choices"]
    assert [call["ending"] for call in trace["calls"]].count("lost") == 1
    names = [str(call) for call in engine.identities]
    assert names == [f"{response.headers['x-request-id']}/0.{i}/sample" for i in range(len(names))]


def test_the_servers_own_limit_of_time_holds() -> None:
    app = door(ScriptedEngine(lambda p, t, c: Chain("t", "a" * 5000), delay=0.001), Settings(timeout=0.2))
    assert in_no_time(app, timeout=1000).json()["thinking"]["stopped_by"] == "deadline"


# -- closing -----------------------------------------------------------------------------------------------------------


def test_a_drain_lets_those_inside_finish_and_nobody_new_in() -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: SLOW, delay=0.001)
        app = door(engine, Settings(max_inflight=1))
        inside, waiting, late, ready = Line(), Line(), Line(), Line()
        async with asyncio.TaskGroup() as group:
            group.create_task(inside.call(app))
            await asyncio.sleep(0.01)
            group.create_task(waiting.call(app))
            await asyncio.sleep(0.01)
            drained = group.create_task(its_door(app).drain())
            await asyncio.sleep(0.01)
            await late.call(app)
            await app(
                {"type": "http", "method": "GET", "path": "/readyz", "headers": [], "query_string": b""},
                ready.receive,
                ready.send,
            )
            await drained
            assert inside.sent[0]["status"] == 200
        assert [line.sent[0]["status"] for line in (waiting, late, ready)] == [503, 503, 503]
        assert b"retry-after" in dict(late.sent[0]["headers"])
        assert json.loads(inside.text)["choices"][0]["finish_reason"] == "stop"

    in_virtual_time(go())


@pytest.mark.parametrize("body", [{}, {"stream": True}, {"n": 3}])
def test_a_drain_that_takes_too_long_asks_for_the_best_so_far(body: dict[str, Any]) -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: Chain("t" * 10, "a" * 100_000), delay=0.001)
        app = door(engine, Settings(drain_timeout=0.1))
        line = Line(**body)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(line.call(app))
            await asyncio.sleep(0.05)
            await its_door(app).drain()
        assert b'"stopped_by":"draining"' in line.text.replace(b": ", b":")
        assert engine.running == 0

    in_virtual_time(go())
