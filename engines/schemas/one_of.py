"""`oneOf`: the grammar writes one branch and compares with no other, so no value may satisfy two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ponder.engines.schemas.parts import Part, common_types, refuse, same, type_of, types_of, values_of


def refuse_overlap(layer: Part, branches: Sequence[Part], layers: Callable[[Part], Iterable[Part]]) -> None:
    """Refuses branches of a oneOf that one value might satisfy two of."""
    for i, one in enumerate(branches):
        for other in branches[i + 1 :]:
            if not disjoint(one, other, layers):
                refuse(
                    layer,
                    "oneOf",
                    "a value might satisfy two of its branches: use anyOf, or a const to tell them apart",
                )


def disjoint(one: Part, other: Part, layers: Callable[[Part], Iterable[Part]], depth: int = 3) -> bool:
    """No value satisfies both, for certain. `layers` gives all that is said of a value at a part."""
    if one.schema is False or other.schema is False:
        return True
    mine, theirs = list(layers(one)), list(layers(other))
    for a in mine:
        for b in theirs:
            x, y = values_of(a.schema), values_of(b.schema)
            if x is not None and y is not None and not any(same(v, w) for v in x for w in y):
                return True
            kinds = [types_of(s.schema) if v is None else {type_of(w) for w in v} for s, v in ((a, x), (b, y))]
            if all(kinds) and not common_types(kinds[0], kinds[1]):
                return True
    if depth:
        for name in {n for a in mine for n in a.schema.get("required", ())} & {
            n for b in theirs for n in b.schema.get("required", ())
        }:
            objects = [any(types_of(s.schema) == {"object"} for s in side) for side in (mine, theirs)]
            here = [
                [s.at("properties", name) for s in side if name in s.schema.get("properties", ())]
                for side in (mine, theirs)
            ]
            if all(objects) and any(disjoint(a, b, layers, depth - 1) for a in here[0] for b in here[1]):
                return True
    return False
