"""JSON by what it says: the order of its names, its white space and the way its numbers are written do not matter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from ponder.compute.text import ToolCall


def canonical(value: Any) -> str:
    """JSON text, the same for equal values: `2` is `2.0`, as in JSON Schema. Texts that differ at all differ here."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def called(calls: Sequence[ToolCall]) -> str:
    """What these calls of tools ask for, the same whatever their order."""
    return json.dumps(sorted([call.name, _arguments(call.arguments)] for call in calls))


def _arguments(text: str) -> str:
    try:
        return canonical(json.loads(text))
    except (ValueError, RecursionError):
        return text.strip()


def _plain(value: Any) -> Any:
    """The same, whole numbers as whole numbers."""
    match value:
        case float():
            return int(value) if value.is_integer() else value
        case list():
            return [_plain(one) for one in cast("list[Any]", value)]
        case dict():
            return {key: _plain(one) for key, one in cast("dict[str, Any]", value).items()}
        case _:
            return value
