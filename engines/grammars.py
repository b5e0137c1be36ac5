"""Grammars that constrain an answer: a document by a schema, calls of tools, or either.

Calls are written as the model's family writes them (`ponder.engines.tools`). So a model that is made to call writes
what its prompt shows it, and what it writes is read as a call.
"""

from __future__ import annotations

import importlib
import json
from typing import Any, Literal

from ponder.compute.engine import CallSchema, Grammar
from ponder.compute.errors import RequestError
from ponder.engines.schemas import Schemas
from ponder.engines.schemas.parts import shown
from ponder.engines.schemas.size import refuse_size
from ponder.engines.tools import FORMATS, Form, HeldTool

SIZE = 1 << 19
"""Characters of a grammar at most, and of the schema it is made of."""

Kind = Literal["grammar", "structural_tag"]


def encoded(grammar: Grammar, tools: str = "hermes") -> tuple[Kind, str]:
    """The field of vLLM's `StructuredOutputsParams` and its text. `tools`: how the model writes calls. Raises
    `RequestError` for a schema that cannot be held."""
    document = _document(grammar) if (grammar.document and not grammar.text) or not grammar.calls else None
    if not grammar.calls:
        return "grammar", document or ""
    calls = _calls(grammar, tools, beside_document=document is not None)
    if document is not None:
        calls = {"type": "or", "elements": [calls, {"type": "grammar", "grammar": document}]}
    text = json.dumps({"type": "structural_tag", "format": calls})
    if len(text) > SIZE:
        raise too_large("tools")
    return "structural_tag", text


def _calls(grammar: Grammar, tools: str, *, beside_document: bool) -> dict[str, Any]:
    schemas, form = Schemas(), FORMATS[tools].form
    made = [
        HeldTool(call.name, _FREE if grammar.text and not call.strict else _held(schemas, call, form), schemas.defs)
        for call in grammar.calls
    ]

    refuse_size([tool.arguments for tool in made], schemas.defs, "tools")

    def ebnf(schema: Any, separators: tuple[str, str]) -> str:
        return _ebnf(schemas.document(schema), separators, "tools")

    if grammar.text:
        return form.in_text(made, grammar.several, ebnf).tag(grammar.several)
    held = form.held(made, grammar.several, ebnf)
    if beside_document and form.either:
        held = {"type": "sequence", "elements": [{"type": "const_string", "value": form.either}, held]}
    return held


_FREE = {"type": "object", "additionalProperties": True}


def _held(schemas: Schemas, call: CallSchema, form: Form) -> Any:
    """The arguments of a tool as they can be held. Raises `RequestError` where a strict one says what this form of
    calls cannot be held to."""
    held = schemas.add(json.loads(call.parameters), call.param)
    if call.strict and (place := form.loose(HeldTool(call.name, held, schemas.defs))) is not None:
        where = shown((*call.param.split("."), *place))
        raise RequestError(
            f"{where} cannot be held: this model writes calls in a form in which a strict tool is held to the names, "
            f"types and enums of its arguments, and not to {place[-1]}. Leave that out, or strict, and check the "
            "arguments yourself",
            param=where,
            code="invalid_json_schema",
        )
    return held


def _document(grammar: Grammar) -> str:
    if grammar.schema is None:
        return _ebnf('{"type": "object"}', (",", ":"), grammar.param)
    schemas = Schemas()
    held = schemas.add(json.loads(grammar.schema), grammar.param)
    refuse_size([held], schemas.defs, grammar.param)
    return _ebnf(schemas.document(held), (",", ":"), grammar.param)


def _ebnf(schema: str, separators: tuple[str, str], param: str) -> str:
    """A schema in xgrammar's EBNF. White space is not left to the model: a small one goes on with it for ever."""
    xgrammar: Any = importlib.import_module("xgrammar")
    made = str(xgrammar.Grammar.from_json_schema(schema, any_whitespace=False, separators=separators))
    if len(made) > SIZE:
        raise too_large(param)
    # A string of bounded length may have raw control characters there, which JSON forbids (xgrammar 0.2.8).
    return made.replace('[^\\"\\\\\\r\\n]', '[^\\0-\\x1f\\"\\\\]')


def too_large(param: str) -> RequestError:
    """What is beyond `SIZE`."""
    return RequestError(
        f"{param}: the schema is too large to be enforced: it, or its grammar, has more than {SIZE} characters. Use "
        "fewer and shorter names and values, or check the answer yourself",
        param=param,
        code="invalid_json_schema",
    )
