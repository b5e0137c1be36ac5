"""`/openapi.json`, `docs/api.md` and the code say the same of every route and every field."""

from __future__ import annotations

import ast
import json
import re
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
from starlette.routing import Route

from ponder.server.dialect import Dialect
from ponder.server.settings import Settings
from ponder.testing import Caller
from tests.pages import ROOT
from tests.server.serving import ask, door, scripted
from tests.server.spoken import spoken
from tests.server.test_every_dialect import ASK, each, said
from tools.fields_table import PAGE, document, fields, ignored, made

NOT_DESCRIBED = {"/metrics/engine", "/openapi.json", "/docs", "/docs/{name}"}
"""Routes that are no part of the API."""
PASSED_ON = {"name", "type", "description", "strict", "id", "role", "content", "metadata", "user"}
CHECKED = {"behavior", "responseModalities", "category", "threshold"}
"""Gemini's that are read where they are checked: one value is taken, or they are of a field without effect."""
"""Fields of such plain names that finding one proves nothing: other tests look at what they do."""


@cache
def described() -> dict[str, Any]:
    return document()


def sample(schema: Any) -> Any:
    """A value that a field may have and that is not as if it were left out."""
    for branch in schema.get("anyOf", [schema]):
        match branch:
            case {"enum": values}:
                return values[-1]
            case {"type": "boolean"}:
                return True
            case {"type": "string"}:
                return "x"
            case {"type": "array"}:
                return [{}]
            case _:
                pass
    raise AssertionError(f"no sample of {schema}")


PARENTS: dict[str, Any] = {
    "tools": [{"functionDeclarations": [{"name": "f"}]}],
    "toolConfig": {"functionCallingConfig": {}},
    "safetySettings": [{}],
}
"""What fields stand in, where that wants others."""


def put(body: dict[str, Any], name: str, value: object) -> None:
    """Sets a field by its dotted path; lists (`[]`) have one entry."""
    first, *rest = name.split(".")
    if not rest:
        body[name] = value
        return
    key = first.removesuffix("[]")
    held = body.setdefault(key, deepcopy(PARENTS.get(key, [{}] if first.endswith("[]") else {})))
    put(held[0] if first.endswith("[]") else held, ".".join(rest), value)


def snake(name: str) -> str:
    """A name of lower camel case as the code has it."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[1].lower()}", name)


def post(path: str) -> dict[str, Any]:
    return described()["paths"][path.replace(":path}", "}")]["post"]


def test_the_tables_of_the_page_are_those_of_the_document() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert made(page) == page, "python -m tools.fields_table writes it anew"


def test_every_route_is_described_and_every_description_has_a_route() -> None:
    app = door(scripted(), Settings(docs=True))
    routes = {
        (re.sub(r":path}", "}", route.path), method)
        for route in app.router.routes
        if isinstance(route, Route)
        for method in (route.methods or set[str]()) - {"HEAD"}
    }
    told = {
        (re.sub(r":path}", "}", path), method.upper()) for path, item in described()["paths"].items() for method in item
    }
    assert {one for one in routes if one[0] not in NOT_DESCRIBED} == told


@each
def test_every_field_that_is_described_is_read_by_the_code(dialect: Dialect, caller: Caller) -> None:
    code = [ast.parse(file.read_text()) for file in (ROOT / "server").rglob("*.py")]
    read = {node.attr for tree in code for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    read |= {node.value for tree in code for node in ast.walk(tree) if isinstance(node, ast.Constant) if node.value}
    schemas = described()["components"]["schemas"]
    operation = post(dialect.path)
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    for name, inner, _ in fields(schema, schemas):
        last = name.rpartition(".")[2]
        # What may have one value only is read where it is checked.
        known = (
            last in PASSED_ON | CHECKED
            or "'const'" in str(inner)
            or bool({last, f"{last}_", snake(last)} & read)
            or inner.get("x-without-effect")
        )
        assert known, f"{name} is described, and no code reads it"


@each
def test_fields_without_effect_are_named_and_refused_ones_are_refused_by_name(dialect: Dialect, caller: Caller) -> None:
    app = door(scripted())
    whole = caller.asks(said(ASK, thinking=0))
    assert whole is not None
    url = caller.path(dialect, model=ASK.model, streamed=False)
    headers = caller.headers("")
    operation, schemas = post(dialect.path), described()["components"]["schemas"]

    def asked(given: dict[str, Any]) -> Any:
        sent = json.loads(whole)
        for name, value in given.items():
            put(sent, name, value)
        return ask(app, url=url, json=sent, headers=headers)

    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    found = [(name, inner) for name, inner, _ in fields(schema, schemas) if "." not in name]
    given = {name: sample(inner) for name, inner in found if inner.get("x-without-effect")}
    given |= dict.fromkeys([*ignored(dialect.path, operation, schemas), "unheard"], "x")
    response = asked(given)
    assert response.status_code == 200, response.text
    named = set(response.headers["x-ignored-parameters"].split(", "))
    assert named == {name.replace("[]", "") for name in given}
    for name in operation.get("x-refused-fields", ()):
        response = asked({name: "x"})
        assert response.status_code == 400, name
        assert name.replace("[]", ".0") in str(caller.failure(response.content, streamed=False))


def test_the_message_of_a_refusal_is_what_the_document_says() -> None:
    for dialect, caller in spoken():
        for name, words in list(post(dialect.path).get("x-refused-fields", {}).items())[:1]:
            whole = json.loads(caller.asks(ASK) or b"{}") | {name: "x"}
            url = caller.path(dialect, model=ASK.model, streamed=False)
            response = ask(door(scripted()), url=url, json=whole, headers=caller.headers(""))
            assert words.partition(";")[0] in (caller.failure(response.content, streamed=False) or "")


@pytest.mark.parametrize("field", ["thinking_budget", "strategy", "verifier", "max_cost_usd", "timeout"])
def test_our_own_fields_are_described_in_every_dialect(field: str) -> None:
    schemas = described()["components"]["schemas"]
    for dialect, _ in spoken():
        schema = post(dialect.path)["requestBody"]["content"]["application/json"]["schema"]
        found = {name: inner for name, inner, _ in fields(schema, schemas)}
        assert found[field].get("description"), dialect.path
