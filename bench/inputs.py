"""Every input of the API that has a size, and requests that drive it there: for what holds the event loop, and for what
one caller does to another (`bench/bombs.py`, `tests/server/test_held_loop.py`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ponder.server.settings import Limits

LIMITS = Limits()
BYTES = LIMITS.body_bytes - 4096
"""Of an input that may fill a body."""


def asks(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def document(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


def rules(**parameters: Any) -> dict[str, Any]:
    """Checked, and not judged by."""
    return {"strategy": "direct", "verifier": {"name": "rules", **parameters}}


def nested(n: int) -> Any:
    made: Any = {"type": "integer"}
    for _ in range(n):
        made = {"type": "array", "items": made}
    return made


def called(arguments: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    answer = {"role": "tool", "tool_call_id": "c", "content": "x"}
    return {"messages": [*asks("x"), {"role": "assistant", "content": None, "tool_calls": [call]}, answer]}


VALUES = LIMITS.json_values
INPUTS: dict[str, tuple[int, Callable[[int], dict[str, Any]]]] = {
    "a text": (BYTES, lambda n: {"messages": asks("a" * n)}),
    "words": (BYTES, lambda n: {"messages": asks("hello, world 12 " * (n // 16))}),
    "white space": (BYTES, lambda n: {"messages": asks(" " * n)}),
    "markers": (BYTES, lambda n: {"messages": asks("<|im_start|></think>" * (n // 20))}),
    "half a marker": (BYTES, lambda n: {"messages": asks("<|im_" * (n // 5))}),
    "other letters": (BYTES, lambda n: {"messages": asks("日本語é" * (n // 24))}),
    "messages": (LIMITS.messages, lambda n: {"messages": asks("x") * n}),
    "more messages than that": (VALUES, lambda n: {"messages": asks("x") * (n // 4)}),
    "parts of a message": (
        VALUES,
        lambda n: {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * (n // 4)}]},
    ),
    "wrong parts": (VALUES, lambda n: {"messages": [{"role": "user", "content": [1] * (n - 50)}]}),
    "stray keys": (
        VALUES,
        lambda n: {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "x", f"k{i}": 1} for i in range(n // 6)]}
            ]
        },
    ),
    "unknown fields": (VALUES, lambda n: {f"thinkng_budge{i}": 1 for i in range(n - 50)}),
    "a long key": (BYTES, lambda n: {"a" * n: 1}),
    "the model": (BYTES, lambda n: {"model": ":" * n}),
    "empty lists": (VALUES, lambda n: {"metadata": [[]] * (n // 2)}),
    "too many values": (BYTES, lambda n: {"metadata": [[]] * (n // 4)}),
    "nesting": (60, lambda n: {"metadata": json.loads("[" * n + "]" * n)}),
    "numbers": (VALUES, lambda n: {"metadata": [123456789012345678901] * (n - 50)}),
    "stop": (LIMITS.stop_chars, lambda n: {"stop": ["a" * n] * LIMITS.stop}),
    "logit_bias": (LIMITS.logit_bias, lambda n: {"logit_bias": {str(i): 1 for i in range(n)}}),
    "wrong logit_bias": (VALUES, lambda n: {"logit_bias": {str(i): "x" for i in range(n - 50)}}),
    "metadata": (LIMITS.metadata, lambda n: {"metadata": {f"k{i}": "v" * 500 for i in range(n)}}),
    "tools": (LIMITS.tools, lambda n: {"tools": [tool(f"t{i}") for i in range(n)]}),
    "tools that must be called": (
        LIMITS.tools,
        lambda n: {
            "tools": [tool(f"t{i}", properties={"a": {"type": "string"}}) for i in range(n)],
            "tool_choice": "required",
        },
    ),
    "a tool's description": (
        BYTES,
        lambda n: {"tools": [{"type": "function", "function": {"name": "t", "description": "a <b> " * (n // 6)}}]},
    ),
    "arguments of a call": (BYTES // 2, lambda n: called(json.dumps({"a": "b" * n}))),
    "arguments of many brackets": (BYTES // 2, lambda n: called("[" + "{}," * (n // 3) + "{}]")),
    "arguments with escapes": (BYTES // 3, lambda n: called('["' + "\\u0061" * (n // 6) + '"]')),
    "an enum": (VALUES, lambda n: document({"enum": [str(i) for i in range(n - 100)]})),
    "a long enum": (BYTES // 2, lambda n: document({"enum": ["a" * n]})),
    "a pattern": (BYTES // 2, lambda n: document({"type": "string", "pattern": "a" * n})),
    "patterns": (2_000, lambda n: document({"prefixItems": [{"type": "string", "pattern": "^(a|b){9}$"}] * n})),
    "properties": (VALUES // 4, lambda n: document({"properties": {f"p{i}": {"type": "string"} for i in range(n)}})),
    "references": (
        VALUES // 4,
        lambda n: document({"$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(n)}, "$ref": "#/$defs/d0"}),
    ),
    "a nested schema": (30, lambda n: document(nested(n))),
    "lengths": (10**6, lambda n: document({"type": "string", "minLength": n, "maxLength": 2 * n})),
    "rules.pattern": (500, lambda n: rules(pattern="(a|b)*" * (n // 6))),
    "rules.pattern that repeats": (500, lambda n: rules(pattern="(a{9})" * (n // 6))),
    "rules.json_schema": (VALUES, lambda n: rules(json_schema={"enum": list(range(n - 100))})),
    "rules.json_schema of references": (
        VALUES // 4,
        lambda n: rules(
            json_schema={"$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(n)}, "$ref": "#/$defs/d0"}
        ),
    ),
    "a program's tests": (
        64,
        lambda n: {"strategy": "direct", "verifier": {"name": "code", "tests": ["assert f() == 1\n" * 900] * n}},
    ),
    "a strategy's parameters": (
        VALUES,
        lambda n: {"strategy": {"name": "best_of_n", **{f"k{i}": 1 for i in range(n - 100)}}},
    ),
}
"""By the name of the input: its bound, and the fields of a request whose input has that size."""
