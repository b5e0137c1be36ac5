"""Handles of objects, and the classes of their proxies on the other side."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import sys
import types
import weakref

from ponder.verifiers.rpc.operators import SPECIAL
from ponder.verifiers.rpc.plain import (
    KEPT,
    KEPT_WHOLE,
    KINDS,
    NAMED,
    QUESTIONS,
    WHOLE,
    base_of,
    learn_counter,
    loaded,
)
from ponder.verifiers.rpc.proxies import (
    CLASS,
    Doc,
    Peer,
    Remote,
    RemoteClass,
    Valued,
    awaited_once,
    here,
    special_method,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

UNREAL = {"asyncio", "bdb", "concurrent", "doctest", "unittest"}
"""Packages whose exceptions control a test runner. One that a program raises is not rebuilt as such."""


class Classes(Peer):
    """Objects of this side that have a handle, and classes of either side that were described to the other."""

    def __init__(self, reading: IO[bytes], writing: IO[bytes]) -> None:
        super().__init__(reading, writing)
        self.exported: dict[int, Any] = {}
        self.exports: dict[int, int] = {}
        self.next_export = 1
        self.described: set[int] = set()
        self.descriptions: list[Any] = []
        self.mirrors: dict[int, Any] = {}
        self.remotes: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def decode(self, value: Any) -> Any:
        """The value that a piece of a message stands for."""
        raise NotImplementedError

    def by_name(self, value: Any) -> tuple[str, str] | None:
        """(module, name) of an object of the standard library, where the other side uses its own; else None."""
        if "collections" in sys.modules:
            learn_counter()
        key = (getattr(value, "__module__", None), getattr(value, "__qualname__", None))
        return key if NAMED.get(key) is value else None  # pyright: ignore[reportArgumentType, reportReturnType]

    def named(self, module: str, name: str) -> Any:
        if module == "collections":
            learn_counter()
        return NAMED[module, name]

    def export(self, value: Any) -> int:
        if (number := self.exports.get(id(value))) is None:
            number = self.next_export
            self.next_export += 1
            self.exported[number], self.exports[id(value)] = value, number
        return number

    def class_of(self, kind: type[Any]) -> int:
        """The handle of a class, which is described to the other side with the next message."""
        number = self.export(kind)
        if number in self.described:
            return number
        self.described.add(number)
        bases = [
            ["n", base.__module__, base.__qualname__]
            if NAMED.get((base.__module__, base.__qualname__)) is base
            else ["k", self.class_of(base)]
            for base in kind.__bases__
            if base is not object
        ]
        value_base = base_of(kind)
        special, overridden = list[str](), list[str]()
        for name in SPECIAL:
            definer = next((c for c in kind.__mro__ if name in vars(c)), object)
            if NAMED.get((definer.__module__, definer.__qualname__)) is not definer:
                special.append(name)
        if value_base in KINDS:
            for owner in kind.__mro__[: kind.__mro__.index(value_base)]:
                overridden += [n for n in vars(owner) if not n.startswith("__") and hasattr(value_base, n)]
        doc = kind.__doc__ if type(kind.__doc__) is str else None
        self.descriptions.append(
            [number, kind.__name__, kind.__qualname__, kind.__module__, bases, special, overridden, doc]
        )
        return number

    def mirror(
        self,
        number: int,
        name: str,
        qualname: str,
        module: str,
        bases: list[Any],
        special: list[str],
        overridden: list[str],
        doc: str | None,
    ) -> None:
        """Makes the class of the proxies for objects of a class of the other side."""
        known = loaded(module, qualname)
        if isinstance(known, type) and issubclass(known, BaseException) and module.split(".")[0] not in UNREAL:
            self.mirrors[number] = known
            return
        if any(base[0] not in ("n", "k") for base in bases) or type(doc) not in (str, type(None)):
            raise ValueError("no class")
        above: list[type[Any]] = [self.decode(base) for base in bases]
        space: dict[str, Any] = {"__module__": str(module), "__qualname__": str(qualname), "__doc__": Doc(doc)}
        value = [c for c in above if not issubclass(c, Remote)]
        if value:
            above = [*value] if any(issubclass(c, Valued) for c in value) else [Valued, *value]
            base = base_of(value[0])
            special = [s for s in special if s not in KEPT and not (base in WHOLE and s in KEPT_WHOLE)]
            if base in KINDS:
                for method in overridden:
                    if method.startswith("_") or method in QUESTIONS or not hasattr(base, method):
                        continue
                    space[method] = property(lambda self, method=method: here().ask("get", self, method))
        else:
            above = above or [Remote]
            space |= {"__slots__": (), "__hash__": Remote.__hash__}
            if module == "builtins" and name in ("generator", "coroutine"):
                real = types.GeneratorType if name == "generator" else types.CoroutineType
                space["__class__"] = property(lambda _: real)
            if "__await__" in special:
                space |= {"send": awaited_once, "throw": lambda *_: None, "close": lambda _: None}
        space |= {s: special_method(s) for s in special if s in SPECIAL and s != "__hash__"}
        try:
            made = type.__new__(RemoteClass, str(name), tuple(above), space)
        except TypeError:  # an order of bases that does not go together here
            made = type.__new__(RemoteClass, str(name), (above[0],), space)
        type.__setattr__(made, CLASS, int(number))
        self.mirrors[number] = made
