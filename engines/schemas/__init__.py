"""JSON schemas as the engine's grammar can enforce them: rewritten where that helps, refused by name otherwise.

The grammar (xgrammar) enforces much of JSON Schema and drops the rest without a word: keywords it does not know, and
those beside a `$ref`, an `enum` or an `anyOf`. So a schema is rewritten first: references are followed, what is said of
a value in several places is put together, values of an `enum` are checked against all else that is said of them. What
comes out is in the part of the language that is enforced, and allows nothing the caller's schema forbids; it may allow
less (objects have no properties but those that are named, unless `additionalProperties` is there). For what cannot be
said in that part, `RequestError` names the keyword and its place. `docs/api.md` has the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.exceptions import NoSuchAnchor, PointerToNowhere, Unresolvable
from referencing.jsonschema import DRAFT7, DRAFT202012, specification_with

from ponder.compute.errors import RequestError
from ponder.engines.schemas.containers import array_schema, object_schema
from ponder.engines.schemas.numbers import number_schema
from ponder.engines.schemas.one_of import refuse_overlap
from ponder.engines.schemas.parts import (
    WORDS,
    Part,
    Schema,
    binds,
    common_types,
    is_object,
    is_reference,
    objects_in,
    refuse,
    shown,
)
from ponder.engines.schemas.patterns import held_pattern
from ponder.engines.schemas.texts import text_schema
from ponder.engines.schemas.unsupported import refuse_unsupported

PLACES = 20_000
"""Places of a schema at most, those behind references and in combinations counted each time."""

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


class Schemas:
    """Rewrites schemas into one document: their references point into one common `$defs`."""

    def __init__(self) -> None:
        self.defs: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []
        self._places = 0
        self._open: list[int] = []

    def add(self, schema: Schema, param: str) -> Any:
        """The schema as it can be enforced. Raises `RequestError` with the place behind `param`."""
        root = self._root(schema, param)
        held = self._all([root])
        if not self._ends(held):
            refuse(root, "$ref", "every document would go on for ever: let some part end")
        if self._is_its_own_case():
            refuse(root, "anyOf", "what it refers to is one of its own cases: take that case away")
        return held

    def document(self, held: Any) -> str:
        """A schema that `add` gave, with what it refers to, as JSON text."""
        return json.dumps({**held, **({"$defs": self.defs} if self.defs else {})})

    # -- the whole ----------------------------------------------------------------------------------------------------

    def _root(self, schema: Schema, param: str) -> Part:
        path = tuple(param.split("."))
        if not isinstance(schema.get("$schema", ""), str):
            raise RequestError(f"{param}.$schema should be a string", param=param, code="invalid_json_schema")
        checks = cast("type[Any]", validator_for(schema, default=Draft202012Validator))
        draft = DRAFT202012
        try:
            checks.check_schema(schema)
        except SchemaError as error:
            try:
                if "$schema" in schema:
                    raise error
                Draft7Validator.check_schema(schema)
                draft = DRAFT7
            except SchemaError:
                where = (*path, *map(str, error.absolute_path))
                raise RequestError(
                    f"{shown(where)} is no valid JSON schema ({error.validator})",
                    param=shown(where),
                    code="invalid_json_schema",
                ) from None
        if "$schema" in schema:
            draft = specification_with(schema["$schema"], default=DRAFT202012)
        self._kept.append(schema)
        resource: Any = Resource(contents=schema, specification=cast(Any, draft))
        base = resource.id() or ""
        registry: Any = cast(Any, Registry)().with_resource(base, resource).crawl()
        return Part(schema, registry.resolver(base), path)

    def _ends(self, root: Any) -> bool:
        """Some document of it is finite."""
        finite: set[str] = set()

        def ends(node: Any) -> bool:
            if not is_object(node):
                return True
            if "$ref" in node:
                return node["$ref"].rpartition("/")[2] in finite
            if "anyOf" in node:
                return any(map(ends, node["anyOf"]))
            if node.get("type") == "object":
                return all(ends(node["properties"][name]) for name in node.get("required", ()))
            if node.get("type") == "array" and (least := node.get("minItems", 0)):
                prefix: list[Any] = node.get("prefixItems", [])
                rest = node.get("items", True)
                return all(map(ends, prefix[:least])) and (least <= len(prefix) or (rest is not False and ends(rest)))
            return True

        while new := {name for name, node in self.defs.items() if name not in finite and ends(node)}:
            finite |= new
        return ends(root)

    def _is_its_own_case(self) -> bool:
        """Some part is, by references and cases alone, one of its own cases: no grammar can begin with it."""

        def cases(node: Any) -> set[str]:
            if not is_object(node):
                return set()
            if "$ref" in node:
                return {node["$ref"].rpartition("/")[2]}
            return {name for branch in node.get("anyOf", ()) for name in cases(branch)}

        leads = {name: cases(node) for name, node in self.defs.items()}
        while free := {name for name, to in leads.items() if not to & leads.keys()}:
            for name in free:
                del leads[name]
        return bool(leads)

    # -- what is said of one value ------------------------------------------------------------------------------------

    def _all(self, parts: Sequence[Part]) -> Any:
        """A schema of what all of these allow."""
        for part in parts[:1]:
            self._count(part)
        parts = [part for part in parts if part.schema is not True and binds(part.schema)]
        if not parts:
            return {}
        if len(parts) == 1 and is_reference(parts[0].schema):
            return self._ref(parts[0])
        layers = [layer for part in parts for layer in self._layers(part)]
        for layer in layers:
            refuse_unsupported(layer)
        for i, layer in enumerate(layers):
            for word in ("anyOf", "oneOf"):
                if word in layer.schema:
                    rest = {k: v for k, v in layer.schema.items() if k != word}
                    others = [*layers[:i], Part(rest, layer.resolver, layer.path), *layers[i + 1 :]]
                    branches = [layer.at(word, n) for n in range(len(layer.schema[word]))]
                    if word == "oneOf":
                        refuse_overlap(layer, branches, self._layers)
                    branches = [branch for branch in branches if branch.schema is not False]
                    if not branches:
                        refuse(layer, word, "no value satisfies it")
                    return {"anyOf": [self._all([*others, branch]) for branch in branches]}
        if any("enum" in layer.schema or "const" in layer.schema for layer in layers):
            return {"enum": self._values(layers)}
        return self._typed(layers)

    def _count(self, part: Part) -> None:
        self._places += 1
        if self._places > PLACES:
            refuse(part, "the schema", f"with its references it has more than {PLACES} places")

    def _layers(self, part: Part) -> Iterator[Part]:
        """The part itself, what it refers to and what its allOf lists, none of which refers to more."""
        self._count(part)
        if part.schema is True:
            return
        if part.schema is False:
            refuse(part, "false", "no value satisfies it")
        schema: Schema = part.schema
        if id(schema) in self._open:
            refuse(part, "$ref", "it refers to itself with more beside it: take what is beside it away")
        self._open.append(id(schema))
        try:
            yield Part({k: v for k, v in schema.items() if k not in ("$ref", "allOf")}, part.resolver, part.path)
            if "$ref" in schema:
                yield from self._layers(self._target(part))
            for i in range(len(schema.get("allOf", ()))):
                yield from self._layers(part.at("allOf", i))
        finally:
            self._open.pop()

    def _target(self, part: Part) -> Part:
        reference = str(part.schema["$ref"])
        try:
            found = part.resolver.lookup(reference)
        except (PointerToNowhere, NoSuchAnchor):
            refuse(part, "$ref", "there is nothing at the place it names")
        except (Unresolvable, ValueError):
            refuse(part, "$ref", "only references within the schema are followed; put the schema under $defs")
        if not (isinstance(found.contents, bool) or is_object(found.contents)):
            refuse(part, "$ref", "what it names is no schema")
        return Part(found.contents, found.resolver, (*part.path, "$ref"))

    def _ref(self, part: Part) -> Any:
        """A reference into the common `$defs`."""
        target, seen = part, set[int]()
        while is_reference(target.schema):
            if id(target.schema) in seen:
                refuse(part, "$ref", "it refers to itself and says nothing")
            seen.add(id(target.schema))
            target = self._target(target)
        if target.schema is True or not binds(target.schema):
            return {}
        if target.schema is False:
            refuse(part, "$ref", "no value satisfies what it names")
        name = self._names.get(id(target.schema))
        if name is None:
            name = self._names[id(target.schema)] = f"d{len(self._names)}"
            opened, self._open = self._open, []
            self.defs[name] = self._all([target])
            self._open = opened
        return {"$ref": f"#/$defs/{name}"}

    def _values(self, layers: Sequence[Part]) -> list[Any]:
        """Values of the enums and consts that satisfy all else that is said of them."""
        first = next(layer for layer in layers if "enum" in layer.schema or "const" in layer.schema)
        values: list[Any] = first.schema["enum"] if "enum" in first.schema else [first.schema["const"]]
        for layer in layers:
            if any("$ref" in one for one in objects_in(layer.schema)):
                refuse(layer, "enum", "there is a $ref beside it: take one of the two away")
            pattern = layer.schema.get("pattern")
            if pattern is not None:
                held_pattern(layer, pattern)
            if isinstance(layer.schema.get("format"), str) and any(isinstance(value, str) for value in values):
                refuse(layer, "format", "it stands beside an enum: leave one of the two out")
            checks: Any = Draft202012Validator({k: v for k, v in layer.schema.items() if k != "$schema"})
            values = [value for value in values if checks.is_valid(value)]
        if not values:
            refuse(first, "enum", "none of its values satisfies what is said beside it")
        return values

    # -- by type ------------------------------------------------------------------------------------------------------

    def _typed(self, layers: Sequence[Part]) -> Any:
        types: set[str] | None = None
        for layer in layers:
            if "type" in layer.schema:
                said = layer.schema["type"]
                said = {said} if isinstance(said, str) else set(cast("list[str]", said))
                types = said if types is None else common_types(types, said)
        if types is None:
            types = {kind for kind, words in WORDS.items() if any(w in layer.schema for layer in layers for w in words)}
            if "number" in types and not any(layer.schema.keys() & WORDS["number"] for layer in layers):
                types.discard("number")
            if not types:
                return {}
        if "number" in types:
            types.discard("integer")
        if not types:
            refuse(layers[0], "type", "no type satisfies all that is said")
        made: list[Any] = []
        for kind in (kind for kind in TYPES if kind in types):
            match kind:
                case "object":
                    made.append(object_schema(layers, self._all))
                case "array":
                    made.append(array_schema(layers, self._all))
                case "string":
                    made.append(text_schema(layers))
                case "number" | "integer":
                    made.append(number_schema(layers, kind))
                case _:
                    made.append({"type": kind})
        return made[0] if len(made) == 1 else {"anyOf": made}
