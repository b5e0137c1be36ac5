"""`/openapi.json` says what is really answered, and `/docs` shows it without any other host."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any, cast
from urllib.parse import urljoin

import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator

from ponder.server import openapi
from ponder.server.auth.keys import digest
from ponder.server.dialects import DEFAULT
from ponder.server.settings import KeySettings, Settings
from ponder.testing import Chain, ScriptedRewards
from tests.server.serving import ASK, ask, chat, door, events, refused, scripted
from tests.server.toy_dialect import Toy

LOCKED = [KeySettings(name="ann", hash=digest("pk-ann"), scopes=frozenset({"infer", "trace", "reveal"}))]
ANN = {"authorization": "Bearer pk-ann"}
REWARDS = ScriptedRewards(lambda line: 0.5)


def described(app: FastAPI, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    return ask(app, "GET", "/openapi.json", headers=headers).json()


def closed(schema: Any) -> Any:
    """The same, where a field that is not described is none."""
    if isinstance(schema, dict):
        made = {key: closed(value) for key, value in cast("dict[str, Any]", schema).items()}
        return {"additionalProperties": False} | made if "properties" in made and made.get("type") == "object" else made
    return [closed(one) for one in cast("list[Any]", schema)] if isinstance(schema, list) else schema


def fits(value: Any, schema: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    whole = {**schema, "components": closed(document["components"])}
    cast("Any", Draft202012Validator(whole)).validate(value)


def answer_of(document: Mapping[str, Any], path: str, method: str = "get", status: str = "200") -> dict[str, Any]:
    return document["paths"][path][method]["responses"][status]["content"]


PLAIN: dict[str, Any] = {}
MANY: dict[str, Any] = {"n": 3, "strategy": "best_of_n", "thinking_budget": 600}
CALLS: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
}


@pytest.mark.parametrize(
    "body",
    [
        PLAIN,
        MANY,
        {"strategy": "majority_vote", "thinking_budget": 900},
        {"logprobs": True, "top_logprobs": 2},
        {"include_reasoning": True, "thinking_budget": 50},
        {"thinking_budget": 10_000_000},
        {"max_answer_tokens": 3},
        {"max_cost_usd": 0.001},
        CALLS,
    ],
)
def test_a_completion_is_as_described_whole_and_in_a_stream(body: dict[str, Any]) -> None:
    chain = Chain(
        "three and four", '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>' if body == CALLS else "It is 7."
    )
    app = door(scripted(chain), Settings(keys=LOCKED), reward_model=REWARDS)
    document = described(app, ANN)
    content = answer_of(document, "/v1/chat/completions", "post")
    whole = chat(app, ANN, **body).json()
    assert body != CALLS or whole["choices"][0]["message"]["tool_calls"]
    fits(whole, content["application/json"]["schema"], document)
    for usage in (False, True):
        streamed = chat(app, ANN, **body, stream=True, stream_options={"include_usage": usage})
        chunks = events(streamed.text)
        assert "thinking" in chunks[-1]
        for chunk in chunks:
            fits(chunk, content["text/event-stream"]["schema"], document)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/demo", "/v1/strategies", "/livez", "/readyz", "/healthz"])
def test_a_page_is_as_described(path: str) -> None:
    app = door(scripted(), reward_model=REWARDS)
    document = described(app)
    content = answer_of(document, path.replace("/demo", "/{id}"))
    fits(ask(app, "GET", path).json(), content["application/json"]["schema"], document)


def test_a_trace_is_as_described() -> None:
    app = door(scripted(), Settings(keys=LOCKED, retain_text=True), reward_model=REWARDS)
    document = described(app, ANN)
    for body in (PLAIN, MANY, {"strategy": "majority_vote", "thinking_budget": 900}):
        request_id = chat(app, ANN, **body).headers["x-request-id"]
        told = ask(app, "GET", f"/v1/traces/{request_id}", headers=ANN).json()
        assert told["choices"][0]["calls"][0]["text"]["answer"] == "It is 7."
        fits(told, answer_of(document, "/v1/traces/{id}")["application/json"]["schema"], document)


def test_a_refusal_is_as_described_on_every_route() -> None:
    app = door(scripted())
    document = described(app)
    for path, method, url in (("/v1/chat/completions", "post", None), ("/v1/models/{id}", "get", "/v1/models/none")):
        error = ask(app, "GET", url).json() if url else chat(app, thinking_budget=-7).json()
        fits(error, answer_of(document, path, method, "4XX")["application/json"]["schema"], document)
    engine = scripted()
    app = door(engine)
    engine.closed = True
    away = ask(app, "GET", "/healthz").json()
    error = {"error": away.pop("error")}
    fits(error, answer_of(document, "/healthz", status="5XX")["application/json"]["schema"], document)
    fits(away, answer_of(document, "/healthz", status="503")["application/json"]["schema"], document)


def test_a_refusal_is_described_as_json_also_of_a_page_of_text() -> None:
    document = described(door(scripted()))
    for item in document["paths"].values():
        for operation in item.values():
            for status, response in operation["responses"].items():
                assert status[:1] == "2" or set(response["content"]) == {"application/json"}


def test_every_field_of_ours_is_explained_and_every_reference_leads_somewhere() -> None:
    document = described(door(scripted()))
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(schemas)
    fields = schemas["ChatRequest"]["properties"]
    for name in ("thinking_budget", "strategy", "verifier", "max_answer_tokens", "on_overflow", "include_reasoning"):
        assert fields[name]["description"], name
    assert fields["max_cost_usd"]["description"]
    for name in ("thinking_token_budget", "thinking_budget_tokens", "reasoning", "thinking", "enable_thinking"):
        assert fields[name]["description"], name
    report = schemas["ThinkingReport"]["properties"]
    assert all(field.get("description") for name, field in report.items() if name not in ("strategy", "stopped_by"))
    fits(ASK, {"$ref": "#/components/schemas/ChatRequest"}, document)


def test_every_route_for_a_key_says_so_and_no_operation_is_named_twice() -> None:
    document = described(door(scripted()))
    operations = [(path, one) for path, item in document["paths"].items() for one in item.values()]
    assert {path for path, one in operations if not one.get("security")} == {"/livez", "/readyz", "/health"}
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    names = [one["operationId"] for _, one in operations]
    assert len(set(names)) == len(names)
    assert all("head" not in item for item in document["paths"].values())


class Namesake(Toy):
    """A dialect that calls its schemas as ours does."""

    def operation(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        refs = [{"$ref": f"#/components/schemas/{name}"} for name in ("ChatRequest", "Call", "Health")]
        own = {"ChatRequest": {"type": "string"}, "Call": {"anyOf": refs[:1]}, "Health": {"type": "integer"}}
        content = {"application/x-toy": {"schema": {"anyOf": refs}}}
        return {"responses": {"200": {"description": "toy", "content": content}}}, own


def test_a_dialect_that_names_its_schemas_as_another_changes_nothing_of_it() -> None:
    both = openapi.document("1", [], [DEFAULT, Namesake()])
    ours = openapi.document("1", [], [DEFAULT])
    schemas = both["components"]["schemas"]
    assert {name: schemas[name] for name in ours["components"]["schemas"]} == ours["components"]["schemas"]
    content = both["paths"][Toy.path]["post"]["responses"]["200"]["content"]["application/x-toy"]["schema"]["anyOf"]
    names = [one["$ref"].rpartition("/")[2] for one in content]
    assert [schemas[name] for name in (names[0], names[2])] == [{"type": "string"}, {"type": "integer"}]
    assert schemas[names[1]] == {"anyOf": content[:1]}


def test_the_server_is_named_beside_its_description_wherever_a_proxy_has_it() -> None:
    told = ask(door(scripted()), "GET", "/openapi.json").json()
    assert [urljoin("https://a.example/models/ponder/openapi.json", one["url"]) for one in told["servers"]] == [
        "https://a.example/models/ponder/"
    ]
    assert "told.servers = " in ask(door(scripted()), "GET", "/docs/page.js").text


# -- the page ---------------------------------------------------------------------------------------------------------


class Sources(HTMLParser):
    """What a page loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [value for name in ("src", "href") if (value := given.get(name))]
        self.inline |= (
            tag == "style" or (tag == "script" and "src" not in given) or any(n.startswith("on") for n in given)
        )


def test_the_page_loads_its_parts_from_this_server_and_names_no_other() -> None:
    app = door(scripted())
    page = ask(app, "GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    sources = Sources(page.text)
    assert not sources.inline
    assert len(sources.found) == 4
    for source in sources.found:
        assert re.fullmatch(r"docs/[\w.-]+", source), source
        part = ask(app, "GET", f"/{source}")
        assert part.status_code == 200
        assert part.headers["content-type"].partition(";")[0] in ("text/css", "text/javascript", "image/png")
        assert len(part.content) > 100
    own = page.text + ask(app, "GET", "/docs/page.js").text
    assert "//" not in own.replace("<!doctype", "")
    assert 'fetch("openapi.json"' in own


def test_the_page_may_ask_no_other_host_and_be_framed_by_none() -> None:
    policy = ask(door(scripted()), "GET", "/docs").headers["content-security-policy"]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == rules["connect-src"] == ["'self'"]
    assert rules["frame-ancestors"] == ["'none'"]
    allowed = {word for words in rules.values() for word in words}
    assert allowed <= {"'none'", "'self'", "'unsafe-inline'", "data:"}


@pytest.mark.parametrize(
    ("settings", "there"),
    [
        (Settings(), True),
        (Settings(docs=False), False),
        (Settings(keys=LOCKED), False),
        (Settings(keys=LOCKED, docs=True), True),
    ],
)
def test_the_page_is_there_where_there_is_no_key_or_the_operator_wants_it(settings: Settings, there: bool) -> None:
    app = door(scripted(), settings)
    for path in ("/docs", "/docs/page.js", "/docs/swagger-ui.css"):
        response = ask(app, "GET", path)
        assert response.status_code == 200 if there else refused(response, 404, "route_not_found")
    if settings.keys:
        refused(ask(app, "GET", "/openapi.json"), 401, "missing_api_key")
        assert ask(app, "GET", "/openapi.json", headers=ANN).status_code == 200


@pytest.mark.parametrize("path", ["/docs/nix.js", "/docs/../page.js", "/docs/__init__.py", "/docs/%2e%2e%2f"])
def test_nothing_else_of_the_package_is_given_away(path: str) -> None:
    refused(ask(door(scripted()), "GET", path), 404, "route_not_found")
