"""Which types are sent by value, which containers are shared, and how to read and set their contents."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import builtins
import operator
import sys

from ponder.verifiers.rpc.operators import COMPARISONS, NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import OrderedDict, defaultdict, deque
    from collections.abc import Callable, Iterable
    from typing import Any
else:
    from _collections import OrderedDict, defaultdict, deque

SHARED: dict[str, type[Any]] = {
    "list": list,
    "dict": dict,
    "set": set,
    "bytearray": bytearray,
    "deque": deque,
    "OrderedDict": OrderedDict,
    "defaultdict": defaultdict,
}
KINDS = {kind: name for name, kind in SHARED.items()}
WHOLE: tuple[type[Any], ...] = (int, float, complex, str, bytes, tuple, frozenset)
SMALL = 2**63
"""Integers from here on are written in hexadecimal: that takes linear time, decimal digits take quadratic time."""
DIRECT = {type(None), bool, str, float}
"""Types that JSON has, with NaN and the infinities."""
PLAIN = {*DIRECT, *WHOLE, *SHARED.values()}

BUILT: dict[tuple[str, str], Callable[[Any], Iterable[Any]]] = {
    ("builtins", "complex"): lambda v: (v.real, v.imag),
    ("builtins", "range"): lambda v: (v.start, v.stop, v.step),
    ("builtins", "slice"): lambda v: (v.start, v.stop, v.step),
    ("fractions", "Fraction"): lambda v: (v.numerator, v.denominator),
    ("decimal", "Decimal"): lambda v: (str(v),),
    ("datetime", "date"): lambda v: (v.year, v.month, v.day),
    ("datetime", "time"): lambda v: (v.hour, v.minute, v.second, v.microsecond, v.tzinfo),
    ("datetime", "datetime"): lambda v: (
        *(v.year, v.month, v.day, v.hour, v.minute, v.second),
        *(v.microsecond, v.tzinfo),
    ),
    ("datetime", "timedelta"): lambda v: (v.days, v.seconds, v.microseconds),
    ("datetime", "timezone"): lambda v: (v.utcoffset(None),),
    ("uuid", "UUID"): lambda v: (str(v),),
    ("pathlib", "PosixPath"): lambda v: (str(v),),
}
"""Values of the standard library that are sent by value: the arguments that build them again."""
VIEWS = {
    "dict_keys": (type({}.keys()), lambda items: dict.fromkeys(items).keys()),
    "dict_items": (type({}.items()), lambda items: dict(items).items()),
}

NAMED: dict[tuple[str, str], type[Any]] = {
    (kind.__module__, kind.__qualname__): kind
    for kind in (
        *(v for v in vars(builtins).values() if isinstance(v, type) and issubclass(v, BaseException)),
        *(object, type, bool, memoryview, type(None), range, slice, *PLAIN),
    )
}
"""Classes of which the name is sent."""


def learn_counter() -> None:
    """Adds `Counter` to the shared containers. Only once somebody has imported `collections` can there be one."""
    if "Counter" not in SHARED:
        from collections import Counter

        SHARED["Counter"], KINDS[Counter], NAMED["collections", "Counter"] = Counter, "Counter", Counter
        PLAIN.add(Counter)


def loaded(module: Any, name: Any) -> Any:
    """The object of this name in an imported module of the standard library; None where there is none."""
    if type(module) is not str or type(name) is not str or module == "__main__":
        return None
    if module.split(".")[0] not in sys.stdlib_module_names:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def base_of(kind: type[Any]) -> type[Any] | None:
    """The builtin value type or container that a class derives from; None where it derives from none."""
    if "collections" in sys.modules:
        learn_counter()
    return next((c for c in kind.__mro__ if c in KINDS or c in WHOLE), None)


def value_of(base: type[Any], value: Any) -> Any:
    """The plain value of an object of a class derived from `base`, whatever methods the class overrides."""
    if base in (int, float, complex):
        return base.__pos__(value)
    if base is frozenset:
        return frozenset(frozenset.__iter__(value))
    return str.__str__(value) if base is str else base.__getitem__(value, slice(None))


def contents(kind: str, shared: Any) -> Any:
    """A copy of the contents of a container, for `same`."""
    if kind == "list":
        return list.__getitem__(shared, slice(None))
    if kind == "bytearray":
        return bytes(shared)
    if kind in ("set", "deque"):
        return list(SHARED[kind].__iter__(shared))
    return [*SHARED[kind].keys(shared)], [*SHARED[kind].values(shared)]


def same(one: Any, other: Any) -> bool:
    """Whether two `contents` hold the same objects (not equal ones), in the same order."""
    if type(one) is bytes:
        return one == other
    if type(one) is tuple:
        return same(one[0], other[0]) and same(one[1], other[1])
    return len(one) == len(other) and all(map(operator.is_, one, other))


def fill(kind: str, shared: Any, inside: Any) -> None:
    """Replaces the contents of a container by decoded ones."""
    if kind in ("list", "bytearray"):
        SHARED[kind].__setitem__(shared, slice(None), inside)
        return
    SHARED[kind].clear(shared)
    if kind == "set":
        set.update(shared, inside)
    elif kind == "deque":
        deque.extend(shared, inside)
    else:
        for key, value in zip(*inside, strict=True):
            SHARED[kind].__setitem__(shared, key, value)


KEPT = COMPARISONS | {"__contains__", "__hash__"}
KEPT_WHOLE = NUMBERS | {"__iter__", "__getitem__", "__format__", "__reversed__"}
QUESTIONS = ("issubset", "issuperset", "isdisjoint")
"""Methods that a proxy of a value takes from the builtin type, and does not send to the owner."""
