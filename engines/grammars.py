"""Grammars that constrain an answer: a document by a schema, calls of tools, or either.

Calls are written as `server/calls.py` reads them and as the chat templates of the Qwen family teach them: in the Hermes
form, `<tool_call>` around JSON, one call to a line. So a model that is made to call writes what its prompt shows it.
"""

from __future__ import annotations

import importlib
import json
from typing import Any, Literal

from ponder.compute.engine import Grammar
from ponder.compute.errors import RequestError
from ponder.engines.schemas import Schemas

OPEN, CLOSE = "<tool_call>\n", "\n</tool_call>"

SIZE = 1 << 19
"""Bytes of a grammar at most: larger ones take the engine seconds to compile."""

Kind = Literal["grammar", "structural_tag"]


def encoded(grammar: Grammar) -> tuple[Kind, str]:
    """The field of vLLM's `StructuredOutputsParams` and its text. Raises `RequestError` for a schema that cannot be
    held."""
    document = _document(grammar) if grammar.document or not grammar.calls else None
    if not grammar.calls:
        return "grammar", document or ""
    schemas = Schemas()
    shapes = [
        {
            "type": "object",
            "properties": {
                "name": {"const": call.name},
                "arguments": schemas.add(json.loads(call.parameters), call.param),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for call in grammar.calls
    ]
    called = _ebnf(schemas.document({"anyOf": shapes}), (", ", ": "), "tools")
    calls: dict[str, Any] = {
        "type": "tags_with_separator",
        "tags": [{"type": "tag", "begin": OPEN, "content": {"type": "grammar", "grammar": called}, "end": CLOSE}],
        "separator": "\n",
        "at_least_one": True,
        "stop_after_first": not grammar.several,
    }
    if document is not None:
        calls = {"type": "or", "elements": [calls, {"type": "grammar", "grammar": document}]}
    return "structural_tag", json.dumps({"type": "structural_tag", "format": calls})


def _document(grammar: Grammar) -> str:
    if grammar.schema is None:
        return _ebnf('{"type": "object"}', (",", ":"), grammar.param)
    schemas = Schemas()
    return _ebnf(schemas.document(schemas.add(json.loads(grammar.schema), grammar.param)), (",", ":"), grammar.param)


def _ebnf(schema: str, separators: tuple[str, str], param: str) -> str:
    """A schema in xgrammar's EBNF. White space is not left to the model: a small one goes on with it for ever."""
    xgrammar: Any = importlib.import_module("xgrammar")
    made = str(xgrammar.Grammar.from_json_schema(schema, any_whitespace=False, separators=separators))
    if len(made) > SIZE:
        raise RequestError(
            f"the schema is too large to be enforced: its grammar has more than {SIZE} bytes",
            param=param,
            code="invalid_json_schema",
        )
    # A string of bounded length may have raw control characters there, which JSON forbids (xgrammar 0.2.8).
    return made.replace('[^\\"\\\\\\r\\n]', '[^\\0-\\x1f\\"\\\\]')
