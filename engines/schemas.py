"""JSON schemas as the engine's grammar can hold them: rewritten where that helps, refused by name where it does not.

The grammar (xgrammar) enforces much of JSON Schema and drops the rest without a word: keywords it does not know, and
those beside a `$ref`, an `enum` or an `anyOf`. So a schema is rewritten first: references are followed, what is said of
a value in several places is put together, values of an `enum` are held against all else that is said of them. What
comes out is in the part of the language that is enforced, and allows nothing the caller's schema forbids; it may allow
less (objects have no properties but those that are named, unless `additionalProperties` is there). For what cannot be
said in that part, `RequestError` names the keyword and its place. `docs/api.md` has the table.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard, cast

from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.exceptions import NoSuchAnchor, PointerToNowhere, Unresolvable
from referencing.jsonschema import DRAFT7, DRAFT202012, specification_with

from ponder.compute.errors import RequestError

Schema = dict[str, Any]

PLACES = 20_000
"""Places of a schema at most, those behind references and in combinations counted each time."""

STATES, TIMES = 1000, 128
"""Characters of the longest text a pattern spells out: the grammar needs a state for each. And how often it may repeat
one thing by {...}: with more, xgrammar 0.2.8 fails when it compiles."""

COUNTED = 2000
"""Properties an object has, times how many of them are counted, at most: so many rules it takes to count them."""

INT64 = 2**63 - 1

FORMATS = frozenset(
    {"email", "date", "time", "date-time", "duration", "ipv4", "ipv6", "hostname", "uuid", "uri", "uri-reference"}
    | {"uri-template", "json-pointer", "relative-json-pointer"}
)
NUMBER_FORMATS: dict[str, tuple[int, int] | None] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-INT64, INT64),
    "float": None,
    "double": None,
}
"""OpenAPI's, and the bounds they mean."""

_LEAP = "0[48]|[2468][048]|[13579][26]"
_DATE = (
    "(?:(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})-"
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    "02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|(?:[0-9]{{2}}(?:{_LEAP})|(?:{_LEAP})00)-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
OWN_PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "ipv4": rf"^{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}$",
}
"""Formats whose grammar in xgrammar lets through what is none: days that are in no calendar, numbers led by zeros."""

WORDS = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "object": (
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties", "unevaluatedProperties"),
    ),
}
"""What each keyword is about; where no type is said, it is the one meant."""

REFUSED = {
    "not": "say what is allowed instead, by enum or anyOf",
    "dependentRequired": "write the cases as anyOf",
    "dependentSchemas": "write the cases as anyOf",
    "dependencies": "write the cases as anyOf",
    "contains": "leave it out",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
}
LEAST = ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum")
MOST = ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum")
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


@dataclass(frozen=True, slots=True)
class Part:
    """A schema at its place."""

    schema: Any
    resolver: Any
    path: tuple[str, ...]

    def at(self, *path: str | int) -> Part:
        """What stands under these names in it."""
        schema, resolver = self.schema, self.resolver
        for name in path:
            schema = schema[name]
        if _object(schema) and isinstance(schema.get("$id"), str):
            resolver = resolver.in_subresource(Resource(contents=schema, specification=cast(Any, DRAFT202012)))
        return Part(schema, resolver, (*self.path, *map(str, path)))


class Schemas:
    """Rewrites schemas into one document: their references point into one common `$defs`."""

    def __init__(self) -> None:
        self.defs: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []
        self._places = 0
        self._open: list[int] = []

    def add(self, schema: Schema, param: str) -> Any:
        """The schema as it can be held. Raises `RequestError` with the place behind `param`."""
        root = self._root(schema, param)
        held = self._all([root])
        if not self._ends(held):
            self._refuse(root, "$ref", "every document would go on for ever: let some part end")
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
                    f"{_shown(where)} is no valid JSON schema ({error.validator})",
                    param=_shown(where),
                    code="invalid_json_schema",
                ) from None
        if "$schema" in schema:
            draft = specification_with(schema["$schema"], default=DRAFT202012)
        self._kept.append(schema)
        resource: Any = Resource(contents=schema, specification=cast(Any, draft))
        base = resource.id() or ""
        registry: Any = cast(Any, Registry)().with_resource(base, resource).crawl()
        return Part(schema, registry.resolver(base), path)

    def _refuse(self, part: Part, keyword: str, hint: str) -> NoReturn:
        where = _shown(part.path)
        raise RequestError(f"{keyword} at {where} cannot be enforced: {hint}", param=where, code="invalid_json_schema")

    def _ends(self, root: Any) -> bool:
        """Some document of it is finite."""
        finite: set[str] = set()

        def ends(node: Any) -> bool:
            if not _object(node):
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

    # -- what is said of one value ------------------------------------------------------------------------------------

    def _all(self, parts: Sequence[Part]) -> Any:
        """A schema of what all of these allow."""
        for part in parts[:1]:
            self._count(part)
        parts = [part for part in parts if part.schema is not True and _binds(part.schema)]
        if not parts:
            return {}
        if len(parts) == 1 and _reference(parts[0].schema):
            return self._ref(parts[0])
        layers = [layer for part in parts for layer in self._layers(part)]
        for layer in layers:
            self._known(layer)
        for i, layer in enumerate(layers):
            for word in ("anyOf", "oneOf"):
                if word in layer.schema:
                    rest = {k: v for k, v in layer.schema.items() if k != word}
                    others = [*layers[:i], Part(rest, layer.resolver, layer.path), *layers[i + 1 :]]
                    branches = [layer.at(word, n) for n in range(len(layer.schema[word]))]
                    if word == "oneOf":
                        self._one(layer, branches)
                    branches = [branch for branch in branches if branch.schema is not False]
                    if not branches:
                        self._refuse(layer, word, "no value satisfies it")
                    return {"anyOf": [self._all([*others, branch]) for branch in branches]}
        if any("enum" in layer.schema or "const" in layer.schema for layer in layers):
            return {"enum": self._values(layers)}
        return self._typed(layers)

    def _count(self, part: Part) -> None:
        self._places += 1
        if self._places > PLACES:
            self._refuse(part, "the schema", f"with its references it has more than {PLACES} places")

    def _layers(self, part: Part) -> Iterator[Part]:
        """The part itself, what it refers to and what its allOf lists, none of which refers to more."""
        self._count(part)
        if part.schema is True:
            return
        if part.schema is False:
            self._refuse(part, "false", "no value satisfies it")
        schema: Schema = part.schema
        if id(schema) in self._open:
            self._refuse(part, "$ref", "it refers to itself with more beside it: take what is beside it away")
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
            self._refuse(part, "$ref", "there is nothing at the place it names")
        except (Unresolvable, ValueError):
            self._refuse(part, "$ref", "only references within the schema are followed; put the schema under $defs")
        if not (isinstance(found.contents, bool) or _object(found.contents)):
            self._refuse(part, "$ref", "what it names is no schema")
        return Part(found.contents, found.resolver, (*part.path, "$ref"))

    def _ref(self, part: Part) -> Any:
        """A reference into the common `$defs`."""
        target, seen = part, set[int]()
        while _reference(target.schema):
            if id(target.schema) in seen:
                self._refuse(part, "$ref", "it refers to itself and says nothing")
            seen.add(id(target.schema))
            target = self._target(target)
        if target.schema is True or not _binds(target.schema):
            return {}
        if target.schema is False:
            self._refuse(part, "$ref", "no value satisfies what it names")
        name = self._names.get(id(target.schema))
        if name is None:
            name = self._names[id(target.schema)] = f"d{len(self._names)}"
            opened, self._open = self._open, []
            self.defs[name] = self._all([target])
            self._open = opened
        return {"$ref": f"#/$defs/{name}"}

    def _known(self, layer: Part) -> None:
        """Refuses what cannot be enforced."""
        schema = layer.schema
        for word, hint in REFUSED.items():
            if word in schema and not (
                word == "contains" and schema.get("minContains") == 0 and "maxContains" not in schema
            ):
                self._refuse(layer, word, hint)
        if "if" in schema and ("then" in schema or "else" in schema):
            self._refuse(layer, "if", "write the cases as anyOf")
        if schema.get("uniqueItems"):
            self._refuse(layer, "uniqueItems", "leave it out, or list the combinations in an enum")
        for word in ("unevaluatedProperties", "unevaluatedItems"):
            if not isinstance(schema.get(word, True), bool):
                self._refuse(layer, word, "use additionalProperties, or items")
        for word in ("exclusiveMinimum", "exclusiveMaximum"):
            if isinstance(schema.get(word), bool):
                self._refuse(layer, word, "give the bound itself")
        if schema.get("multipleOf", 1) != 1:
            self._refuse(layer, "multipleOf", "list the values in an enum, or leave it out")

    def _values(self, layers: Sequence[Part]) -> list[Any]:
        """Values of the enums and consts that satisfy all else that is said of them."""
        first = next(layer for layer in layers if "enum" in layer.schema or "const" in layer.schema)
        values: list[Any] = first.schema["enum"] if "enum" in first.schema else [first.schema["const"]]
        for layer in layers:
            if any("$ref" in one for one in _subschemas(layer.schema)):
                self._refuse(layer, "enum", "there is a $ref beside it: take one of the two away")
            pattern = layer.schema.get("pattern")
            if pattern is not None:
                self._pattern(layer, pattern)
            if isinstance(layer.schema.get("format"), str) and any(isinstance(value, str) for value in values):
                self._refuse(layer, "format", "it stands beside an enum: leave one of the two out")
            reservations: Any = Draft202012Validator({k: v for k, v in layer.schema.items() if k != "$schema"})
            values = [value for value in values if reservations.is_valid(value)]
        if not values:
            self._refuse(first, "enum", "none of its values satisfies what is said beside it")
        return values

    # -- by type ------------------------------------------------------------------------------------------------------

    def _typed(self, layers: Sequence[Part]) -> Any:
        types: set[str] | None = None
        for layer in layers:
            if "type" in layer.schema:
                said = layer.schema["type"]
                said = {said} if isinstance(said, str) else set(cast("list[str]", said))
                types = said if types is None else _common(types, said)
        if types is None:
            types = {kind for kind, words in WORDS.items() if any(w in layer.schema for layer in layers for w in words)}
            if "number" in types and not any(layer.schema.keys() & WORDS["number"] for layer in layers):
                types.discard("number")
            if not types:
                return {}
        if "number" in types:
            types.discard("integer")
        if not types:
            self._refuse(layers[0], "type", "no type satisfies all that is said")
        made: list[Any] = []
        for kind in (kind for kind in TYPES if kind in types):
            match kind:
                case "object":
                    made.append(self._object(layers))
                case "array":
                    made.append(self._array(layers))
                case "string":
                    made.append(self._string(layers))
                case "number" | "integer":
                    made.append(self._number(layers, kind))
                case _:
                    made.append({"type": kind})
        return made[0] if len(made) == 1 else {"anyOf": made}

    def _bounds(self, layers: Sequence[Part], *words: str) -> Schema:
        """The narrowest of the bounds that several places set."""
        bounds: Schema = {}
        for word in words:
            said = [layer.schema[word] for layer in layers if word in layer.schema]
            if said:
                bounds[word] = max(said) if word in LEAST else min(said)
        return bounds

    def _string(self, layers: Sequence[Part]) -> Schema:
        bounds = self._bounds(layers, "minLength", "maxLength")
        if not bounds.get("minLength"):
            bounds.pop("minLength", None)
        shapes: dict[tuple[str, str], Part] = {}
        for layer in layers:
            for word in ("pattern", "format"):
                if word in layer.schema:
                    shapes[word, str(layer.schema[word])] = layer
        if not shapes:
            return {"type": "string"} | bounds
        (word, shape), layer = next(iter(shapes.items()))
        if len(shapes) > 1:
            self._refuse(layer, word, "a second pattern or format is said of the same text: put them into one pattern")
        if bounds:
            self._refuse(
                layer, word, "it stands beside minLength or maxLength: say the length in the pattern, as in {2,5}"
            )
        if word == "pattern":
            return {"type": "string", "pattern": self._pattern(layer, shape)}
        if shape in OWN_PATTERNS:
            return {"type": "string", "pattern": OWN_PATTERNS[shape]}
        if shape not in FORMATS:
            self._refuse(layer, "format", f"use one of {', '.join(sorted(FORMATS))}, a pattern, or leave it out")
        return {"type": "string", "format": shape}

    def _number(self, layers: Sequence[Part], kind: str) -> Schema:
        bounds = self._bounds(layers, *(word for word in WORDS["number"] if word != "multipleOf"))
        whole = kind == "integer" or any(layer.schema.get("multipleOf") == 1 for layer in layers)
        for layer in layers:
            if isinstance(form := layer.schema.get("format"), str):
                if form not in NUMBER_FORMATS and "string" not in _types(layer.schema):
                    self._refuse(layer, "format", "use minimum and maximum")
                if (limits := NUMBER_FORMATS.get(form)) is not None:
                    bounds["minimum"] = max(limits[0], bounds.get("minimum", limits[0]))
                    bounds["maximum"] = min(limits[1], bounds.get("maximum", limits[1]))
        if not whole:
            return {"type": "number"} | bounds
        least = [math.ceil(bounds[w]) for w in ("minimum",) if w in bounds]
        least += [math.floor(bounds[w]) + 1 for w in ("exclusiveMinimum",) if w in bounds]
        most = [math.floor(bounds[w]) for w in ("maximum",) if w in bounds]
        most += [math.ceil(bounds[w]) - 1 for w in ("exclusiveMaximum",) if w in bounds]
        low, high = max(least, default=None), min(most, default=None)
        if (low is not None and low > (INT64 if high is None else min(high, INT64))) or (
            high is not None and high < -INT64
        ):
            self._refuse(layers[0], "minimum", "no number lies within the bounds")
        bound: Schema = {"type": "integer"}
        if low is not None:
            bound["minimum"] = max(low, -INT64)
        if high is not None:
            bound["maximum"] = min(high, INT64)
        return bound

    def _array(self, layers: Sequence[Part]) -> Schema:
        prefixes: list[list[Part]] = []
        rests: list[Part | None] = []
        for layer in layers:
            items = layer.schema.get("items")
            if isinstance(items, list):
                # How it was written before 2020-12.
                prefixes.append([layer.at("items", i) for i in range(len(cast("list[Any]", items)))])
                rests.append(layer.at("additionalItems") if "additionalItems" in layer.schema else None)
            else:
                prefixes.append([layer.at("prefixItems", i) for i in range(len(layer.schema.get("prefixItems", ())))])
                rests.append(layer.at("items") if items is not None else None)
        said = [rest for rest in rests if rest is not None]
        size = max(map(len, prefixes))
        array: Schema = {"type": "array"} | self._bounds(layers, "minItems", "maxItems")
        for i in range(size):
            # Of places beyond a layer's own, its `items` tells.
            here = [own[i] if i < len(own) else rest for own, rest in zip(prefixes, rests, strict=True)]
            if any(part is not None and part.schema is False for part in here):
                size = i
                said = [Part(False, None, layers[0].path)]
                break
            array.setdefault("prefixItems", []).append(self._all([part for part in here if part is not None]))
        if any(rest.schema is False for rest in said) or (size and not said and array.get("minItems", 0) <= size):
            array["items"] = False
            if not size:
                array.pop("items")
                array["maxItems"] = 0
            if array.get("minItems", 0) > size:
                self._refuse(layers[0], "minItems", "there are fewer items than that")
        else:
            array["items"] = self._all(said) or True
        if array.get("minItems", 0) > array.get("maxItems", math.inf):
            self._refuse(layers[0], "minItems", "it is above maxItems")
        return array

    def _object(self, layers: Sequence[Part]) -> Schema:
        patterns = [
            layer.at("patternProperties", p) for layer in layers for p in layer.schema.get("patternProperties", ())
        ]
        names = list(dict.fromkeys(name for layer in layers for name in layer.schema.get("properties", ())))
        required = list(dict.fromkeys(name for layer in layers for name in layer.schema.get("required", ())))
        rests = [layer.at("additionalProperties") for layer in layers if "additionalProperties" in layer.schema]
        rules = [layer.at("propertyNames") for layer in layers if "propertyNames" in layer.schema]
        closed = any(rest.schema is False for rest in rests) or (
            not rests and (bool(names) or any(layer.schema.get("unevaluatedProperties") is False for layer in layers))
        )
        made: Schema = {"type": "object"}
        if patterns or rules:
            word = "patternProperties" if patterns else "propertyNames"
            layer = next(layer for layer in layers if word in layer.schema)
            if names or required or len(patterns) + len(rules) > 1:
                self._refuse(
                    layer, word, "it stands alone only: no properties, required or second rule for names beside it"
                )
            if any(layer.schema.get("minProperties", 0) > 1 for layer in layers):
                self._refuse(layer, "minProperties", "names that are not known beforehand may come twice")
            if patterns:
                made["patternProperties"] = {self._pattern(layer, patterns[0].path[-1]): self._all(patterns)}
                made |= self._bounds(layers, "minProperties", "maxProperties")
                return made
            made["propertyNames"] = self._all([*rules, Part({"type": "string"}, rules[0].resolver, rules[0].path)])
            made["additionalProperties"] = self._all([r for r in rests if r.schema is not False]) or True
            if closed and rests:
                self._refuse(layer, word, "additionalProperties beside it is false")
            return made | self._bounds(layers, "minProperties", "maxProperties")
        properties: dict[str, Any] = {}
        for name in dict.fromkeys((*names, *required)):
            parts: list[Part] = []
            for layer in layers:
                if name in layer.schema.get("properties", ()):
                    parts.append(layer.at("properties", name))
                elif "additionalProperties" in layer.schema:
                    parts.append(layer.at("additionalProperties"))
            if any(part.schema is False for part in parts):
                if name in required:
                    self._refuse(layers[0], "required", "it names a property that is not allowed")
                if not closed:
                    self._refuse(layers[0], "properties", "one is false: set additionalProperties to false instead")
                continue
            properties[name] = self._all(parts) or True
        made["properties"] = properties
        if required:
            made["required"] = required
        bounds = self._bounds(layers, "minProperties", "maxProperties")
        if closed:
            made["additionalProperties"] = False
            if bounds.get("minProperties", 0) > len(properties):
                self._refuse(layers[0], "minProperties", "there are fewer properties than that")
        else:
            made["additionalProperties"] = self._all(rests) or True
            if bounds.get("minProperties", 0) > len(required) + 1:
                self._refuse(
                    layers[0], "minProperties", "names that are not known beforehand may come twice: name them"
                )
        if bounds and len(properties) * min(len(properties), max(bounds.values())) > COUNTED:
            self._refuse(layers[0], next(iter(bounds)), f"it counts among {len(properties)} properties: leave it out")
        if bounds.get("maxProperties", math.inf) < max(len(required), bounds.get("minProperties", 0)):
            self._refuse(layers[0], "maxProperties", "it is below what is required")
        return made | bounds

    # -- oneOf --------------------------------------------------------------------------------------------------------

    def _one(self, layer: Part, branches: Sequence[Part]) -> None:
        """Refuses branches of a oneOf that one value might satisfy two of."""
        for i, one in enumerate(branches):
            for other in branches[i + 1 :]:
                if not self._apart(one, other):
                    self._refuse(
                        layer,
                        "oneOf",
                        "a value might satisfy two of its branches: use anyOf, or a const to tell them apart",
                    )

    def _apart(self, one: Part, other: Part, depth: int = 3) -> bool:
        """For certain, no value satisfies both."""
        if one.schema is False or other.schema is False:
            return True
        mine, theirs = list(self._layers(one)), list(self._layers(other))
        for a in mine:
            for b in theirs:
                x, y = _values(a.schema), _values(b.schema)
                if x is not None and y is not None and not any(_same(v, w) for v in x for w in y):
                    return True
                kinds = [_types(s.schema) if v is None else {_type(w) for w in v} for s, v in ((a, x), (b, y))]
                if all(kinds) and not _common(kinds[0], kinds[1]):
                    return True
        if depth:
            for name in {n for a in mine for n in a.schema.get("required", ())} & {
                n for b in theirs for n in b.schema.get("required", ())
            }:
                objects = [any(_types(s.schema) == {"object"} for s in side) for side in (mine, theirs)]
                here = [
                    [s.at("properties", name) for s in side if name in s.schema.get("properties", ())]
                    for side in (mine, theirs)
                ]
                if all(objects) and any(self._apart(a, b, depth - 1) for a in here[0] for b in here[1]):
                    return True
        return False

    # -- patterns -----------------------------------------------------------------------------------------------------

    def _pattern(self, part: Part, pattern: str) -> str:
        """The pattern as the grammar reads it: of the whole text, unless one end alone is anchored."""
        parser: Any = importlib.import_module("re._parser")
        try:
            tree: Any = parser.parse(pattern)
        except (re.error, RecursionError, OverflowError):
            self._refuse(part, "pattern", "this kind of regular expression is not understood")
        if tree.state.flags & ~re.UNICODE:
            self._refuse(part, "pattern", "flags within a pattern are not supported")
        nodes: list[Any] = list(tree)
        branches = [nodes]
        if nodes and str(nodes[-1][0]) == "BRANCH":
            # What all of them begin with, an anchor perhaps, stands before them.
            branches = [[*nodes[:-1], *branch] for branch in nodes[-1][1][1]]
        ends: set[tuple[bool, bool]] = set()
        size = 0
        for branch in branches:
            first = bool(branch) and _anchor(branch[0]) == "AT_BEGINNING"
            last = bool(branch) and _anchor(branch[-1]) == "AT_END"
            ends.add((first, last))
            size += self._size(part, branch[first : len(branch) - last])
        if size > STATES:
            self._refuse(part, "pattern", f"it counts beyond {STATES} characters")
        if len(branches) == 1 and ends == {(True, False)}:
            return f"{pattern}.*$"
        if len(branches) == 1 and ends == {(False, True)}:
            return f"^.*{pattern}"
        return pattern

    def _size(self, part: Part, nodes: Any) -> int:
        """Characters it counts up to. Refuses what the grammar leaves out, and what no text in JSON can be."""
        size = 0
        for op, value in nodes:
            match str(op):
                case "LITERAL":
                    if value < 0x20 or chr(value) in '"\\':
                        self._refuse(part, "pattern", "control characters, quotes and backslashes cannot be asked for")
                    size += 1
                case "NOT_LITERAL" | "ANY" | "CATEGORY":
                    size += 1
                case "IN":
                    negated = str(value[0][0]) == "NEGATE"
                    usable = negated
                    for kind, what in value[negated:]:
                        low = what[0] if str(kind) == "RANGE" else what if str(kind) == "LITERAL" else 0x7F
                        if low < 0x20 and not negated:
                            self._refuse(part, "pattern", "control characters cannot be asked for")
                        usable = usable or str(kind) != "LITERAL" or chr(what) not in '"\\'
                    if not usable:
                        self._refuse(part, "pattern", "quotes and backslashes cannot be asked for")
                    size += 1
                case "MAX_REPEAT" | "MIN_REPEAT":
                    least, most, inner = value
                    bounded = int(most) < 2**31
                    if least > TIMES or (bounded and int(most) > TIMES):
                        self._refuse(part, "pattern", f"it repeats more than {TIMES} times: use minLength or maxLength")
                    size += self._size(part, inner) * max(1, int(most) if bounded else least)
                case "SUBPATTERN":
                    if value[1] or value[2]:
                        self._refuse(part, "pattern", "flags within a pattern are not supported")
                    size += self._size(part, value[3])
                case "BRANCH":
                    size += sum(self._size(part, branch) for branch in value[1])
                case "AT":
                    self._refuse(part, "pattern", "anchors are understood at its two ends only")
                case "ASSERT" | "ASSERT_NOT":
                    self._refuse(part, "pattern", "it looks ahead or behind, which the grammar cannot")
                case _:
                    self._refuse(part, "pattern", "this kind of regular expression is not understood")
        return size


def _anchor(node: Any) -> str:
    return str(node[1]) if str(node[0]) == "AT" else ""


BINDING = frozenset(
    {"$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "enum", "const", "type", "not", "if", "then"}
    | {"else", "dependentRequired", "dependentSchemas", "dependencies", "contains", "uniqueItems", "additionalItems"}
    | {"unevaluatedItems", *(word for words in WORDS.values() for word in words)}
)


def _binds(schema: Any) -> bool:
    """It says more than words to a reader."""
    return not _object(schema) or not BINDING.isdisjoint(schema)


def _object(value: Any) -> TypeGuard[Schema]:
    return isinstance(value, dict)


def _reference(schema: Any) -> bool:
    """It says nothing but what it refers to."""
    return _object(schema) and "$ref" in schema and not _binds({k: v for k, v in schema.items() if k != "$ref"})


def _subschemas(value: Any) -> Iterator[Schema]:
    """Every object in a value."""
    if _object(value):
        yield value
        for inner in value.values():
            yield from _subschemas(inner)
    elif isinstance(value, list):
        for inner in cast("list[Any]", value):
            yield from _subschemas(inner)


def _common(one: set[str], other: set[str]) -> set[str]:
    """Types that are in both; every integer is a number."""
    both = one & other
    if ("integer" in one and "number" in other) or ("number" in one and "integer" in other):
        both = both | {"integer"}
    return both


def _types(schema: Schema) -> set[str]:
    said: str | list[str] = schema.get("type", [])
    return {said} if isinstance(said, str) else set(said)


def _values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return schema.get("enum")


def _type(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case None:
            return "null"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "integer" if float(value).is_integer() else "number"


def _same(one: Any, other: Any) -> bool:
    """As JSON Schema compares: 1 is 1.0 and true is not 1."""
    with suppress(TypeError, ValueError):
        return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True) or (
            not isinstance(one, bool) and not isinstance(other, bool) and one == other
        )
    return False


_SAFE = re.compile(r"[$A-Za-z0-9_\-]{1,64}")


def _shown(path: Sequence[str]) -> str:
    """A place, as far as it can be repeated to its caller."""
    shown: list[str] = []
    for part in path:
        if not _SAFE.fullmatch(part):
            break
        shown.append(part)
    return ".".join(shown)
