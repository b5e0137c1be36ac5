"""Proxies for objects of the other side: each operation on one is sent to the owner of the object.

The side of the test is `strict`: it does not ask a program anything that would let the program decide the verdict (see
`Remote`).
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import types

from ponder.verifiers.rpc.frames import Broken, Frames
from ponder.verifiers.rpc.operators import ARITHMETIC, COMPARISONS, DIFFERENCES, NUMBERS
from ponder.verifiers.rpc.plain import PLAIN, base_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, Any

HANDLE, HASH, TAINT, CLASS = "__rpc_handle__", "__rpc_hash__", "__rpc_taint__", "__rpc_class__"


class Peer(Frames):
    """The other side, as far as proxies need it."""

    here: Peer | None = None
    """The one connection of this process."""

    def __init__(self, reading: IO[bytes], writing: IO[bytes]) -> None:
        super().__init__(reading, writing)
        self.gone: set[int] = set()
        """Handles of proxies that nothing refers to any more."""
        Peer.here = self

    def ask(self, op: str, *args: Any, **named: Any) -> Any:
        """The result of a request to the other side. Raises what that raises."""
        raise NotImplementedError

    def signature(self, proxy: Any, name: str) -> Any:
        """The signature of a function of the other side (`name` `__code__`: its code, as far as a signature goes)."""
        import inspect

        try:
            told = self.ask("signature", proxy)
        except (TypeError, ValueError):
            raise AttributeError(name) from None
        if name == "__code__":
            names = [n for n, kind, _ in told if kind < 2]
            return types.SimpleNamespace(co_argcount=len(names), co_varnames=tuple(names))
        kinds = {kind.value: kind for kind in (p.kind for p in inspect.signature(_all_kinds).parameters.values())}
        empty = inspect.Parameter.empty
        return inspect.Signature(
            [inspect.Parameter(n, kinds[kind], default=None if optional else empty) for n, kind, optional in told]
        )


def _all_kinds(first: Any, /, second: Any, *third: Any, fourth: Any, **fifth: Any) -> None: ...


def here() -> Peer:
    """The connection of this process to the other side."""
    if Peer.here is None:
        raise Broken
    return Peer.here


class Foreign:
    """A proxy of any kind."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name in ("__signature__", "__code__"):
            return here().signature(self, name)
        if name in (HANDLE, HASH, TAINT):
            raise AttributeError(name)
        return here().ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("__traceback__", "__cause__", "__context__", "__suppress_context__"):
            object.__setattr__(self, name, value)
        else:
            here().ask("set", self, name, value)

    def __delattr__(self, name: str) -> None:
        here().ask("delete", self, name)


class Remote(Foreign):
    """A proxy for an object that is no plain value.

    On the side of the test, the object is never asked to compare itself with a plain value: it equals none, and is
    neither below nor above one. Arithmetic of an object and a plain value must give an object, and no number may be
    taken of that. Otherwise a program could give whatever number a test is about to compare it with.
    """

    __slots__ = (HANDLE, HASH, TAINT, "__weakref__")

    def __del__(self) -> None:
        if (connection := Peer.here) is not None:
            connection.gone.add(handle(self))

    def __eq__(self, other: object) -> Any:
        return _unlike(other) if not isinstance(other, Foreign) else handle(self) == handle(other)

    def __hash__(self) -> int:
        known: int | None = object.__getattribute__(self, HASH)
        if known is None:
            raise TypeError(f"unhashable type: '{type(self).__name__}'")
        return known

    def __repr__(self) -> str:
        return here().ask("op", "__repr__", self)

    def __str__(self) -> str:
        return here().ask("op", "__str__", self)

    def __format__(self, spec: str) -> str:
        return here().ask("op", "__format__", self, spec)

    def __dir__(self) -> Any:
        return here().ask("op", "__dir__", self)

    def __copy__(self) -> Any:
        return here().ask("op", "__copy__", self)

    def __deepcopy__(self, _: Any) -> Any:
        return here().ask("op", "__deepcopy__", self)

    def __reduce_ex__(self, _: Any) -> Any:
        raise TypeError(f"cannot pickle '{type(self).__name__}' object")

    @property
    def __dict__(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return here().ask("get", self, "__dict__")


class Valued(Foreign):
    """A proxy for an object whose class derives from a builtin value type, or for an exception. It is an instance of
    that type, and compares and hashes as the builtin type does."""

    __slots__ = ()


class RemoteClass(type):
    """The metaclass of proxies."""

    def __new__(cls, name: str, bases: tuple[type[Any], ...], space: dict[str, Any], **named: Any) -> RemoteClass:
        """A class that a test derives from one of the program's: made on the side of the program, with methods that
        stay on the side of the test."""
        if not here().strict:
            raise TypeError(f"{name}: a class cannot be derived from one of the test's")
        cell = space.pop("__classcell__", None)
        parts: list[Any] = []
        for key, value in space.items():
            if isinstance(value, property):
                parts.append((key, "property", value.fget, value.fset, value.fdel))
            elif isinstance(value, staticmethod | classmethod):
                parts.append((key, type(value).__name__, value.__func__))
            elif key != "__module__":
                parts.append((key, "", value))
        made = here().ask("derive", name, bases, parts, **named)
        if cell is not None:
            cell.cell_contents = made
        return made

    def __init__(cls, *_: Any, **__: Any) -> None: ...

    def __call__(cls, *args: Any, **named: Any) -> Any:
        return here().ask("call", cls, *args, **named)

    def __getattr__(cls, name: str) -> Any:
        return here().ask("get", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        here().ask("set", cls, name, value)

    def __getitem__(cls, key: Any) -> Any:
        return here().ask("op", "__getitem__", cls, key)

    def __iter__(cls) -> Iterator[Any]:
        return here().ask("op", "__iter__", cls)

    def __len__(cls) -> int:
        return here().ask("op", "__len__", cls)

    def __contains__(cls, key: Any) -> bool:
        return any(key is item or key == item for item in cls)

    def __bool__(cls) -> bool:
        return True


class Method:
    """A bound method of an object of the other side."""

    __slots__ = ("__name__", "__self__")

    def __init__(self, owner: Any, name: str) -> None:
        self.__self__, self.__name__ = owner, name

    def __call__(self, *args: Any, **named: Any) -> Any:
        return here().ask("method", self.__self__, self.__name__, *args, **named)

    def __getattr__(self, name: str) -> Any:
        if name == "__signature__":
            return here().signature(self, name)
        raise AttributeError(name)


class Doc:
    """`__doc__`: of the class a text that is known, of an object what its owner says."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def __get__(self, owner: Any, kind: Any) -> Any:
        return self.text if owner is None else here().ask("get", owner, "__doc__")


class Super:
    """`super()` in a method that a test has written for a class derived from the program's."""

    __slots__ = ("of",)

    def __init__(self, kind: Any, owner: Any) -> None:
        self.of = kind, owner

    def __getattribute__(self, name: str) -> Any:
        return here().ask("super", *object.__getattribute__(self, "of"), name)


def handle(proxy: Any) -> int:
    return object.__getattribute__(proxy, HANDLE)


def _unlike(other: Any) -> Any:
    return False if type(other) in PLAIN else NotImplemented


def _tainted(*values: Any) -> bool:
    return any(isinstance(v, Remote) and getattr(v, TAINT, False) for v in values)


def special_method(name: str) -> Callable[..., Any]:
    """The special method of a proxy."""
    if name == "__call__":
        return lambda *args, **named: here().ask("call", *args, **named)
    if name == "__get__":
        return lambda self, owner, _=None: self if owner is None else types.MethodType(self, owner)
    if name == "__await__":
        return _awaited
    if name == "__contains__":
        return _contains
    if name in COMPARISONS:
        return _comparison(name)
    if name.strip("_") in ARITHMETIC:
        return lambda self, other, *more: _arithmetic(name, self, other, (self, other, *more))
    if name[3:].strip("_") in ARITHMETIC and name[2] == "r":
        plain = f"__{name[3:]}"
        return lambda self, other, *more: _arithmetic(plain, self, other, (other, self, *more), reflected=True)
    if name[3:].strip("_") in ARITHMETIC and name[2] == "i":
        return lambda self, other: _arithmetic(f"__{name[3:]}", self, other, (self, other), asked=name)

    def act(self: Any, *args: Any) -> Any:
        answer = here().ask("op", name, self, *args)
        if name in NUMBERS and _tainted(self):
            return _kept(name, answer)
        return answer

    return act


def _comparison(name: str) -> Callable[[Any, Any], Any]:
    def act(self: Any, other: Any) -> Any:
        if here().strict and not isinstance(other, Foreign):
            if name == "__eq__":
                return _unlike(other)
            return True if name == "__ne__" and type(other) in PLAIN else NotImplemented
        return here().ask("op", name, self, other)

    return act


def _arithmetic(
    name: str, self: Any, other: Any, operands: tuple[Any, ...], *, reflected: bool = False, asked: str = ""
) -> Any:
    mixed = here().strict and not isinstance(other, Foreign)
    base = base_of(type(self)) if isinstance(self, Valued) else None
    if mixed and base is not None and (base in (int, float, complex) or name in DIFFERENCES):
        own = getattr(base, f"__r{name[2:]}" if reflected else name, None)
        return NotImplemented if own is None else own(self, other)
    answer = here().ask("op", asked or name, *operands)
    return _kept(name, answer) if (mixed and base is None) or _tainted(self, other) else answer


def _kept(name: str, answer: Any) -> Any:
    """The result of arithmetic of an object and a plain value, which must be an object itself; see `Remote`."""
    if not isinstance(answer, Remote):
        raise TypeError(f"{name} of an object and a plain value tells nothing: compare what the object holds")
    object.__setattr__(answer, TAINT, True)
    return answer


def _contains(self: Any, item: Any) -> bool:
    """Whether an item is in an object of the other side. Where the object can be iterated, the items are compared here:
    a program that is asked could just say yes."""
    if here().strict and any("__iter__" in vars(kind) for kind in type(self).__mro__):
        return any(item is other or item == other for other in self)
    return here().ask("op", "__contains__", self, item)


def _awaited(self: Any) -> Any:
    return here().ask("op", "__await__", self)
    yield


def awaited_once(self: Any, _: Any) -> Any:
    raise StopIteration(here().ask("op", "__await__", self))
