"""Google's own clients, unmodified, against a server: what they ask, what they are given, and which of their errors
come out. Python's here; that of Node speaks in `google_genai.mjs`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from google import genai
from google.genai import errors, types

from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.testing import MARKER, ScriptedEngine
from tests.clients.sums import Sum, script
from tests.needs import node, npm
from tests.server.serving import door, serving

NODE = ("@google/genai", "2.32.0")
"""Google's client for Node, as it is in npm's registry."""
KEY = "pk-ann"
QUESTION = "What is 3 + 4?"


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


class Served:
    """A server, and what of it a test may look at."""

    def __init__(self) -> None:
        self.engine = ScriptedEngine(script)
        settings = Settings(keys=[KeySettings(name="ann", hash=digest(KEY))])
        self.app: FastAPI = door(self.engine, settings)
        self.url = ""
        self._clients: list[genai.Client] = []

    def client(self, key: str = KEY, version: str = "v1beta") -> genai.Client:
        # One that nobody holds is closed, though its `models` are in use.
        options = types.HttpOptions(base_url=self.url, api_version=version)
        self._clients.append(genai.Client(api_key=key, http_options=options))
        return self._clients[-1]

    @property
    def counted(self) -> dict[str, int]:
        """What chat completions count of the same question."""
        body = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}], "seed": 1}
        told = httpx.post(f"{self.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"})
        usage = told.json()["usage"]
        return {
            "prompt": usage["prompt_tokens"],
            "thoughts": usage["completion_tokens_details"]["reasoning_tokens"],
            "all": usage["total_tokens"],
        }


@pytest.fixture(scope="module")
def on() -> Generator[Served]:
    served = Served()
    with serving(served.app) as place:
        served.url = place.url
        yield served


def asked(client: genai.Client, model: str, config: types.GenerateContentConfig | None, streamed: bool) -> None:
    if streamed:
        list(client.models.generate_content_stream(model=model, contents=QUESTION, config=config))
    else:
        client.models.generate_content(model=model, contents=QUESTION, config=config)


def thinks(budget: int, **more: Any) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(thinking_config=types.ThinkingConfig(thinking_budget=budget), seed=1, **more)


@pytest.mark.parametrize("version", ["v1beta", "v1"])
@pytest.mark.parametrize("budget", [0, 100, -1])
def test_an_answer_whole_and_streamed(on: Served, version: str, budget: int) -> None:
    client = on.client(version=version)
    whole = client.models.generate_content(model="demo", contents=QUESTION, config=thinks(budget))
    assert whole.text == "It is 7."
    usage = whole.usage_metadata
    assert usage is not None
    assert (usage.thoughts_token_count == 0) == (budget == 0)
    assert MARKER not in whole.model_dump_json()
    pieces = list(client.models.generate_content_stream(model="demo", contents=QUESTION, config=thinks(budget)))
    assert "".join(piece.text or "" for piece in pieces) == whole.text
    last = pieces[-1]
    assert last.candidates is not None
    assert last.candidates[0].finish_reason is types.FinishReason.STOP
    assert last.usage_metadata is not None
    assert last.usage_metadata.total_token_count == usage.total_token_count
    assert not any(MARKER in piece.model_dump_json() for piece in pieces)


def test_counts_are_those_of_chat_completions(on: Served) -> None:
    client, there = on.client(), on.counted
    config = types.GenerateContentConfig(seed=1)
    usage = client.models.generate_content(model="demo", contents=QUESTION, config=config).usage_metadata
    assert usage is not None
    here = {"prompt": usage.prompt_token_count, "thoughts": usage.thoughts_token_count, "all": usage.total_token_count}
    assert here == there
    assert client.models.count_tokens(model="demo", contents=QUESTION).total_tokens == there["prompt"]


def test_awaited(on: Served) -> None:
    async def go() -> tuple[str, str]:
        client = on.client().aio
        whole = await client.models.generate_content(model="demo", contents=QUESTION)
        stream = await client.models.generate_content_stream(model="demo", contents=QUESTION)
        return whole.text or "", "".join([piece.text or "" async for piece in stream])

    assert asyncio.run(go()) == ("It is 7.", "It is 7.")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_function_is_called_by_the_client_itself_and_the_thought_is_handed_back(on: Served, streamed: bool) -> None:
    """Its automatic calling of functions."""
    chat: Any = on.client().chats.create(model="demo", config=thinks(100, tools=[add]))
    if streamed:
        text = "".join(piece.text or "" for piece in chat.send_message_stream(QUESTION))
    else:
        text = chat.send_message(QUESTION).text or ""
    assert "result" in text
    assert "7" in text
    parts = [part for content in chat.get_history() for part in content.parts or ()]
    calls = [part for part in parts if part.function_call is not None]
    assert [part.function_call.args for part in calls if part.function_call] == [{"a": 3, "b": 4}]
    assert calls[0].thought_signature
    assert MARKER.encode() not in b"".join(part.thought_signature or b"" for part in parts)


def test_a_conversation_goes_on_by_hand_with_the_signature_in_it(on: Served) -> None:
    client = on.client()
    declared = types.FunctionDeclaration(
        name="add",
        description="Adds",
        parameters=types.Schema(
            type=types.Type.OBJECT,
            properties={"a": types.Schema(type=types.Type.INTEGER), "b": types.Schema(type=types.Type.INTEGER)},
        ),
    )
    config = thinks(100, tools=[types.Tool(function_declarations=[declared])])
    first = client.models.generate_content(model="demo", contents=QUESTION, config=config)
    assert first.function_calls is not None
    (call,) = first.function_calls
    assert first.candidates is not None
    said = first.candidates[0].content
    assert said is not None
    assert said.parts is not None
    result = types.Part.from_function_response(name=call.name or "", response={"output": "seven"})
    contents = [types.UserContent(QUESTION), said, types.Content(role="user", parts=[result])]
    assert client.models.generate_content(model="demo", contents=contents, config=config).text == "It is seven."
    sealed = next(part for part in said.parts if part.thought_signature)
    assert sealed.thought_signature is not None
    sealed.thought_signature = sealed.thought_signature[:-1] + bytes([sealed.thought_signature[-1] ^ 1])
    with pytest.raises(errors.ClientError) as refused:
        client.models.generate_content(model="demo", contents=contents, config=config)
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(("mode", "calls"), [("ANY", True), ("NONE", False)])
def test_how_functions_may_be_called(on: Served, mode: str, calls: bool) -> None:
    calling = types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode(mode))
    config = types.GenerateContentConfig(
        tools=[add],
        tool_config=types.ToolConfig(function_calling_config=calling),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    told = on.client().models.generate_content(model="demo", contents=QUESTION, config=config)
    assert bool(told.function_calls) == calls


def test_a_schema_is_parsed_by_the_client(on: Served) -> None:
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Sum)
    told = on.client().models.generate_content(model="demo", contents="JSON: what is 3 + 4?", config=config)
    assert told.parsed == Sum(result=7)
    schema = Sum.model_json_schema()
    config = types.GenerateContentConfig(response_mime_type="application/json", response_json_schema=schema)
    told = on.client().models.generate_content(model="demo", contents="JSON: what is 3 + 4?", config=config)
    assert json.loads(told.text or "") == {"result": 7}


def test_log_probabilities_and_several_answers(on: Served) -> None:
    config = types.GenerateContentConfig(
        candidate_count=2, response_logprobs=True, logprobs=1, top_k=40, top_p=0.9, system_instruction="Be brief."
    )
    told = on.client().models.generate_content(model="demo", contents=QUESTION, config=config)
    assert told.candidates is not None
    assert [one.index for one in told.candidates] == [0, 1]
    for one in told.candidates:
        assert one.logprobs_result is not None
        chosen = one.logprobs_result.chosen_candidates or []
        assert "".join(token.token or "" for token in chosen) == "It is 7."


def test_models_are_listed(on: Served) -> None:
    client = on.client()
    listed = [model.name for model in client.models.list(config={"page_size": 3})]
    assert "models/demo" in listed
    assert "models/demo:majority_vote" in listed
    assert client.models.get(model="demo").input_token_limit == on.engine.card.context


def test_our_own_fields_are_sent_beside_theirs(on: Served) -> None:
    options = types.HttpOptions(extra_body={"strategy": "majority_vote", "thinking_budget": 300})
    told = on.client().models.generate_content(
        model="demo", contents=QUESTION, config=types.GenerateContentConfig(http_options=options)
    )
    assert told.text == "It is 7."


@pytest.mark.parametrize(
    ("model", "key", "config", "code", "status"),
    [
        ("nobody", KEY, {}, 404, "NOT_FOUND"),
        ("demo", "pk-nobody", {}, 401, "UNAUTHENTICATED"),
        ("demo", KEY, {"cached_content": "cachedContents/x"}, 400, "INVALID_ARGUMENT"),
        ("demo", KEY, {"max_output_tokens": -3}, 400, "INVALID_ARGUMENT"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_errors_are_the_clients_own(
    on: Served, model: str, key: str, config: dict[str, Any], code: int, status: str, streamed: bool
) -> None:
    wanted = types.GenerateContentConfig(**config)
    with pytest.raises(errors.ClientError) as refused:
        asked(on.client(key), model, wanted, streamed)
    assert (refused.value.code, refused.value.status) == (code, status)
    assert refused.value.message


@pytest.mark.parametrize("streamed", [False, True])
def test_a_failure_of_the_model_is_a_server_error(on: Served, streamed: bool) -> None:
    on.engine.fail_at = on.engine.calls
    with pytest.raises(errors.ServerError) as failed:
        asked(on.client(), "demo", None, streamed)
    on.engine.fail_at = None
    assert (failed.value.code, failed.value.status) == (500, "INTERNAL")
    assert MARKER not in str(failed.value)


def test_nodes_client_is_given_the_same(on: Served) -> None:
    told = node(Path(__file__).with_name("google_genai.mjs"), npm(*NODE), on.url, KEY)
    found = json.loads(told)
    there = on.counted
    assert found["whole"] == found["streamed"] == "It is 7."
    assert found["usage"]["promptTokenCount"] == found["tokens"] == there["prompt"]
    assert found["usage"]["thoughtsTokenCount"] == there["thoughts"]
    assert found["unthought"]["thoughtsTokenCount"] == 0
    assert (found["call"]["name"], found["call"]["args"]) == ("add", {"a": 3, "b": 4})
    assert found["signed"]
    assert found["answer"] == "It is seven."
    assert "models/demo" in found["models"]
    assert found["chat"] == ["It is 7.", "It is 7."]
    assert found["errors"] == [404, 401, 400, 400]
    assert MARKER not in told
