"""Anthropic's own clients, for Python and for Node, unmodified, against a server: what they ask, what they are given,
and which of their errors come out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.lib.tools import beta_tool
from fastapi import FastAPI

from ponder.compute.account import Intent
from ponder.compute.errors import NotPermitted, PonderError, TooBusy, Unavailable
from ponder.compute.usage import Usage
from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.testing import CARD, MARKER, ScriptedEngine
from tests.clients.sums import Sum, script
from tests.needs import node, npm
from tests.server.serving import door, its_door, serving

KEY = "pk-ann"
NODE = ("@anthropic-ai/sdk", "1.14.0")
THINK: dict[str, Any] = {"type": "enabled", "budget_tokens": 100}
QUESTION: list[Any] = [{"role": "user", "content": "What is 3 + 4?"}]
ADD: dict[str, Any] = {
    "name": "add",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}


class Refusing:
    """An account that refuses what is asked, for a reason of its own."""

    def __init__(self) -> None:
        self.reason: PonderError | None = None

    async def reserve(self, intent: Intent) -> Refusing:
        if self.reason is not None:
            raise self.reason
        return self

    used: Callable[[Usage], None] | None = None

    async def settle(self, usage: Usage, ending: str) -> None:
        pass


class Served:
    """A server, and what of it a test may change."""

    def __init__(self) -> None:
        self.engine = ScriptedEngine(script, replace(CARD, shows_thoughts=True))
        self.account = Refusing()
        settings = Settings(keys=[KeySettings(name="ann", hash=digest(KEY))], loop_thoughts=0)
        self.app: FastAPI = door(self.engine, settings, accounts=[self.account])
        self.url = ""

    def client(self, key: str = KEY, retries: int = 0) -> Any:
        return Anthropic(base_url=self.url, api_key=key, max_retries=retries)


@pytest.fixture(scope="module")
def on() -> Generator[Served]:
    served = Served()
    with serving(served.app) as place:
        served.url = place.url
        yield served


@pytest.fixture(scope="module")
def client(on: Served) -> Generator[Any]:
    with on.client() as made:
        yield made


def ask(client: Any, **more: Any) -> Any:
    return client.messages.create(**({"model": "demo", "max_tokens": 1000, "messages": QUESTION} | more))


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@pytest.mark.parametrize("more", [{}, {"thinking": THINK}, {"thinking": {"type": "disabled"}}], ids=str)
def test_a_message_streamed_and_not_is_the_same(client: Any, more: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"model": "demo", "max_tokens": 1000, "messages": QUESTION} | more
    whole: Any = client.messages.create(**asked)
    assert (text_of(whole), whole.stop_reason) == ("It is 7.", "end_turn")
    assert whole._request_id.startswith("req_")
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == "It is 7."
        final: Any = stream.get_final_message()
        assert stream.request_id is not None
    assert (text_of(final), final.usage, final.stop_reason) == (text_of(whole), whole.usage, whole.stop_reason)
    assert [one.type for one in final.content] == [one.type for one in whole.content]
    hidden = whole.usage.output_tokens_details.thinking_tokens
    assert (hidden == 0) == (more.get("thinking", {}).get("type") == "disabled")
    assert MARKER not in repr((whole, final))


def test_facts_about_the_thinking_are_beside_the_message(client: Any) -> None:
    asked = {"strategy": {"name": "majority_vote", "n": 3}, "thinking_budget": 300}
    whole = ask(client, extra_body=asked)
    assert (whole.ponder["strategy"], whole.ponder["spent"]) == ("majority_vote", whole.ponder["spent"])
    events = list(ask(client, extra_body=asked, stream=True))
    (last,) = [event for event in events if event.type == "message_delta"]
    assert last.ponder["strategy"] == "majority_vote"


def test_an_awaited_client_hears_the_same(on: Served) -> None:
    async def go() -> None:
        async with anthropic.AsyncAnthropic(base_url=on.url, api_key=KEY, max_retries=0) as client:
            whole = await client.messages.create(model="demo", max_tokens=1000, messages=QUESTION)
            async with client.messages.stream(model="demo", max_tokens=1000, messages=QUESTION) as stream:
                final = await stream.get_final_message()
            assert text_of(whole) == text_of(final) == "It is 7."

    asyncio.run(go())


def test_a_tool_is_called_and_its_result_is_heard(client: Any) -> None:
    with client.messages.stream(model="demo", max_tokens=1000, messages=QUESTION, tools=[ADD]) as stream:
        kinds = [event.type for event in stream]
        said: Any = stream.get_final_message()
    assert "input_json" in kinds
    text, use = [block for block in said.content if block.type != "thinking"]
    assert (text.text, use.name, use.input, said.stop_reason) == ("I ask.", "add", {"a": 3, "b": 4}, "tool_use")
    whole = ask(client, tools=[ADD])
    assert [block.type for block in whole.content] == ["text", "tool_use"]
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": use.id, "content": "7"}
    history = [*QUESTION, said.to_param(), {"role": "user", "content": [result]}]
    assert text_of(ask(client, tools=[ADD], messages=history)) == "It is 7."


@pytest.mark.parametrize("stream", [False, True])
def test_a_signature_that_is_handed_back_gives_the_model_its_thought(on: Served, client: Any, stream: bool) -> None:
    asked: dict[str, Any] = {"model": "demo", "max_tokens": 1000, "thinking": THINK, "tools": [ADD]}
    if stream:
        with client.messages.stream(messages=QUESTION, **asked) as events:
            said = events.get_final_message()
    else:
        said = client.messages.create(messages=QUESTION, **asked)
    thinking, _, use = said.content
    assert (thinking.type, thinking.thinking, bool(thinking.signature)) == ("thinking", "", True)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "7"}
    history = [*QUESTION, said.to_param(), {"role": "user", "content": [result]}]
    assert text_of(client.messages.create(messages=history, **asked)) == "It is 7."
    (turn,) = [one for one in on.engine.prompts[-1].messages if one.role == "assistant"]
    assert turn.thought is not None
    assert turn.thought.unseal() == f"{MARKER} I ask"
    thinking.signature = "A" + thinking.signature[1:] if thinking.signature[0] != "A" else "B" + thinking.signature[1:]
    history[1] = said.to_param()
    with pytest.raises(anthropic.BadRequestError) as raised:
        client.messages.create(messages=history, **asked)
    assert raised.value.error_code == "invalid_encrypted_content"


def test_the_tool_runner_runs_its_loop(client: Any) -> None:
    @beta_tool
    def add(a: int, b: int) -> str:
        """Adds."""
        return str(a + b)

    runner = client.beta.messages.tool_runner(model="demo", max_tokens=1000, messages=QUESTION, tools=[add])
    assert text_of(runner.until_done()) == "It is 7."


def test_an_answer_is_parsed_into_a_type(client: Any) -> None:
    asked: list[Any] = [{"role": "user", "content": "3 + 4 as JSON"}]
    parsed = client.messages.parse(model="demo", max_tokens=1000, messages=asked, output_format=Sum)
    assert parsed.parsed_output == Sum(result=7)
    with client.messages.stream(model="demo", max_tokens=1000, messages=asked, output_format=Sum) as stream:
        assert stream.get_final_message().parsed_output == Sum(result=7)


def test_betas_are_tolerated(client: Any) -> None:
    message = client.beta.messages.create(
        model="demo", max_tokens=1000, messages=QUESTION, betas=["interleaved-thinking-2025-05-14"]
    )
    assert text_of(message) == "It is 7."


def test_tokens_are_counted_as_the_usage_has_them(client: Any) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": QUESTION, "system": "Be kind.", "tools": [ADD]}
    count = client.messages.count_tokens(**asked).input_tokens
    usage = client.messages.create(max_tokens=100, **asked).usage
    assert count == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert client.beta.messages.count_tokens(**asked).input_tokens == count


def test_models_are_listed_page_by_page_and_found(client: Any) -> None:
    models = list(client.models.list(limit=3))
    ids = [model.id for model in models]
    assert ids[0] == "demo"
    assert "demo:best_of_n" in ids
    assert len(ids) == len(set(ids)) > 6
    assert [model.id for model in client.models.list(before_id=ids[2], limit=3)] == ids[:2]
    one = client.models.retrieve("demo:best_of_n")
    assert (one.id, one.type, one.max_input_tokens) == ("demo:best_of_n", "model", 100_000)
    assert one.capabilities is not None
    assert one.capabilities.thinking.types.enabled.supported
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("none")


ERRORS: list[tuple[type[anthropic.APIStatusError], str, str, dict[str, Any]]] = [
    (anthropic.BadRequestError, "invalid_request_error", "invalid_value", {"temperature": 3}),
    (anthropic.BadRequestError, "invalid_request_error", "unsupported_parameter", {"container": "c"}),
    (anthropic.NotFoundError, "not_found_error", "model_not_found", {"model": "none"}),
    (anthropic.RequestTooLargeError, "request_too_large", "body_too_large", {"system": "x" * 2_000_000}),
]


@pytest.mark.parametrize(("kind", "type_", "code", "more"), ERRORS, ids=[code for _, _, code, _ in ERRORS])
def test_what_is_wrong_is_an_error_of_the_sdk(
    client: Any, kind: type[anthropic.APIStatusError], type_: str, code: str, more: dict[str, Any]
) -> None:
    with pytest.raises(kind) as raised:
        ask(client, extra_body=more)
    error = raised.value
    assert (error.type, error.error_code) == (type_, code)
    assert error.api_message
    assert error.request_id is not None
    assert error.request_id.startswith("req_")


@pytest.mark.parametrize(
    ("kind", "type_", "reason"),
    [
        (anthropic.PermissionDeniedError, "permission_error", NotPermitted("no", code="missing_scope")),
        (anthropic.RateLimitError, "rate_limit_error", TooBusy("no", code="server_busy")),
        (anthropic.ServiceUnavailableError, "overloaded_error", Unavailable("no", code="engine_unavailable")),
    ],
)
def test_a_refusal_is_an_error_of_the_sdk(
    on: Served, client: Any, kind: type[anthropic.APIStatusError], type_: str, reason: PonderError
) -> None:
    on.account.reason = reason
    try:
        for stream in (False, True):
            with pytest.raises(kind) as raised:
                ask(client, stream=stream)
            assert raised.value.type == type_
    finally:
        on.account.reason = None


def test_an_unknown_key_is_the_sdks_own_error(on: Served) -> None:
    with on.client("pk-nobody") as client, pytest.raises(anthropic.AuthenticationError) as raised:
        ask(client)
    assert raised.value.error_code == "invalid_api_key"


def test_a_model_that_fails_is_told_whole_and_in_a_stream_and_not_asked_again(on: Served) -> None:
    with on.client(retries=2) as client:
        on.engine.fail_at = on.engine.calls
        with pytest.raises(anthropic.InternalServerError) as raised:
            ask(client)
        assert raised.value.type == "api_error"
        on.engine.fail_at = on.engine.calls
        with pytest.raises(anthropic.APIStatusError) as cut:
            list(ask(client, stream=True))
        assert (cut.value.type, cut.value.error_code) == ("api_error", "engine_error")
        assert MARKER not in str((raised.value.body, cut.value.body))
        on.engine.fail_at = None


def test_a_drain_is_told(on: Served, client: Any) -> None:
    admission = its_door(on.app).admission
    admission.draining = True
    try:
        with pytest.raises(anthropic.ServiceUnavailableError) as raised:
            ask(client)
        assert raised.value.error_code == "draining"
    finally:
        admission.draining = False


def test_the_client_for_node_hears_the_same(on: Served, client: Any) -> None:
    heard = json.loads(node(Path(__file__).with_name("anthropic_sdk.cjs"), npm(*NODE), on.url, KEY))
    assert heard["whole"]["content"] == [{"type": "text", "text": "It is 7."}]
    for message in (heard["thought"], heard["streamed"]):
        thinking, text = message["content"]
        assert (thinking["type"], thinking["thinking"], text["text"]) == ("thinking", "", "It is 7.")
        assert thinking["signature"]
        assert message["usage"] == heard["thought"]["usage"]
    assert "".join(heard["texts"]) == "It is 7."
    assert (heard["kinds"][0], heard["kinds"][-1]) == ("message_start", "message_stop")
    assert heard["call"]["content"][-1]["input"] == {"a": 3, "b": 4}
    assert heard["call"]["stop_reason"] == "tool_use"
    assert heard["answer"]["content"][-1]["text"] == "It is 7."
    (turn,) = [one for one in on.engine.prompts[-1].messages if one.role == "assistant"]
    assert turn.thought is not None
    assert turn.thought.unseal() == f"{MARKER} I ask"
    assert heard["count"]["input_tokens"] == heard["whole"]["usage"]["input_tokens"]
    assert heard["models"] == [model.id for model in client.models.list()]
    assert heard["model"]["id"] == "demo:direct"
    assert MARKER not in json.dumps(heard)
    kinds = {name: (error["kind"], error["status"], error["type"]) for name, error in heard["errors"].items()}
    assert kinds == {
        "range": ("BadRequestError", 400, "invalid_request_error"),
        "model": ("NotFoundError", 404, "not_found_error"),
        "signature": ("BadRequestError", 400, "invalid_request_error"),
        "key": ("AuthenticationError", 401, "authentication_error"),
    }
    assert all(error["id"].startswith("req_") for error in heard["errors"].values())
