"""Writes the tables of `docs/api.md`: every field of every endpoint, supported, without effect or refused.

    python -m tools.fields_table

The rows are those of `/openapi.json`, which the code itself is described by, and beside them the fields that a
vendor's own SDK sends and this server takes without effect. What is around the tables is written by hand.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast, get_type_hints

from pydantic.alias_generators import to_camel

from ponder.server.dialects.gemini import refused as gemini
from ponder.server.settings import Settings
from tests.server.serving import ask, door, scripted
from tools.written_page import placed, write

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
BEGIN, END = "<!-- fields: begin -->\n", "<!-- fields: end -->"
DEEPEST = 3
"""Names of a path."""
SENT = {
    "/v1/chat/completions": ("openai.types.chat.completion_create_params", "CompletionCreateParamsBase"),
    "/v1/completions": ("openai.types.completion_create_params", "CompletionCreateParamsBase"),
    "/v1/responses": ("openai.types.responses.response_create_params", "ResponseCreateParamsBase"),
    "/v1/messages": ("anthropic.types.message_create_params", "MessageCreateParamsBase"),
}
"""What the SDK of a dialect's vendor sends."""
GEMINI = {
    "generationConfig.": "GenerationConfig",
    "generationConfig.thinkingConfig.": "ThinkingConfig",
    "safetySettings[].": "SafetySetting",
    "tools[].": "Tool",
    "tools[].functionDeclarations[].": "FunctionDeclaration",
    "toolConfig.": "ToolConfig",
    "toolConfig.functionCallingConfig.": "FunctionCallingConfig",
}
"""Google's SDK sends what its types have, by the places they have in a request. Beside them there is one type of what
its caller may say."""
NOT_SENT = frozenset({"automaticContinuation", "automaticFunctionCalling", "httpOptions", "shouldReturnHttpResponse"})
"""What that has for the SDK itself."""


def document() -> dict[str, Any]:
    """`/openapi.json` of a server without plugins."""
    return ask(door(scripted(), Settings()), "GET", "/openapi.json").json()


def sent(path: str) -> list[str]:
    """The fields that the vendor's SDK sends there; none where no SDK is."""
    if ":generateContent" in path or ":streamGenerateContent" in path:
        return sorted(sent_to_gemini())
    if path not in SENT:
        return []
    module, name = SENT[path]
    return sorted(get_type_hints(getattr(importlib.import_module(module), name)))


def sent_to_gemini() -> Iterator[str]:
    """By their paths."""
    types: Any = importlib.import_module("google.genai.types")

    def named(kind: str) -> set[str]:
        return {to_camel(name) for name in getattr(types, kind).model_fields}

    # What belongs into another object, and what the SDK keeps to itself, is not at the top level.
    config = gemini.CONFIG.instead.keys() | named("GenerationConfig")
    yield from {"contents"} | named("GenerateContentConfig") - config - NOT_SENT
    for place, kind in GEMINI.items():
        yield from (f"{place}{name}" for name in named(kind))
    for name in (named("GenerateContentConfig") - named("GenerationConfig")) & gemini.CONFIG.instead.keys():
        yield f"generationConfig.{name}"


def ignored(path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[str]:
    """Those of them that are taken without effect."""
    known = {name for name, _, _ in fields(body(operation) or {}, schemas)}
    return [name for name in sent(path) if name not in known and name not in operation.get("x-refused-fields", {})]


def body(operation: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema of what is posted."""
    content = operation.get("requestBody", {}).get("content", {})
    return content["application/json"]["schema"] if "application/json" in content else None


def fields(
    schema: Any, schemas: Mapping[str, Any], path: tuple[str, ...] = (), open_: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(dotted path, schema, required) of each field within a schema, `[]` behind a list."""
    if not isinstance(schema, dict) or len(path) >= DEEPEST:
        return
    held = cast("dict[str, Any]", schema)
    if "$ref" in held:
        name = held["$ref"].rpartition("/")[2]
        if name not in open_:
            yield from fields(schemas[name], schemas, path, (*open_, name))
        return
    seen = set[str]()
    for branch in (*held.get("anyOf", ()), *held.get("oneOf", ()), *held.get("allOf", ())):
        for found in fields(branch, schemas, path, open_):
            if found[0] not in seen:
                seen.add(found[0])
                yield found
    if "items" in held and path:
        yield from fields(held["items"], schemas, (*path[:-1], f"{path[-1]}[]"), open_)
    for name, inner in held.get("properties", {}).items():
        where = (*path, name)
        yield ".".join(where), inner, name in held.get("required", ())
        yield from fields(inner, schemas, where, open_)


def tables() -> Iterator[str]:
    """The lines of all of them."""
    told = document()
    schemas = told["components"]["schemas"]
    operations = [(path, method, one) for path, item in told["paths"].items() for method, one in item.items()]
    # Those that ask a model first.
    for path, method, operation in sorted(operations, key=lambda one: "x-asks-a-model" not in one[2]):
        rows = list(rows_of(path, operation, schemas))
        if rows:
            yield f"### `{method.upper()} {path}`"
            yield ""
            yield "| field | | |"
            yield "|---|---|---|"
            yield from rows
            yield ""


def rows_of(path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    """The rows of an endpoint: what it takes, what has no effect, what it refuses."""
    for parameter in operation.get("parameters", ()):
        if (place := {"query": "in the query", "header": "a header"}.get(parameter["in"])) is not None:
            words = f"{place}, required" if parameter.get("required") else place
            yield row(parameter["name"], words, parameter.get("description", ""))
    for name, inner, required in fields(body(operation) or {}, schemas):
        how = "required" if required and "." not in name else "supported"
        how = "without effect" if inner.get("x-without-effect") else how
        yield row(name, how, inner.get("description", ""))
    for name in ignored(path, operation, schemas):
        yield row(name, "without effect", "named in `x-ignored-parameters`")
    for name, words in operation.get("x-refused-fields", {}).items():
        yield row(name, "refused", words)


def row(name: str, how: str, words: str) -> str:
    """A line of a table."""
    return f"| `{name}` | {how} | {' '.join(words.split())} |".replace("|  |", "| |")


def made(page: str) -> str:
    """The page as it is to be."""
    return placed(page, PAGE, BEGIN, END, tables())


if __name__ == "__main__":
    sys.exit(write(PAGE, made, sys.argv[1:]))
