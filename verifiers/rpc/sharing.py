"""Containers of which both sides have a copy. Every message carries the new contents of those that changed."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import sys

from ponder.verifiers.rpc.classes import Classes
from ponder.verifiers.rpc.plain import KINDS, SHARED, base_of, contents, learn_counter, same
from ponder.verifiers.rpc.proxies import HANDLE, Valued

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import defaultdict, deque
    from typing import IO, Any
else:
    from _collections import defaultdict, deque


class Shared:
    """A container of which both sides have a copy, and its contents when both were last equal."""

    __slots__ = ("agreed", "kind", "object")

    def __init__(self, shared: Any, kind: str) -> None:
        self.object, self.kind, self.agreed = shared, kind, None


class Sharing(Classes):
    """The shared containers, by number. Numbers given by one side are even, those by the other are odd."""

    def __init__(self, reading: IO[bytes], writing: IO[bytes], first: int) -> None:
        super().__init__(reading, writing)
        self.shared: dict[int, Shared] = {}
        self.shares: dict[int, int] = {}
        self.next_shared = first
        self.fresh: list[int] = []
        self.dropped: list[int] = []
        probe = Shared([], "list")
        self.alone = sys.getrefcount(probe.object)

    def encode(self, value: Any) -> Any:
        """A value as JSON."""
        raise NotImplementedError

    def encode_all(self, values: list[Any]) -> list[Any]:
        """Many values as JSON."""
        raise NotImplementedError

    def decode_all(self, values: list[Any]) -> list[Any]:
        """The values that pieces of a message stand for."""
        raise NotImplementedError

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
        """Stops sharing a container that nothing on this side refers to any more."""
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
