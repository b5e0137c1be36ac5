"""What crosses between a test and the program it tests, which run in sandboxes of their own: values, never code.

Runs inside both sandboxes, at the two ends of a pair of pipes. Only one side runs at a time: it asks (call this, get
that attribute, add these), and while it waits it serves what the other side asks back. Messages are JSON behind their
length. Nothing is unpickled, imported or looked up by the wish of a program.

- Numbers, texts, tuples and the like cross by value and are rebuilt as the builtin types.
- Lists, dicts, sets and their kin are shared: each side has its own, and before every message those that changed are
  sent along, so that a change in place is seen on the other side as if there were one.
- Everything else stays where it is and crosses as a handle, a number. The other side gets a stand-in whose class copies
  the name, the bases and the operators of the real one, and which asks the owner for all that is done to it.
- Files of the scratch folder are shared as lists are.
- Exceptions are rebuilt, of the builtin class or of a stand-in for the class.

The side of the test is `strict`: what would let a program answer for a test is not asked of it (see `Remote`).
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import builtins
import math
import operator
import os
import sys
import types
import weakref

# A test takes as long as two interpreters take to start, and `json`, `collections` and `typing` would be most of that
# (they import `re`): what is needed of them is in C.
from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import OrderedDict, defaultdict, deque
    from collections.abc import Callable, Iterable, Iterator
    from typing import IO, Any
else:
    from _collections import OrderedDict, defaultdict, deque

MESSAGE = 32 * 2**20
"""Bytes of one message."""
TOTAL = 128 * 2**20
"""Bytes that a program may send to a test."""
MESSAGES = 1_000_000

SENDS = ("send", "throw", "next")
"""Methods that may end an iteration."""
UNREAL = {"asyncio", "bdb", "concurrent", "doctest", "unittest"}
"""Packages whose exceptions steer who runs a test: a program's are not taken for them."""

HANDLE, HASH, TAINT, CLASS = "__border_handle__", "__border_hash__", "__border_taint__", "__border_class__"


class _Json:
    """How `json` reads, for its scanner."""

    strict, object_hook, object_pairs_hook = True, None, None
    parse_int, parse_float, parse_constant = int, float, float
    memo: dict[str, str] = {}  # noqa: RUF012


_from_json = make_scanner(_Json)  # pyright: ignore[reportArgumentType]
_json_of = make_encoder(None, repr, encode_basestring_ascii, None, ":", ",", False, False, True)


class Broken(BaseException):
    """The other side is gone, or what it sent is no message. Nothing more can be asked."""


# -- what is done to objects ------------------------------------------------------------------------------------------

ARITHMETIC = (
    *("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift"),
    *("and", "xor", "or"),
)
DIFFERENCES = {f"__{name}__" for name in ("sub", "truediv", "floordiv", "divmod", "and", "xor", "or")}
"""What tells how far two values are apart, or takes the one for the other: asked of an object together with a plain
value, the answer "not at all" would be right without knowing the value."""
COMPARISONS = {f"__{name}__" for name in ("eq", "ne", "lt", "le", "gt", "ge")}


def _copied(how: str) -> Callable[[Any], Any]:
    def act(value: Any) -> Any:
        import copy

        return getattr(copy, how)(value)

    return act


def _finished(coroutine: Any) -> Any:
    import asyncio

    async def all_of_it() -> Any:
        return await coroutine

    return asyncio.run(all_of_it())


OPERATORS: dict[str, Callable[..., Any]] = {
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__reversed__": reversed,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__delitem__": operator.delitem,
    "__contains__": operator.contains,
    "__abs__": abs,
    "__neg__": operator.neg,
    "__pos__": operator.pos,
    "__invert__": operator.invert,
    "__round__": round,
    "__trunc__": math.trunc,
    "__floor__": math.floor,
    "__ceil__": math.ceil,
    "__int__": int,
    "__float__": float,
    "__complex__": complex,
    "__index__": operator.index,
    "__bool__": bool,
    "__bytes__": bytes,
    "__str__": str,
    "__repr__": repr,
    "__format__": format,
    "__dir__": dir,
    "__fspath__": os.fspath,
    "__enter__": lambda o: type(o).__enter__(o),
    "__exit__": lambda o, *raised: type(o).__exit__(o, *raised),
    "__copy__": _copied("copy"),
    "__deepcopy__": _copied("deepcopy"),
    "__await__": _finished,
    **{name: getattr(operator, name) for name in COMPARISONS},
    **{f"__{name}__": getattr(operator, f"__{name}__") for name in ARITHMETIC if name != "divmod"},
    **{f"__i{name}__": getattr(operator, f"__i{name}__") for name in ARITHMETIC if name != "divmod"},
    "__divmod__": divmod,
    "__pow__": pow,
}
"""By the name of the special method: what the owner of an object does."""

SPECIAL = {*OPERATORS, *(f"__r{name}__" for name in ARITHMETIC), "__call__", "__hash__", "__get__"}
"""Special methods that a stand-in has where the real class has them."""
NUMBERS = {
    f"__{name}__"
    for name in (
        *("abs", "round", "trunc", "floor", "ceil", "int", "float", "complex", "index", "bool", "len"),
        *("neg", "pos", "invert"),
    )
}
"""What takes a number of an object, or turns it."""

# -- plain values -----------------------------------------------------------------------------------------------------

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
"""Integers from here on are written in hexadecimal, which takes no longer than they are long."""
DIRECT = {type(None), bool, str, float}
"""As in JSON (with NaN and the infinities)."""
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
"""Values of the standard library, by what they are built from."""
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
"""Classes that cross by their name."""


def learn_counter() -> None:
    """Once somebody has imported `collections`, there may be a `Counter`."""
    if "Counter" not in SHARED:
        from collections import Counter

        SHARED["Counter"], KINDS[Counter], NAMED["collections", "Counter"] = Counter, "Counter", Counter
        PLAIN.add(Counter)


def loaded(module: Any, name: Any) -> Any:
    """What an already imported module of the standard library calls so; None when there is no such thing."""
    if type(module) is not str or type(name) is not str or module == "__main__":
        return None
    if module.split(".")[0] not in sys.stdlib_module_names:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def base_of(kind: type[Any]) -> type[Any] | None:
    """The builtin type of values that a class derives from."""
    if "collections" in sys.modules:
        learn_counter()
    return next((c for c in kind.__mro__ if c in KINDS or c in WHOLE), None)


def value_of(base: type[Any], value: Any) -> Any:
    """The plain value in an object whose class derives from its type."""
    if base in (int, float, complex):
        return base.__pos__(value)
    if base is frozenset:
        return frozenset(frozenset.__iter__(value))
    return str.__str__(value) if base is str else base.__getitem__(value, slice(None))


def contents(kind: str, shared: Any) -> Any:
    """A copy of what is inside, in a form that compares by identity."""
    if kind == "list":
        return list.__getitem__(shared, slice(None))
    if kind == "bytearray":
        return bytes(shared)
    if kind in ("set", "deque"):
        return list(SHARED[kind].__iter__(shared))
    return [*SHARED[kind].keys(shared)], [*SHARED[kind].values(shared)]


def same(one: Any, other: Any) -> bool:
    """Whether two `contents` hold the very same things."""
    if type(one) is bytes:
        return one == other
    if type(one) is tuple:
        return same(one[0], other[0]) and same(one[1], other[1])
    return len(one) == len(other) and all(map(operator.is_, one, other))


def fill(kind: str, shared: Any, inside: Any) -> None:
    """Puts decoded contents in place of what was inside."""
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
"""What the stand-in for a value does as the builtin type does it."""


class Shared:
    """A container that both sides have, and what was inside when they last agreed."""

    __slots__ = ("agreed", "kind", "object")

    def __init__(self, shared: Any, kind: str) -> None:
        self.object, self.kind, self.agreed = shared, kind, None


# -- stand-ins --------------------------------------------------------------------------------------------------------


class Foreign:
    """Anything that stands for an object of the other side."""

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
    """Stands for an object that is no plain value.

    On the side of the test such an object is never asked to compare itself with a plain value: it equals none, and has
    no order among them. With a plain value it may only be reckoned to another object, of which no number is taken.
    """

    __slots__ = (HANDLE, HASH, TAINT, "__weakref__")

    def __del__(self) -> None:
        if (border := Border.here) is not None:
            border.gone.add(handle(self))

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
    """Stands for an object whose class derives from a builtin type of values, or for an exception. It is of that type,
    and compares, hashes and is searched as such a value."""

    __slots__ = ()


class RemoteClass(type):
    """The class of a stand-in's class."""

    def __new__(cls, name: str, bases: tuple[type[Any], ...], space: dict[str, Any], **named: Any) -> RemoteClass:
        """A class that a test derives from one of the program's is made over there, of functions that are here."""
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
    """A method of an object of the other side."""

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
    """The text of a class; that of an object may be another."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def __get__(self, owner: Any, kind: Any) -> Any:
        return self.text if owner is None else here().ask("get", owner, "__doc__")


class Super:
    """What `super()` gives in a method that a test has written for a class of the program."""

    __slots__ = ("of",)

    def __init__(self, kind: Any, owner: Any) -> None:
        self.of = kind, owner

    def __getattribute__(self, name: str) -> Any:
        return here().ask("super", *object.__getattribute__(self, "of"), name)


def handle(stand_in: Any) -> int:
    return object.__getattribute__(stand_in, HANDLE)


def here() -> Border:
    """This process's border."""
    if Border.here is None:
        raise Broken
    return Border.here


def _unlike(other: Any) -> Any:
    return False if type(other) in PLAIN else NotImplemented


def _tainted(*values: Any) -> bool:
    return any(isinstance(v, Remote) and getattr(v, TAINT, False) for v in values)


def _special(name: str) -> Callable[..., Any]:
    """The special method of a stand-in."""
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
    """Only an object may come of an object and a plain value, and of what is reckoned with that: a number could be the
    one that the test is about to compare it with."""
    if not isinstance(answer, Remote):
        raise TypeError(f"{name} of an object and a plain value tells nothing: compare what the object holds")
    object.__setattr__(answer, TAINT, True)
    return answer


def _contains(self: Any, item: Any) -> bool:
    """By going through all items where that can be done: who is asked for one might just agree."""
    if here().strict and any("__iter__" in vars(kind) for kind in type(self).__mro__):
        return any(item is other or item == other for other in self)
    return here().ask("op", "__contains__", self, item)


def _awaited(self: Any) -> Any:
    return here().ask("op", "__await__", self)
    yield


def _sent(self: Any, _: Any) -> Any:
    raise StopIteration(here().ask("op", "__await__", self))


# -- scratch folders --------------------------------------------------------------------------------------------------

SCRATCH = "/tmp"  # noqa: S108 - the sandbox's own
SMALL_FILE = 2**16


class Scratch:
    """The scratch folder of this side, kept equal to the other side's: what a test writes a program may read."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def now(self) -> dict[str, Any]:
        """By its path: None for a folder, else what tells one state of a file from the next."""
        found: dict[str, Any] = {}
        folders = [SCRATCH]
        for folder in folders:
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = entry.path.removeprefix(f"{SCRATCH}/")
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                        found[path] = None
                    elif entry.is_file(follow_symlinks=False):
                        found[path] = self.state(entry.path)
        return found

    def state(self, path: str) -> Any:
        status = os.stat(path)
        if status.st_size > SMALL_FILE:
            return status.st_ino, status.st_size, status.st_mtime_ns
        with open(path, "rb") as file:  # two changes within a tick of the clock have one time
            return file.read()

    def changes(self) -> list[Any]:
        """What is new, changed or gone since both sides were equal: [path, "dir", "file" or "gone", content]."""
        try:
            now = self.now()
        except OSError:  # a folder that may not be read is not shared
            return []
        changes: list[Any] = [[path, "gone", ""] for path in self.known.keys() - now.keys()]
        for path, state in now.items():
            if path in self.known and self.known[path] == state:
                continue
            if state is None:
                changes.append([path, "dir", ""])
                continue
            with open(f"{SCRATCH}/{path}", "rb") as file:
                changes.append([path, "file", file.read().hex()])
        self.known = now
        return changes

    def take(self, changes: list[Any]) -> None:
        """Makes the other side's changes here."""
        for path, what, content in changes:
            if any(part in ("", ".", "..") for part in path.split("/")):
                raise ValueError("not in the scratch folder")
            place = f"{SCRATCH}/{path}"
            if os.path.realpath(os.path.dirname(place)) != os.path.dirname(place) or os.path.islink(place):
                raise ValueError("not in the scratch folder")
            if what == "dir":
                os.makedirs(place, exist_ok=True)
            elif what == "file":
                with open(place, "wb") as file:
                    file.write(bytes.fromhex(content))
            elif os.path.isdir(place):
                import shutil

                shutil.rmtree(place, ignore_errors=True)
            elif os.path.exists(place):
                os.unlink(place)
        if changes:
            self.known = self.now()


# -- the border -------------------------------------------------------------------------------------------------------


class Border:
    """This side's end of the pipes: what it shares, what it has handed out, what stands in for the other side's."""

    here: Border | None = None
    """A process has one."""
    strict = False

    def __init__(self, reading: IO[bytes], writing: IO[bytes], first: int) -> None:
        self.reading, self.writing = reading, writing
        self.broken = False
        self.read, self.messages = 0, 0
        self.shared: dict[int, Shared] = {}
        self.shares: dict[int, int] = {}
        self.next_shared = first
        self.fresh: list[int] = []
        self.dropped: list[int] = []
        self.exported: dict[int, Any] = {}
        self.exports: dict[int, int] = {}
        self.next_export = 1
        self.described: set[int] = set()
        self.descriptions: list[Any] = []
        self.mirrors: dict[int, Any] = {}
        self.remotes: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.gone: set[int] = set()
        self.scratch = Scratch()
        probe = Shared([], "list")
        self.alone = sys.getrefcount(probe.object)
        Border.here = self

    # what each side does in its own way

    def perform(self, op: str, args: list[Any], named: dict[str, Any]) -> Any:
        """Does what the other side asks."""
        if op == "call":
            return args[0](*args[1:], **named)
        if op == "op":
            return OPERATORS[args[0]](*args[1:])
        if op == "get":
            return self.get(args[0], args[1])
        if op == "method":
            return self.get(args[0], args[1])(*args[2:], **named)
        if op == "set":
            return self.set(args[0], args[1], args[2])
        if op == "delete":
            return delattr(args[0], args[1])
        if op == "signature":
            import inspect

            parameters = inspect.signature(args[0]).parameters.values()
            return [(p.name, p.kind.value, p.default is not p.empty) for p in parameters]
        raise Broken

    def get(self, owner: Any, name: str) -> Any:
        return getattr(owner, name)

    def set(self, owner: Any, name: str, value: Any) -> None:
        setattr(owner, name, value)

    def by_name(self, value: Any) -> tuple[str, str] | None:
        """How a thing of the standard library is called that the other side is to take from its own."""
        if "collections" in sys.modules:
            learn_counter()
        key = (getattr(value, "__module__", None), getattr(value, "__qualname__", None))
        return key if NAMED.get(key) is value else None  # pyright: ignore[reportArgumentType, reportReturnType]

    def named(self, module: str, name: str) -> Any:
        if module == "collections":
            learn_counter()
        return NAMED[module, name]

    def tell(self, also: dict[str, Any]) -> None:
        """Adds what a message carries besides."""

    def take_beside(self, also: dict[str, Any]) -> None:
        """Takes what a message carried besides."""

    # messages

    def ask(self, op: str, *args: Any, **named: Any) -> Any:
        """What the other side makes of it; raises what that raises."""
        if self.broken:
            raise Broken
        self.send(lambda: ["?", op, [self.encode(a) for a in args], [[k, self.encode(v)] for k, v in named.items()]])
        try:
            return self.wait()
        except (StopIteration, StopAsyncIteration) as end:
            if self.strict and not (op == "op" and args[0] == "__next__") and not (op == "method" and args[1] in SENDS):
                # It would end the loop of a test, and what is left of its cases.
                raise RuntimeError(f"the program raised {type(end).__name__}") from end
            raise

    def wait(self) -> Any:
        """The answer, serving what is asked until it comes."""
        while True:
            message = self.receive()
            if message[0] == "?":
                self.serve(message)
                continue
            answer = self.believe(lambda message=message: self.decode(message[1]))
            if message[0] == "!":
                if not isinstance(answer, BaseException):
                    raise self.fail()
                raise answer
            return answer

    def serve(self, message: list[Any]) -> None:
        """Answers one thing asked."""
        try:
            answer = self.answer(message)
        except Broken:
            raise
        except BaseException as raised:  # noqa: BLE001 - whatever is raised is the other side's to see
            failure = raised.with_traceback(None)
            self.send(lambda: ["!", self.encode(failure)])
            return
        try:
            self.send(lambda: ["=", self.encode(answer)])
        except (TypeError, RecursionError) as raised:
            failure = raised.with_traceback(None)
            self.send(lambda: ["!", self.encode(failure)])

    def answer(self, message: list[Any]) -> Any:
        # In a frame of its own, so that nothing of the arguments is held while the answer is sent.
        op, args, named = self.believe(
            lambda: (message[1], [*map(self.decode, message[2])], {k: self.decode(v) for k, v in message[3]})
        )
        return self.perform(op, args, named)

    def believe(self, reading: Callable[[], Any]) -> Any:
        """What is read from a message; one that is none breaks the border."""
        try:
            return reading()
        except Exception:  # noqa: BLE001 - whatever a made-up message leads to
            raise self.fail() from None

    def fail(self) -> Broken:
        self.broken = True
        return Broken()

    def send(self, payload: Callable[[], list[Any]]) -> None:
        """Sends a message and all changes of what is shared."""
        known, described = self.next_shared, set(self.described)
        self.fresh, self.descriptions = [], []
        try:
            message = payload()
            also: dict[str, Any] = {}
            self.tell(also)
            changed = [n for n, s in self.shared.items() if s.agreed is not None and self.changed(s)]
            told = [[n, self.encode_contents(self.shared[n])] for n in changed]
            new: list[Any] = []
            while len(new) < len(self.fresh):
                number = self.fresh[len(new)]
                new.append([number, *self.introduction(self.shared[number])])
        except BaseException:
            for number in self.fresh:
                self.forget(number)
            self.next_shared, self.described = known, described
            raise
        for number, shared in [*self.shared.items()]:
            if shared.agreed is not None and sys.getrefcount(shared.object) <= self.alone:
                self.forget(number)
        for number in (*changed, *self.fresh):
            if (shared := self.shared.get(number)) is not None:
                shared.agreed = contents(shared.kind, shared.object)
        also |= {"k": self.descriptions, "n": new, "s": told, "d": self.dropped, "g": [*self.gone]}
        also["f"] = self.scratch.changes()
        self.dropped = []
        self.gone.clear()
        data = "".join(_json_of([*message, also], 0)).encode()
        try:
            self.writing.write(len(data).to_bytes(8, "little") + data)
            self.writing.flush()
        except (OSError, ValueError):
            raise self.fail() from None

    def receive(self) -> list[Any]:
        """The next message, what is shared brought up to date."""
        return self.believe(self.next_message)

    def next_message(self) -> list[Any]:
        size = int.from_bytes(self.exactly(8), "little")
        self.read, self.messages = self.read + size, self.messages + 1
        if size > MESSAGE or (self.strict and (self.read > TOTAL or self.messages > MESSAGES)):
            raise ValueError("too much")
        message, _ = _from_json(self.exactly(size).decode(), 0)
        also = message.pop()
        for description in also["k"]:
            self.mirror(*description)
        for number, kind, more, stands, _ in also["n"]:
            self.introduce(number, kind, more, stands)
        for number, inside in (*((n[0], n[4]) for n in also["n"]), *also["s"]):
            if (shared := self.shared.get(number)) is not None:
                fill(shared.kind, shared.object, self.decode_contents(shared.kind, inside))
                shared.agreed = contents(shared.kind, shared.object)
        self.scratch.take(also["f"])
        self.take_beside(also)
        for number in also["g"]:
            if (value := self.exported.pop(number, None)) is not None:
                del self.exports[id(value)]
        for number in also["d"]:
            if (shared := self.shared.pop(number, None)) is not None:
                del self.shares[id(shared.object)]
        return message

    def exactly(self, size: int) -> bytes:
        data = self.reading.read(size)
        if len(data) != size:
            raise EOFError
        return data

    # containers

    def changed(self, shared: Shared) -> bool:
        return not same(contents(shared.kind, shared.object), shared.agreed)

    def share(self, value: Any, kind: str) -> int:
        if (number := self.shares.get(id(value))) is None:
            number = self.next_shared
            self.next_shared += 2
            self.shared[number], self.shares[id(value)] = Shared(value, kind), number
            self.fresh.append(number)
        return number

    def forget(self, number: int) -> None:
        """Stops sharing what nobody here holds any more."""
        del self.shares[id(self.shared.pop(number).object)]
        self.dropped.append(number)

    def introduction(self, shared: Shared) -> list[Any]:
        value, more = shared.object, None
        if shared.kind == "deque":
            more = value.maxlen
        elif shared.kind == "defaultdict":
            more = self.encode(value.default_factory)
        stands = None if type(value) in KINDS or self.strict else [self.export(value), self.class_of(type(value))]
        return [shared.kind, more, stands, self.encode_contents(shared)]

    def introduce(self, number: int, kind: str, more: Any, stands: Any) -> None:
        if kind == "Counter":
            learn_counter()
        base = SHARED[kind]
        made: Any = base if stands is None else self.mirrors[stands[1]]
        if base_of(made) is not base or not (stands is None or issubclass(made, Valued)):
            raise ValueError("not of this kind")
        if type(number) is not int or number in self.shared or number % 2 == self.next_shared % 2:
            raise ValueError("not a new one")
        value: Any = base.__new__(made)  # pyright: ignore[reportCallIssue]
        if kind == "deque":
            deque.__init__(value, (), None if more is None else int(more))
        elif kind == "defaultdict":
            defaultdict.__init__(value, self.decode(more))
        if stands is not None:
            object.__setattr__(value, HANDLE, int(stands[0]))
        self.shared[int(number)], self.shares[id(value)] = Shared(value, kind), int(number)

    def encode_contents(self, shared: Shared) -> Any:
        inside = contents(shared.kind, shared.object)
        if shared.kind == "bytearray":
            return inside.hex()
        if type(inside) is tuple:
            return [self.encode_all(inside[0]), self.encode_all(inside[1])]
        return self.encode_all(inside)

    def decode_contents(self, kind: str, inside: Any) -> Any:
        if kind == "bytearray":
            return bytes.fromhex(inside)
        if kind in ("list", "set", "deque"):
            return self.decode_all(inside)
        return self.decode_all(inside[0]), self.decode_all(inside[1])

    # values

    def encode_all(self, values: list[Any]) -> list[Any]:
        kinds = {*map(type, values)}
        if kinds <= DIRECT:
            return values
        if kinds == {int} and min(values) >= -SMALL and max(values) < SMALL:
            return values
        return [self.encode(v) for v in values]

    def decode_all(self, values: list[Any]) -> list[Any]:
        return [self.decode(v) if type(v) is list else v for v in values] if list in {*map(type, values)} else values

    def encode(self, value: Any) -> Any:
        """As JSON: plain values as they are, anything else as a list that begins with what it is."""
        kind = type(value)
        if kind in DIRECT:
            return value
        if kind is int:
            return value if -SMALL <= value < SMALL else ["i", hex(value)]
        if kind in KINDS:
            return ["r", self.share(value, KINDS[kind])]
        if kind is tuple:
            return ["t", self.encode_all([*value])]
        if kind is bytes:
            return ["b", value.hex()]
        if kind is frozenset:
            return ["f", self.encode_all([*value])]
        if value is NotImplemented or value is Ellipsis:
            return ["e", value is Ellipsis]
        if isinstance(kind, RemoteClass) or kind is RemoteClass:
            if issubclass(kind, Valued) and id(value) in self.shares:
                return ["r", self.shares[id(value)]]
            return ["y", handle(value) if kind is not RemoteClass else type.__getattribute__(value, CLASS)]
        if kind is Method:
            return ["m", self.encode(value.__self__), value.__name__]
        key = (kind.__module__, kind.__qualname__)
        if key in BUILT and loaded(*key) in (kind, None):
            return ["v", *key, self.encode_all([*BUILT[key](value)])]
        if kind.__name__ in VIEWS and VIEWS[kind.__name__][0] is kind:
            return ["w", kind.__name__, self.encode_all([*value])]
        if issubclass(kind, BaseException):
            return self.encode_exception(value)
        return self.encode_object(value, kind)

    def encode_object(self, value: Any, kind: type[Any]) -> Any:
        if (named := self.by_name(value)) is not None:
            return ["n", *named]
        if issubclass(kind, type):
            return ["k", self.class_of(value)]
        if self.strict and kind in (types.FrameType, types.CodeType, types.ModuleType):
            raise TypeError(f"'{kind.__name__}' object cannot be given to a program")
        if kind is types.TracebackType:
            return None
        if (base := base_of(kind)) in KINDS:
            return ["r", self.share(value, KINDS[base])]
        if base is not None:
            plain = self.encode(value_of(base, value))
            return plain if self.strict else ["s", self.export(value), self.class_of(kind), plain]
        if kind is types.MethodType and not value.__name__.startswith("_"):
            owner = value.__self__
            if not isinstance(owner, type) and getattr(owner, value.__name__, None) == value:
                return ["m", self.encode(owner), value.__name__]
        hashed = None
        number = self.export(value)
        if kind.__hash__ is object.__hash__:
            hashed = number
        elif kind.__hash__ is not None:
            try:
                hashed = hash(value)
            except TypeError:
                hashed = None
        return ["o", number, self.class_of(kind), hashed]

    def encode_exception(self, value: BaseException, deep: int = 8) -> Any:
        kind = type(value)
        own = {k: v for k, v in vars(value).items() if type(v) in PLAIN} if not self.strict else {}
        args = [*value.args]
        if isinstance(value, OSError) and value.filename is not None and len(args) == 2:
            args.append(value.filename)
        told = None if deep == 0 or isinstance(type(value.__cause__), RemoteClass) else value.__cause__
        return [
            *("x", 0 if self.by_name(kind) else self.export(value), self.encode(kind), self.encode_all(args)),
            [[k, self.encode(v)] for k, v in own.items()],
            None if told is None else self.encode_exception(told, deep - 1),
        ]

    def decode(self, value: Any) -> Any:
        return value if type(value) is not list else DECODERS[value[0]](self, *value[1:])

    def decode_view(self, name: str, items: list[Any]) -> Any:
        return VIEWS[name][1](self.decode_all(items))

    def decode_built(self, module: str, name: str, made_of: list[Any]) -> Any:
        if (module, name) not in BUILT:
            raise ValueError("not built")
        args = self.decode_all(made_of)
        if any(isinstance(a, Foreign) for a in args):
            raise ValueError("not plain")
        if module != "builtins":
            __import__(module)
        kind = getattr(sys.modules[module], name)
        if (module, name) == ("datetime", "time") and len(args) == 5 and args[4] is None:
            return kind(*args[:4])
        return kind(*args)

    def decode_object(self, number: int, class_number: int, hashed: int | None) -> Any:
        if (known := self.remotes.get(number)) is not None:
            return known
        mirror = self.mirrors[class_number]
        if not issubclass(mirror, Remote):
            raise ValueError("no object")
        value = object.__new__(mirror)
        object.__setattr__(value, HANDLE, int(number))
        object.__setattr__(value, HASH, None if hashed is None else hash(int(hashed)))
        object.__setattr__(value, TAINT, False)
        self.gone.discard(number)
        self.remotes[number] = value
        return value

    def decode_value(self, number: int, class_number: int, plain: Any) -> Any:
        mirror, inside = self.mirrors[class_number], self.decode(plain)
        base: Any = base_of(mirror)
        if base not in WHOLE or type(inside) is not base or not issubclass(mirror, Valued):
            raise ValueError("no value")
        value = base.__new__(mirror, inside)
        object.__setattr__(value, HANDLE, int(number))
        return value

    def decode_method(self, owner: Any, name: str) -> Any:
        whose = self.decode(owner)
        return Method(whose, str(name)) if isinstance(whose, Foreign) else self.get(whose, name)

    def decode_exception(self, number: int, kind: Any, args: list[Any], own: list[Any], cause: Any) -> Any:
        mirror, given = self.decode(kind), self.decode_all(args)
        if not issubclass(mirror, BaseException):
            raise ValueError("no exception")
        foreign = isinstance(mirror, RemoteClass)
        value: BaseException
        if not foreign and mirror.__module__ == "builtins":
            try:
                value = type.__call__(mirror, *given)
            except TypeError:
                value = Exception(*given)
        else:
            value = mirror.__new__(mirror, *given)  # pyright: ignore[reportArgumentType]
            BaseException.__setattr__(value, "args", tuple(given))
        if foreign:
            object.__setattr__(value, HANDLE, int(number))
        else:
            vars(value).update({str(k): self.decode(v) for k, v in own})
        if cause is not None:
            BaseException.__setattr__(value, "__cause__", self.decode(cause))
        self.raised(value)
        return value

    def raised(self, exception: BaseException) -> None:
        """Notes that an exception came from the other side."""

    # objects and their classes

    def export(self, value: Any) -> int:
        if (number := self.exports.get(id(value))) is None:
            number = self.next_export
            self.next_export += 1
            self.exported[number], self.exports[id(value)] = value, number
        return number

    def class_of(self, kind: type[Any]) -> int:
        """The number of a class, described to the other side."""
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
        """Makes the class of the stand-ins for a class of the other side."""
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
                space |= {"send": _sent, "throw": lambda *_: None, "close": lambda _: None}
        space |= {s: _special(s) for s in special if s in SPECIAL and s != "__hash__"}
        try:
            made = type.__new__(RemoteClass, str(name), tuple(above), space)
        except TypeError:  # an order of bases that does not go together here
            made = type.__new__(RemoteClass, str(name), (above[0],), space)
        type.__setattr__(made, CLASS, int(number))
        self.mirrors[number] = made

    def signature(self, stand_in: Any, name: str) -> Any:
        """What a function of the other side takes, for those who look."""
        import inspect

        try:
            told = self.ask("signature", stand_in)
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


DECODERS: dict[str, Callable[..., Any]] = {
    "i": lambda _, number: int(str(number), 16),
    "r": lambda border, number: border.shared[number].object,
    "t": lambda border, items: tuple(border.decode_all(items)),
    "b": lambda _, data: bytes.fromhex(data),
    "f": lambda border, items: frozenset(border.decode_all(items)),
    "e": lambda _, dots: Ellipsis if dots else NotImplemented,
    "y": lambda border, number: border.exported[number],
    "m": Border.decode_method,
    "v": Border.decode_built,
    "w": Border.decode_view,
    "x": Border.decode_exception,
    "n": lambda border, module, name: border.named(module, name),
    "k": lambda border, number: border.mirrors[number],
    "o": Border.decode_object,
    "s": Border.decode_value,
}
"""By the letter that an encoded value begins with."""
