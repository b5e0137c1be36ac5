"""Google's Gemini API: contents in, candidates out, with a budget that binds and thoughts that stay inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import Response

from ponder.compute.errors import RequestError
from ponder.compute.text import Message
from ponder.server.answers import Failure
from ponder.server.auth.keys import digest
from ponder.server.dialect import Reading, Target
from ponder.server.dialects.gemini.answer_schema import CountTokensResponse, GenerateContentResponse
from ponder.server.dialects.gemini.dialect import Gemini, GeminiStream, methods
from ponder.server.dialects.gemini.errors import GeminiError
from ponder.server.dialects.gemini.reading import generate_request
from ponder.server.dialects.gemini.schemas import json_schema
from ponder.server.request import Request, ToolChoice
from ponder.server.settings import KeySettings, Limits, Settings
from ponder.testing import MARKER, Chain, check_dialect
from tests.server.callers import GeminiCaller, gemini_pieces, parts_of
from tests.server.serving import ask, chat, door, scripted

ROOT = "/v1beta/models/demo"
THINKING = "generationConfig.thinkingConfig"
FIRST = {"functionCall": {"name": "add", "args": {"a": 3}}}
IMAGE = {"inlineData": {"mimeType": "image/png", "data": "iVBO"}}
CONTENTS = [{"role": "user", "parts": [{"text": "What is 3 + 4?"}]}]
CALL = 'So: <tool_call>{"name": "add", "arguments": {"a": 3}}</tool_call>'
ADD = {"name": "add", "description": "Adds", "parameters": {"type": "OBJECT", "properties": {"a": {"type": "INTEGER"}}}}


class Both(Gemini):
    """The method that answers whole and that which streams, as one dialect: a check asks both."""

    path = "/v1beta/models/{model:path}:{method}"

    def __init__(self) -> None:
        self.methods = {"generateContent": Gemini(), "streamGenerateContent": GeminiStream()}

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        return self.methods[target.path["method"]].read(raw, limits, target)


class BothCaller(GeminiCaller):
    def path(self, dialect: Any, *, model: str, streamed: bool) -> str:
        method = f"streamGenerateContent?alt={self.alt}" if streamed else "generateContent"
        return f"/v1beta/models/{model}:{method}"


def asked(
    app: FastAPI, method: str = "generateContent", headers: Mapping[str, str] | None = None, **body: Any
) -> httpx.Response:
    return ask(app, url=f"{ROOT}:{method}", json={"contents": CONTENTS} | body, headers=headers)


def answered(app: FastAPI, method: str = "generateContent", **body: Any) -> list[dict[str, Any]]:
    response = asked(app, method, **body)
    assert response.status_code == 200, response.text
    pieces = gemini_pieces(response.content)
    for piece in pieces:
        GenerateContentResponse.model_validate(piece, strict=True)
    return pieces


def thinks(**config: Any) -> dict[str, Any]:
    return {"generationConfig": {"thinkingConfig": config}}


def called(call: dict[str, Any]) -> dict[str, Any]:
    return {"contents": [{"role": "model", "parts": [{"functionCall": call}]}]}


def refused(response: httpx.Response, status: int, word: str, field: str | None = None) -> str:
    assert response.status_code == status, response.text
    told = response.json()
    GeminiError.model_validate(told)
    assert (told["error"]["code"], told["error"]["status"]) == (status, word)
    fields = [one["fieldViolations"][0]["field"] for one in told["error"]["details"] if "fieldViolations" in one]
    assert fields == ([] if field is None else [field])
    return told["error"]["message"]


def read(**body: Any) -> Request:
    return generate_request(json.dumps({"contents": CONTENTS} | body).encode(), Limits(), "demo", stream=False).request


@pytest.mark.parametrize("alt", ["sse", "json"])
def test_it_keeps_what_every_dialect_promises(alt: str) -> None:
    check_dialect(Both(), BothCaller(alt))


def test_an_answer_has_the_shape_of_geminis() -> None:
    engine = scripted()
    (told,) = answered(door(engine))
    assert told["candidates"] == [
        {"content": {"parts": [{"text": "It is 7."}], "role": "model"}, "index": 0, "finishReason": "STOP"}
    ]
    usage = told["usageMetadata"]
    assert usage["candidatesTokenCount"] == len("It is 7.")
    assert usage["candidatesTokenCount"] + usage["thoughtsTokenCount"] == engine.produced
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + engine.produced
    assert told["modelVersion"] == "demo"
    assert told["thinking"]["spent"] == usage["thoughtsTokenCount"]


@pytest.mark.parametrize("query", ["?alt=sse", "", "?alt=json"])
def test_streams_are_events_or_one_array(query: str) -> None:
    response = asked(door(scripted()), f"streamGenerateContent{query}")
    assert response.headers["content-type"].startswith("text/event-stream" if "sse" in query else "application/json")
    pieces = answered(door(scripted()), f"streamGenerateContent{query}", generationConfig={"candidateCount": 2})
    for index in (0, 1):
        found = [one for piece in pieces for one in piece["candidates"] if one["index"] == index]
        assert "".join(part["text"] for one in found for part in one["content"]["parts"]) == "It is 7."
        assert [one.get("finishReason") for one in found][-1] == "STOP"
    assert ["usageMetadata" in piece for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len({piece["responseId"] for piece in pieces}) == 1
    refused(asked(door(scripted()), "streamGenerateContent?alt=proto"), 400, "INVALID_ARGUMENT", "alt")


def test_a_cut_answer_says_so() -> None:
    (told,) = answered(door(scripted(Chain(MARKER, "x" * 40))), max_answer_tokens=8)
    assert told["candidates"][0]["finishReason"] == "MAX_TOKENS"


def test_both_ways_to_write_a_name_are_one_field() -> None:
    camel = {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {
            "maxOutputTokens": 90,
            "topK": 40.0,
            "topP": 0.5,
            "stopSequences": ["x"],
            "thinkingConfig": {"thinkingBudget": 30, "includeThoughts": True},
            "responseMimeType": "application/json",
            "responseSchema": {"type": "OBJECT", "properties": {"snake_case": {"type": "STRING", "maxLength": "7"}}},
        },
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["add"]}},
        "tools": [{"functionDeclarations": [ADD]}],
    }
    snake = {
        "system_instruction": {"parts": [{"text": "Be brief."}]},
        "generation_config": {
            "max_output_tokens": "90",
            "top_k": 40,
            "top_p": 0.5,
            "stop_sequences": ["x"],
            "thinking_config": {"thinking_budget": 30, "include_thoughts": True},
            "response_mime_type": "application/json",
            "response_schema": {"type": "object", "properties": {"snake_case": {"type": "string", "max_length": 7}}},
        },
        "tool_config": {"function_calling_config": {"mode": "any", "allowed_function_names": ["add"]}},
        "tools": [{"function_declarations": [ADD]}],
    }
    request = read(**camel)
    assert request == read(**snake)
    assert (request.total_tokens, request.sampling.top_k, request.thinking.tokens) == (90, 40, 30)
    assert request.summary == "auto"
    assert request.seals_thought
    assert request.document is not None
    assert json.loads(request.document.schema or "")["properties"] == {"snake_case": {"type": "string", "maxLength": 7}}
    with pytest.raises(RequestError, match=r"^generationConfig\.topK is given twice"):
        read(generationConfig={"topK": 1, "top_k": 1})


def test_contents_are_turns() -> None:
    request = read(
        contents=[
            {"role": "user", "parts": [{"text": "What is "}, {"text": "3 + 4?"}]},
            {"role": "model", "parts": [{"text": "I thought of it", "thought": True, "thoughtSignature": "YWI_"}]},
            {
                "role": "model",
                "parts": [{"text": "<think>no</think>So: "}, {"functionCall": {"name": "add", "args": {"a": 3}}}],
            },
            {"role": "model", "parts": [{"functionCall": {"name": "add", "args": {"a": 4}, "id": "c2"}}, {"text": ""}]},
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "add", "id": "c2", "response": {"output": "seven"}}},
                    {"functionResponse": {"name": "add", "response": {"result": 7}}},
                    {"text": "Well?"},
                ],
            },
            {"role": "model", "parts": []},
        ]
    )
    said, results = request.messages[1], request.messages[2:4]
    assert request.messages[0] == Message("user", "What is 3 + 4?")
    assert (said.role, said.content, said.sealed) == ("assistant", "So: ", "YWI/")
    assert [(call.name, call.arguments) for call in said.tool_calls] == [("add", '{"a": 3}'), ("add", '{"a": 4}')]
    assert [(one.content, one.tool_call_id) for one in results] == [
        ("seven", "c2"),
        ('{"result": 7}', said.tool_calls[0].id),
    ]
    assert request.messages[4:] == (Message("user", "Well?"),)


@pytest.mark.parametrize("parts", [[], [{"text": ""}], [{"thought": True, "text": "Hm."}]])
@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent", "countTokens"])
def test_contents_without_a_turn_are_refused(parts: list[Any], method: str) -> None:
    """The model's own, in which it said nothing."""
    asked = {"contents": [{"role": "model", "parts": parts}]}
    answer = ask(door(scripted()), url=f"/v1beta/models/demo:{method}", json=asked)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "contents have nothing to answer"


@pytest.mark.parametrize(
    ("config", "choice", "names"),
    [
        (None, ToolChoice(), ["add", "sub"]),
        ({"mode": "AUTO"}, ToolChoice("auto"), ["add", "sub"]),
        ({"mode": "NONE"}, ToolChoice("none"), ["add", "sub"]),
        ({"mode": "ANY"}, ToolChoice("required"), ["add", "sub"]),
        ({"mode": "ANY", "allowedFunctionNames": ["sub"]}, ToolChoice("required"), ["sub"]),
        ({"mode": "VALIDATED"}, ToolChoice("auto"), ["add", "sub"]),
        ({"mode": "validated", "allowedFunctionNames": ["sub"]}, ToolChoice("auto"), ["sub"]),
    ],
)
def test_how_functions_may_be_used(config: dict[str, Any] | None, choice: ToolChoice, names: list[str]) -> None:
    sub: dict[str, Any] = {"name": "sub", "parametersJsonSchema": {"type": "object", "properties": {"snake_case": {}}}}
    request = read(
        tools=[{"functionDeclarations": [ADD]}, {"functionDeclarations": [sub]}],
        **({} if config is None else {"toolConfig": {"functionCallingConfig": config}}),
    )
    assert request.tool_choice == choice
    assert [tool.name for tool in request.tools] == names
    held = config is not None and config["mode"].upper() == "VALIDATED"
    assert [tool.strict for tool in request.tools] == [held] * len(names)
    assert "snake_case" in request.tools[-1].parameters


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse", "streamGenerateContent"])
def test_calls_come_as_parts_the_first_with_the_sealed_thought(method: str) -> None:
    app = door(scripted(Chain(MARKER, CALL), seeded=False))
    pieces = answered(app, method, tools=[{"functionDeclarations": [ADD]}])
    parts = [part for piece in pieces for part in parts_of(piece)]
    (called,) = [part for part in parts if "functionCall" in part]
    assert called["functionCall"]["args"] == {"a": 3}
    assert called["functionCall"]["name"] == "add"
    (sealed,) = [part["thoughtSignature"] for part in parts if "thoughtSignature" in part]
    history = [
        *CONTENTS,
        {"role": "model", "parts": [part for part in parts if part.get("text") != ""]},
        {"role": "user", "parts": [{"functionResponse": {"name": "add", "response": {"output": 7}}}]},
    ]
    answered(app, contents=history)
    altered = ("B" if sealed[0] == "A" else "A") + sealed[1:]
    again = json.loads(json.dumps(history).replace(sealed, altered))
    message = refused(asked(app, contents=again), 400, "INVALID_ARGUMENT", "contents.1.parts")
    assert "messages" not in message


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse"])
@pytest.mark.parametrize("odd", ["1e999", "[" * 300 + "]" * 300], ids=["large", "deep"])
def test_arguments_that_no_client_could_read_come_as_text(method: str, odd: str) -> None:
    app = door(scripted(Chain(MARKER, CALL.replace("3", odd)), seeded=False))
    parts = [
        part for piece in answered(app, method, tools=[{"functionDeclarations": [ADD]}]) for part in parts_of(piece)
    ]
    (called,) = [part["functionCall"] for part in parts if "functionCall" in part]
    assert called["args"] == {"arguments": f'{{"a": {odd}}}'}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"contents": None}, "contents"),
    ({"contents": []}, "contents"),
    ({"contents": [{"role": "user"}]}, "contents.0.parts"),
    ({"contents": [{"role": "nobody", "parts": [{"text": "x"}]}]}, "contents.0.role"),
    ({"contents": [{"parts": [{"text": 3}]}]}, "contents.0.parts.0.text"),
    ({"contents": [{"parts": [{}]}]}, "contents.0.parts.0.text"),
    (
        {"contents": [{"parts": [IMAGE]}]},
        "contents.0.parts.0.inlineData.data",
    ),
    (
        {"contents": [{"parts": [{"inlineData": {"mimeType": "audio/wav", "data": "iVBO"}}]}]},
        "contents.0.parts.0.inlineData.data",
    ),
    ({"contents": [{"parts": [{"inlineData": "iVBO"}]}]}, "contents.0.parts.0.inlineData"),
    ({"contents": [{"parts": [{"fileData": {"fileUri": "gs://a/b"}}]}]}, "contents.0.parts.0.fileData"),
    ({"contents": [{"role": "model", "parts": [IMAGE]}]}, "contents.0.parts.0.inlineData"),
    ({"systemInstruction": {"parts": [IMAGE]}}, "systemInstruction.parts.0.inlineData"),
    ({"contents": [{"parts": [{"executableCode": {}}]}]}, "contents.0.parts.0"),
    (
        {"contents": [{"role": "model", "parts": [{"functionCall": {"args": 3, "name": "a"}}]}]},
        "contents.0.parts.0.functionCall.args",
    ),
    ({"contents": [{"parts": [{"text": "x" * 100_001}]}]}, "contents"),
    ({"generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
    ({"generation_config": {"top_k": "many"}}, "generationConfig.topK"),
    ({"generationConfig": {"candidateCount": 65}}, "generationConfig.candidateCount"),
    ({"generationConfig": {"logprobs": 3}}, "generationConfig.logprobs"),
    ({"generationConfig": {"responseLogprobs": True, "logprobs": 21}}, "generationConfig.logprobs"),
    ({"generationConfig": {"stopSequences": [""]}}, "generationConfig.stopSequences"),
    ({"generationConfig": {"responseSchema": {"type": "STRING"}}}, "generationConfig.responseSchema"),
    ({"generationConfig": {"responseModalities": ["IMAGE"]}}, "generationConfig.responseModalities.0"),
    ({"generationConfig": {"speechConfig": {"voice": "x"}}}, "generationConfig.speechConfig"),
    (
        {"generationConfig": {"thinkingConfig": {"thinkingBudget": -2}}},
        "generationConfig.thinkingConfig.thinkingBudget",
    ),
    (
        {"generationConfig": {"thinkingConfig": {"thinkingLevel": "WIBBLE"}}},
        "generationConfig.thinkingConfig.thinkingLevel",
    ),
    (
        {"thinking_budget": 3, "generationConfig": {"thinkingConfig": {"thinkingBudget": 4}}},
        "generationConfig.thinkingConfig.thinkingBudget",
    ),
    ({"cachedContent": "cachedContents/x"}, "cachedContent"),
    ({"continuationToken": "x"}, "continuationToken"),
    ({"model_armor_config": {"promptTemplateName": "x"}}, "modelArmorConfig"),
    ({"generationConfig": {"enableAffectiveDialog": True}}, "generationConfig.enableAffectiveDialog"),
    (
        {"toolConfig": {"functionCallingConfig": {"streamFunctionCallArguments": True}}},
        "toolConfig.functionCallingConfig.streamFunctionCallArguments",
    ),
    ({"tools": [{"googleSearch": {"x": 1}}]}, "tools.0.googleSearch"),
    ({"tools": [{"functionDeclarations": [{"name": "a b"}]}]}, "tools.0.functionDeclarations.0.name"),
    (
        {"toolConfig": {"functionCallingConfig": {"mode": "VALIDATED", "allowedFunctionNames": ["sub"]}}},
        "toolConfig.functionCallingConfig.allowedFunctionNames",
    ),
    ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "toolConfig.functionCallingConfig.mode"),
    ({"strategy": "none"}, "strategy"),
    ({"thinkng_budget": 3}, "thinkngBudget"),
]


@pytest.mark.parametrize(("body", "field"), WRONG)
def test_what_is_wrong_or_not_offered_is_named(body: dict[str, Any], field: str) -> None:
    message = refused(asked(door(scripted()), **body), 400, "INVALID_ARGUMENT", field)
    assert not any(word in message for word in ("messages", "total_tokens", "tool_choice"))


def test_a_schema_that_cannot_be_enforced_is_named_by_its_place() -> None:
    app = door(scripted(unsupported="tricky"))
    tricky = {"type": "STRING", "description": "tricky"}
    declared = {"name": "sub", "parameters": tricky}
    refused(
        asked(app, generationConfig={"responseMimeType": "application/json", "responseSchema": tricky}),
        400,
        "INVALID_ARGUMENT",
        "generationConfig.responseSchema",
    )
    refused(
        asked(
            app,
            tools=[{"functionDeclarations": [ADD, declared]}],
            toolConfig={"functionCallingConfig": {"mode": "ANY"}},
        ),
        400,
        "INVALID_ARGUMENT",
        "tools.0.functionDeclarations.1.parameters",
    )


def test_errors_have_googles_words() -> None:
    keys = Settings(keys=[KeySettings(name="a", hash=digest("secret"))])
    app = door(scripted(), keys)
    assert "x-goog-api-key" in refused(asked(app), 401, "UNAUTHENTICATED")
    assert asked(app, headers={"x-goog-api-key": "secret"}).status_code == 200
    assert asked(app, headers={"authorization": "Bearer secret"}).status_code == 200
    assert asked(app, "generateContent?key=secret").status_code == 200
    refused(asked(app, "generateContent?key=other"), 401, "UNAUTHENTICATED")
    app = door(scripted())
    url = "/v1beta/models/nobody:generateContent"
    refused(ask(app, url=url, json={"contents": CONTENTS}), 404, "NOT_FOUND", "model")
    refused(ask(app, url=f"{ROOT}:embedContent", json={}), 405, "INVALID_ARGUMENT")
    refused(ask(app, "GET", "/v1beta/nothing"), 404, "NOT_FOUND")
    # A line break within a part of the path.
    refused(
        ask(app, url="/v1/models/a%0Ab:streamGenerateContent", json={"contents": CONTENTS}), 404, "NOT_FOUND", "model"
    )
    refused(asked(door(scripted(fail_at=0))), 500, "INTERNAL")


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse", "streamGenerateContent"])
@pytest.mark.parametrize("name", ["plain", "reveal"])
def test_a_thought_is_shown_to_keys_that_may_see_it_alone(method: str, name: str) -> None:
    keys = [
        KeySettings(name="plain", hash=digest("plain")),
        KeySettings(name="reveal", hash=digest("reveal"), scopes=frozenset({"infer", "reveal"})),
    ]
    body: dict[str, Any] = {"tools": [{"functionDeclarations": [ADD]}], "generationConfig": {"candidateCount": 2}}
    app = door(scripted(Chain(MARKER, CALL)), Settings(keys=keys))
    response = asked(app, method, {"x-goog-api-key": name}, include_reasoning=True, **body)
    parts = [part for piece in gemini_pieces(response.content) for part in parts_of(piece, 1)]
    shown = [part for part in parts if part.get("thought")]
    assert [part["text"] for part in shown] == ([MARKER] if name == "reveal" else [])
    assert (MARKER in response.text) == (name == "reveal")


def test_a_failed_stream_ends_with_an_error() -> None:
    for query in ("?alt=sse", ""):
        response = asked(door(scripted(fail_at=0)), f"streamGenerateContent{query}")
        last = gemini_pieces(response.content)[-1]
        assert last["error"]["status"] == "INTERNAL"
        assert last["usageMetadata"]["thoughtsTokenCount"] > 0
        assert MARKER not in response.text


def test_models_are_listed_as_google_does() -> None:
    app = door(scripted())
    told = ask(app, "GET", "/v1beta/models").json()
    assert told["models"][0]["name"] == "models/demo"
    assert told["models"][0]["supportedGenerationMethods"] == ["generateContent", "countTokens"]
    assert "nextPageToken" not in told
    first = ask(app, "GET", "/v1beta/models?pageSize=2").json()
    second = ask(app, "GET", f"/v1beta/models?pageSize=2&pageToken={first['nextPageToken']}").json()
    assert [*first["models"], *second["models"]] == told["models"][:4]
    assert ask(app, "GET", "/v1beta/models/demo:direct").json()["baseModelId"] == "demo"
    refused(ask(app, "GET", "/v1beta/models/nobody"), 404, "NOT_FOUND", "id")
    refused(ask(app, "GET", "/v1beta/models?pageToken=x"), 400, "INVALID_ARGUMENT", "pageToken")
    assert ask(app, "GET", "/v1/models", headers={"x-goog-api-key": "x"}).json() == told
    assert "data" in ask(app, "GET", "/v1/models").json()


def test_counts_are_those_of_chat_completions() -> None:
    app = door(scripted())
    whole: dict[str, Any] = {"contents": CONTENTS, "systemInstruction": {"parts": [{"text": "Be brief."}]}}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 3 + 4?"}]
    there = chat(app, messages=messages, seed=5, thinking_budget=9).json()["usage"]
    config = {"seed": 5, "thinkingConfig": {"thinkingBudget": 9}}
    (here,) = answered(app, **whole, generationConfig=config)
    usage = here["usageMetadata"]
    assert usage["promptTokenCount"] == there["prompt_tokens"]
    assert usage["thoughtsTokenCount"] == there["completion_tokens_details"]["reasoning_tokens"]
    assert usage["candidatesTokenCount"] + usage["thoughtsTokenCount"] == there["completion_tokens"]
    for body in (whole, {"generateContentRequest": whole | {"model": "models/demo"}}):
        counted = ask(app, url=f"{ROOT}:countTokens", json=body).json()
        CountTokensResponse.model_validate(counted, strict=True)
        assert counted["totalTokens"] == usage["promptTokenCount"]
    refused(ask(app, url=f"{ROOT}:countTokens", json={}), 400, "INVALID_ARGUMENT", "contents")
    wrong = {"generateContentRequest": {"contents": [{"parts": [{"text": "x" * 100_001}]}]}}
    refused(ask(app, url=f"{ROOT}:countTokens", json=wrong), 400, "INVALID_ARGUMENT", "generateContentRequest.contents")


def test_log_probabilities_have_geminis_shape() -> None:
    (told,) = answered(door(scripted(Chain(MARKER, "ab"))), generationConfig={"responseLogprobs": True, "logprobs": 1})
    (candidate,) = told["candidates"]
    assert candidate["avgLogprobs"] == -0.1
    assert [one["token"] for one in candidate["logprobsResult"]["chosenCandidates"]] == ["a", "b"]
    assert len(candidate["logprobsResult"]["topCandidates"]) == 2


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"cachedContent": "cachedContents/x"}, "cachedContent"),
        ({"generationConfig": {"speechConfig": {"x": 1}}}, "generationConfig.speechConfig"),
        ({"tools": [{"googleSearch": {"x": 1}}]}, "tools.0.googleSearch"),
    ],
)
def test_a_request_whose_prompt_is_counted_is_refused_as_it_would_be(more: dict[str, Any], param: str) -> None:
    whole: dict[str, Any] = {"contents": CONTENTS} | more
    response = ask(door(scripted()), url=f"{ROOT}:countTokens", json={"generateContentRequest": whole})
    refused(response, 400, "INVALID_ARGUMENT", f"generateContentRequest.{param}")


def test_every_field_that_is_refused_is_named_in_the_document() -> None:
    paths: dict[str, Any] = ask(door(scripted()), "GET", "/openapi.json").json()["paths"]
    for method in ("generateContent", "streamGenerateContent"):
        named = paths[f"/v1beta/models/{{model}}:{method}"]["post"]["x-refused-fields"]
        assert {"cachedContent", "generationConfig.speechConfig", "tools[].googleSearch"} <= named.keys()


def test_what_changes_nothing_is_taken() -> None:
    taken = {"enableAffectiveDialog": False, "audioTimestamp": False, "mediaResolution": "MEDIA_RESOLUTION_UNSPECIFIED"}
    calling = {"functionCallingConfig": {"streamFunctionCallArguments": False}}
    assert asked(door(scripted()), generationConfig=taken, toolConfig=calling).status_code == 200


def test_what_has_no_effect_is_named_in_a_header() -> None:
    response = asked(
        door(scripted()),
        safetySettings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        generationConfig={"media_resolution": "x"},
        wibble=1,
    )
    told = response.headers["x-ignored-parameters"].split(", ")
    assert set(told) == {"safetySettings", "generationConfig.mediaResolution", "wibble"}


def test_our_own_fields_work_here() -> None:
    (told,) = answered(
        door(scripted()), strategy={"name": "best_of_n", "n": 3}, thinkingBudget=200, verifier="agreement"
    )
    assert told["thinking"]["strategy"] == "best_of_n"
    assert told["thinking"]["budget_source"] == "thinking_budget"
    (told,) = answered(door(scripted()), generationConfig={"thinkingConfig": {"thinkingLevel": "LOW"}})
    assert told["thinking"]["budget_source"] == "generationConfig.thinkingConfig.thinkingLevel"
    assert read(thinking_budget=200, thinking_budget_scope="loop").thinking.loop
    assert not read(thinking_budget=200).thinking.loop


@pytest.mark.parametrize(
    ("google", "plain"),
    [
        ({"type": "STRING", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "STRING", "enum": ["a"], "format": "enum"}, {"type": "string", "enum": ["a"]}),
        (
            {"nullable": True, "anyOf": [{"type": "NUMBER"}]},
            {"anyOf": [{"anyOf": [{"type": "number"}]}, {"type": "null"}]},
        ),
        (
            {"type": "ARRAY", "minItems": "2", "items": {"type": "INTEGER"}},
            {"type": "array", "minItems": 2, "items": {"type": "integer"}},
        ),
        ({"type": "TYPE_UNSPECIFIED", "example": 3, "title": "T"}, {"title": "T"}),
        (
            {"defs": {"a": {"type": "STRING"}}, "ref": "#/defs/a"},
            {"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"},
        ),
    ],
)
def test_googles_schemas_are_json_schemas(google: dict[str, Any], plain: dict[str, Any]) -> None:
    assert json_schema(google) == plain


def test_properties_come_in_the_order_that_is_said() -> None:
    given: dict[str, Any] = {"properties": {"b": {}, "a": {}, "c": {}}, "propertyOrdering": ["c", "a"]}
    assert list(json_schema(given)["properties"]) == ["c", "a", "b"]
    given["propertyOrdering"] = [["c"], {}, None, "a"]
    assert list(json_schema(given)["properties"]) == ["a", "b", "c"]


def test_every_method_describes_itself() -> None:
    told = [method.operation()[0] for method in methods()]
    assert len({one["operationId"] for one in told}) == 6


def test_an_error_is_written_whatever_it_is() -> None:
    response: Response = Gemini().error(Failure(418, "teapot", "no", None))
    assert json.loads(bytes(response.body))["error"]["status"] == "INVALID_ARGUMENT"


def test_a_summary_of_the_thought_is_a_part_of_its_own() -> None:
    chains = (Chain(f"{MARKER}: three and four\nmake seven", "It is 7."), Chain("", "I added both."))
    for method in ("generateContent", "streamGenerateContent?alt=sse"):
        config = {"thinkingConfig": {"thinkingBudget": 600, "includeThoughts": True}}
        pieces = answered(door(scripted(*chains)), method, generationConfig=config)
        parts = [part for piece in pieces for part in parts_of(piece)]
        assert "".join(part["text"] for part in parts if not part.get("thought")) == "It is 7."
        assert [part["text"] for part in parts if part.get("thought")] == ["I added both."]
