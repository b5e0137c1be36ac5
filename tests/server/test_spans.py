"""Spans of OpenTelemetry, as a collector receives them: counts as they are billed, a bounded number, and no text."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from ponder.server import logs
from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.server.spans import MOST
from ponder.server.tracing import tracing_if_wanted, wanted
from ponder.testing import MARKER, Chain, ScriptedEngine, ScriptedRewards, always
from tests.server.collector import Collector, collector
from tests.server.ledgered import options, told
from tests.server.serving import ASK, PATH, Line, asked, door, refused, scripted

CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
"""Trace and span of a caller."""
CHAINS = (Chain("three and four\nmake seven", "It is 7."), Chain("three\nand four make\nnine", "It is 9."))


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Generator[Collector]:
    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


def traced(work: Callable[[FastAPI], Coroutine[Any, Any, Any]], engine: Any = None, *args: Any, **more: Any) -> Any:
    """Some work on a server that sends spans; all have gone when it returns."""

    async def go() -> Any:
        async with tracing_if_wanted() as tracing:
            assert tracing is not None
            return await work(door(engine or scripted(), *args, tracing=tracing, **more))

    return asyncio.run(go())


async def chat(app: FastAPI, headers: Any = None, **body: Any) -> Any:
    return await asked(app, "POST", PATH["path"], json=ASK | body, headers=headers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", ["direct", "best_of_n", "majority_vote", "beam_search"])
def test_a_request_is_one_span_with_what_is_billed_and_its_calls_are_children(
    strategy: str, stream: bool, collected: Collector
) -> None:
    engine, rewards = ScriptedEngine(always(*CHAINS)), ScriptedRewards(lambda line: len(line) / 100)
    wish: dict[str, Any] = {"strategy": strategy, "thinking_budget": 400, "seed": 7, "temperature": 0.5}
    response = traced(lambda app: chat(app, **wish, **options(stream)), engine, reward_model=rewards)
    last = told(response, stream)
    (root,) = collected.roots
    usage, thinking = last["usage"], last["thinking"]
    assert collected.paths == {"/v1/traces"}
    assert (root.name, root.parent, root.failed) == ("chat demo", "", False)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ponder",
        "gen_ai.request.model": "demo",
        "gen_ai.response.model": "demo",
        "gen_ai.request.seed": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.reasoning.output_tokens": usage["completion_tokens_details"]["reasoning_tokens"],
        "gen_ai.response.finish_reasons": ["stop"],
        "http.response.status_code": 200,
        "http.route": PATH["path"],
        "ponder.request.id": response.headers["x-request-id"],
        "ponder.strategy": strategy,
        "ponder.outcome": "answered",
        "ponder.stopped_by": thinking["stopped_by"],
        "ponder.samples": thinking["samples"],
        "ponder.tokens.discarded": thinking["discarded_tokens"],
        "ponder.tokens.verifier": thinking["verifier_tokens"],
        "ponder.cost_usd": pytest.approx(thinking["cost_usd"]),
    }
    assert {name: root.facts[name] for name in expected} == expected
    assert (
        ("gen_ai.response.time_to_first_chunk" in root.facts)
        == stream
        == root.facts.get("gen_ai.request.stream", False)
    )
    calls = [child for child in collected.children if child.name != "score"]
    assert len(calls) == engine.calls == root.facts["ponder.calls"] - len(collected.children) + len(calls)
    assert sum(c.facts["ponder.tokens.hidden"] + c.facts["ponder.tokens.visible"] for c in calls) == engine.produced
    judged = [child for child in collected.children if child.name == "score"]
    assert sum(child.facts["ponder.tokens.verifier"] for child in judged) == rewards.read == thinking["verifier_tokens"]
    assert {child.facts["gen_ai.evaluation.name"] for child in judged} <= {"prm", "agreement"}
    for child in collected.children:
        assert (child.trace, child.parent) == (root.trace, root.id)
        assert root.began <= child.began <= child.ended <= root.ended
        # Whoever adds it up over spans counts each token once.
        assert not any(name.startswith("gen_ai.usage") for name in child.facts)
    assert collected.resource["service.name"] == "ponder"


def test_each_answer_s_end_is_told_in_the_conventions_words(collected: Collector) -> None:
    called = Chain("look it up", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')
    tool: dict[str, Any] = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
    }

    async def work(app: FastAPI) -> None:
        assert (await chat(app, tools=[tool], thinking_budget=100)).status_code == 200
        assert (await chat(app, n=2, max_completion_tokens=30)).status_code == 200

    traced(work, ScriptedEngine(always(called)))
    calls, cut = collected.roots
    assert calls.facts["gen_ai.response.finish_reasons"] == ["tool_call"]
    assert cut.facts["gen_ai.response.finish_reasons"] == ["length", "length"]
    assert (cut.facts["gen_ai.request.choice.count"], cut.facts["gen_ai.request.max_tokens"]) == (2, 30)
    assert {child.facts["ponder.answer"] for child in collected.children if child.parent == cut.id} == {0, 1}


def test_a_caller_s_trace_is_gone_on_with(collected: Collector) -> None:
    good = f"00-{CALLER[0]}-{CALLER[1]}-01"

    async def work(app: FastAPI) -> None:
        for header in (good, "00-zz-1-01", f"00-{'0' * 32}-{CALLER[1]}-01"):
            headers = {"traceparent": header, "tracestate": "vendor=words-of-the-caller", "baggage": "a=words-too"}
            assert (await chat(app, headers)).status_code == 200
        twice = [("traceparent", good), ("traceparent", good)]
        assert (await chat(app, twice)).status_code == 200

    traced(work)
    first, *others = collected.roots
    assert (first.trace, first.parent) == CALLER
    assert len({span.trace for span in others} - {CALLER[0], "0" * 32}) == 3
    assert all(span.parent == "" for span in others)
    assert b"words" not in b"".join(collected.bodies)


def test_a_caller_who_keeps_no_trace_has_none_kept_here(collected: Collector) -> None:
    traced(lambda app: chat(app, {"traceparent": f"00-{CALLER[0]}-{CALLER[1]}-00"}))
    assert not collected.bodies


def test_a_request_with_a_slash_too_many_in_its_path_has_its_span(collected: Collector) -> None:
    traced(lambda app: asked(app, "POST", PATH["path"] + "/", json=ASK))
    assert [root.name for root in collected.roots] == ["chat demo"]


def test_no_text_and_no_key_is_in_a_span(collected: Collector) -> None:
    key, words = "pk-" + "0123456789abcdef" * 2, Chain(f"{MARKER}: hidden-word", "visible-word")
    settings = Settings(keys=[KeySettings(name="alice", hash=digest(key))])
    body = {
        "messages": [{"role": "user", "content": "asked-word"}],
        "user": "user-word",
        "metadata": {"name-word": "value-word"},
        "stop": ["stop-word"],
    }

    async def work(app: FastAPI) -> None:
        for given in (key, "pk-wrong-word"):
            await chat(app, {"authorization": f"Bearer {given}", "user-agent": "agent-word"}, **body)
        await chat(app, {"authorization": f"Bearer {key}"}, model="model-word")
        await chat(app, {"authorization": f"Bearer {key}"}, **{"field-word": 1, "thinking_budget": "budget-word"})

    traced(work, scripted(words), settings)
    raw = b"".join(collected.bodies)
    assert len(collected.roots) == 4
    assert b"alice" in raw
    for secret in (MARKER, key, "wrong", digest(key), "-word"):
        assert secret.encode() not in raw


def test_a_request_of_many_calls_has_a_bounded_number_of_spans(collected: Collector) -> None:
    wish: dict[str, Any] = {"strategy": {"name": "best_of_n", "n": 256}, "thinking_budget": 20_000, "seed": 1}
    settings = Settings(limits={"samples": 256})  # type: ignore[arg-type]
    engine = ScriptedEngine(always(*CHAINS))
    response = traced(lambda app: chat(app, **wish), engine, settings)
    assert response.status_code == 200, response.text
    (root,) = collected.roots
    assert engine.calls > 200
    assert len(collected.children) == MOST
    assert root.facts["ponder.calls"] - root.facts["ponder.calls_left_out"] == MOST
    assert any(child.facts.get("ponder.call.chosen") for child in collected.children)
    assert any(child.name == "score" for child in collected.children)


def test_what_is_refused_what_fails_and_who_hangs_up_is_told(collected: Collector) -> None:
    engine = ScriptedEngine(always(*CHAINS), fail_at=0)

    async def work(app: FastAPI) -> None:
        refused(await chat(app, model="other"), 404)
        assert (await chat(app)).status_code >= 500
        line = Line(thinking_budget=60)
        line.gone.set()
        await line.call(app)
        assert (await asked(app, "GET", "/livez")).status_code == 200

    traced(work, engine)
    unknown, failed, gone = collected.roots
    assert (unknown.name, unknown.failed, unknown.facts["http.response.status_code"]) == ("chat", False, 404)
    status = failed.facts["http.response.status_code"]
    assert failed.facts["gen_ai.response.finish_reasons"] == ["error"]
    assert (failed.failed, failed.facts["error.type"], failed.facts["ponder.outcome"]) == (True, str(status), "failed")
    assert gone.failed is False
    assert "http.response.status_code" not in gone.facts


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_lines_of_a_request_have_its_trace(form: Any, collected: Collector) -> None:
    stream = io.StringIO()
    lines = logs.Handler(stream, logs.Lines(form))
    logger = logging.getLogger("ponder")
    logger.addHandler(lines)
    try:
        response = traced(chat, ScriptedEngine(always(*CHAINS), fail_at=0))
    finally:
        logger.removeHandler(lines)
    (root,) = collected.roots
    (line,) = [line for line in stream.getvalue().splitlines() if response.headers["x-request-id"] in line]
    if form == "json":
        assert (json.loads(line)["trace_id"], json.loads(line)["span_id"]) == (root.trace, root.id)
    else:
        assert f"trace_id={root.trace} " in line


def test_the_environment_names_the_service(collected: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "thinker")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    traced(chat)
    assert collected.resource["service.name"] == "thinker"
    assert collected.resource["deployment.environment.name"] == "test"
    assert collected.resource["service.version"]


def test_a_collector_that_is_away_costs_no_request_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as gone:
        pass
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{gone.url}/v1/traces")
    assert traced(chat).status_code == 200


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "ponder"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "True"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "zipkin"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "otlp"}, "http/protobuf"),
    ],
)
def test_whether_spans_are_wanted_is_read_as_opentelemetry_has_it(
    environment: dict[str, str], protocol: str | None
) -> None:
    assert wanted(environment) == protocol


def test_without_its_variables_nothing_of_opentelemetry_is_loaded() -> None:
    program = """
import asyncio, sys
from ponder.server.tracing import tracing_if_wanted
from tests.server.serving import door, scripted

async def go():
    async with tracing_if_wanted() as tracing:
        door(scripted(), tracing=tracing)
        print(tracing, sorted(name for name in sys.modules if name.startswith("opentelemetry")))

asyncio.run(go())
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=root, check=True
    )
    assert done.stdout == "None []\n"
