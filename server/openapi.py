"""`/openapi.json`: FastAPI's description of the pages, and each dialect's own of its requests and answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi.openapi.utils import get_openapi

from ponder.server.dialect import Dialect
from ponder.server.pages import Page

SCHEMAS = "#/components/schemas/"


def document(version: str, pages: Sequence[Page], dialects: Sequence[Dialect]) -> dict[str, Any]:
    """The description of the whole server. Names of schemas that two dialects chose are told apart by a number."""
    told = get_openapi(
        title="Ponder",
        version=version,
        summary="An OpenAI-compatible server whose thinking_budget binds",
        routes=[page.described() for page in pages],
        # Beside this document, wherever a proxy has it.
        servers=[{"url": "."}],
    )
    for item in told["paths"].values():
        for operation in item.values():
            _refused_as_json(operation["responses"])
    components: dict[str, Any] = told.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    for dialect in dialects:
        operation, named = dialect.operation()
        names = _free(named, schemas)
        told["paths"][_templated(dialect.path)] = {"post": _renamed(operation, names)}
        schemas |= {names[name]: _renamed(schema, names) for name, schema in named.items()}
    return told


def _templated(path: str) -> str:
    """A path as OpenAPI writes it: a part that varies by its name alone."""
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", path)


def _refused_as_json(responses: dict[str, Any]) -> None:
    """Refusals are JSON on every page; FastAPI describes them as the page's own answer is sent."""
    for status, response in responses.items():
        if status in ("4XX", "5XX") and (content := response.get("content")) is not None:
            response["content"] = {"application/json": next(iter(content.values()))}


def _free(named: Mapping[str, Any], taken: Mapping[str, Any]) -> dict[str, str]:
    """What each schema is to be called: its own name, where no other schema has it."""
    names: dict[str, str] = {}
    for name, schema in named.items():
        free, number = name, 2
        while free in names.values() or taken.get(free, schema) != schema or (free != name and free in named):
            free, number = f"{name}{number}", number + 1
        names[name] = free
    return names


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The same JSON, its references to the schemas by their new names."""
    if isinstance(value, Mapping):
        given = cast("Mapping[str, Any]", value)
        return {
            key: SCHEMAS + names.get(inner.removeprefix(SCHEMAS), inner.removeprefix(SCHEMAS))
            if key == "$ref" and isinstance(inner, str) and inner.startswith(SCHEMAS)
            else _renamed(inner, names)
            for key, inner in given.items()
        }
    if isinstance(value, list | tuple):
        return [_renamed(inner, names) for inner in cast("Sequence[Any]", value)]
    return value
