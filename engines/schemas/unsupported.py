"""What the grammar would drop without a word, and so is refused by name, with what to write instead."""

from __future__ import annotations

from ponder.engines.schemas.parts import Part, refuse

REFUSED = {
    "not": "say what is allowed instead, by enum or anyOf",
    "dependentRequired": "write the cases as anyOf",
    "dependentSchemas": "write the cases as anyOf",
    "dependencies": "write the cases as anyOf",
    "contains": "leave it out",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
}


def refuse_unsupported(layer: Part) -> None:
    """Refuses what cannot be enforced."""
    schema = layer.schema
    for word, hint in REFUSED.items():
        if word in schema and not (
            word == "contains" and schema.get("minContains") == 0 and "maxContains" not in schema
        ):
            refuse(layer, word, hint)
    if "if" in schema and ("then" in schema or "else" in schema):
        refuse(layer, "if", "write the cases as anyOf")
    if schema.get("uniqueItems"):
        refuse(layer, "uniqueItems", "leave it out, or list the combinations in an enum")
    for word in ("unevaluatedProperties", "unevaluatedItems"):
        if not isinstance(schema.get(word, True), bool):
            refuse(layer, word, "use additionalProperties, or items")
    for word in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(schema.get(word), bool):
            refuse(layer, word, "give the bound itself")
    if schema.get("multipleOf", 1) != 1:
        refuse(layer, "multipleOf", "list the values in an enum, or leave it out")
