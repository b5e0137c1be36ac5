"""Values as JSON, and back: plain ones as they are, all others as a list whose first item says what follows."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import sys
import types

from ponder.verifiers.rpc.plain import BUILT, DIRECT, KINDS, PLAIN, SMALL, VIEWS, WHOLE, base_of, loaded, value_of
from ponder.verifiers.rpc.proxies import (
    CLASS,
    HANDLE,
    HASH,
    TAINT,
    Foreign,
    Method,
    Remote,
    RemoteClass,
    Valued,
    handle,
)
from ponder.verifiers.rpc.sharing import Sharing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Encoding(Sharing):
    """Encodes values for messages and decodes them. Decoding a made-up message may raise anything: `Frames.believe`
    turns that into a broken connection."""

    def get(self, owner: Any, name: str) -> Any:
        """An attribute of an object, as far as the other side may have it."""
        return getattr(owner, name)

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
        """A value as JSON: a plain one as it is, any other as a list whose first item says what follows."""
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


DECODERS: dict[str, Callable[..., Any]] = {
    "i": lambda _, number: int(str(number), 16),
    "r": lambda side, number: side.shared[number].object,
    "t": lambda side, items: tuple(side.decode_all(items)),
    "b": lambda _, data: bytes.fromhex(data),
    "f": lambda side, items: frozenset(side.decode_all(items)),
    "e": lambda _, dots: Ellipsis if dots else NotImplemented,
    "y": lambda side, number: side.exported[number],
    "m": Encoding.decode_method,
    "v": Encoding.decode_built,
    "w": Encoding.decode_view,
    "x": Encoding.decode_exception,
    "n": lambda side, module, name: side.named(module, name),
    "k": lambda side, number: side.mirrors[number],
    "o": Encoding.decode_object,
    "s": Encoding.decode_value,
}
"""By the letter that an encoded value begins with."""
