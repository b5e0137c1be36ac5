"""Remote procedure calls between a test and the program it tests, each in a sandbox of its own.

The same code runs in both sandboxes, at the two ends of a pair of pipes. One side runs at a time. It sends a request
(call this function, get that attribute, add these two) and waits; while it waits, it serves the requests that the other
side sends back. A message is JSON behind its length. Values are sent, never code: no message makes the side of the test
unpickle, import or look up anything.

- Numbers, texts, tuples and other immutable values are sent by value, and rebuilt as the builtin types.
- Lists, dicts, sets and other mutable containers are shared. Each side has its own copy, and every message carries the
  new contents of those that changed. So a change in place is seen on the other side.
- Every other object stays where it is. Its number, a handle, is sent. The other side makes a proxy of it: an object
  whose class has the name, the bases and the operators of the real one, and which sends each operation to the owner.
- Files in the scratch folder are shared as lists are.
- Exceptions are rebuilt: of the builtin class, or of a proxy for the program's class.

The side of the test is `strict`: it does not ask a program anything that would let the program decide the verdict (see
`Remote` in `proxies`).
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import sys

from ponder.verifiers.rpc.encoding import Encoding
from ponder.verifiers.rpc.frames import Broken
from ponder.verifiers.rpc.operators import OPERATORS
from ponder.verifiers.rpc.plain import contents, fill
from ponder.verifiers.rpc.scratch import Scratch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

SENDS = ("send", "throw", "next")
"""Methods that may end an iteration."""


class Connection(Encoding):
    """The connection of this process to the other side: sends requests to it, and serves those that it sends."""

    def __init__(self, reading: IO[bytes], writing: IO[bytes], first: int) -> None:
        super().__init__(reading, writing, first)
        self.scratch = Scratch()

    # -- what each side does in its own way

    def perform(self, op: str, args: list[Any], named: dict[str, Any]) -> Any:
        """Carries out a request of the other side."""
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

    def set(self, owner: Any, name: str, value: Any) -> None:
        setattr(owner, name, value)

    def tell(self, also: dict[str, Any]) -> None:
        """Adds what only this side sends along with a message."""

    def take_beside(self, also: dict[str, Any]) -> None:
        """Takes what only the other side sends along with a message."""

    # -- messages

    def ask(self, op: str, *args: Any, **named: Any) -> Any:
        """The result of a request to the other side. Raises what that raises, and `Broken` where it is gone."""
        if self.broken:
            raise Broken
        self.send(lambda: ["?", op, [self.encode(a) for a in args], [[k, self.encode(v)] for k, v in named.items()]])
        try:
            return self.wait()
        except (StopIteration, StopAsyncIteration) as end:
            if self.strict and not (op == "op" and args[0] == "__next__") and not (op == "method" and args[1] in SENDS):
                # It would end a loop of the test, and skip the cases that are left.
                raise RuntimeError(f"the program raised {type(end).__name__}") from end
            raise

    def wait(self) -> Any:
        """The answer to a request. Serves the other side's requests until it comes."""
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
        """Answers one request."""
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

    def send(self, payload: Callable[[], list[Any]]) -> None:
        """Sends a message, and with it the new contents of shared containers and files that changed."""
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
        self.write([*message, also])

    def receive(self) -> list[Any]:
        """The next message. Shared containers and files are up to date when it returns."""
        return self.believe(self.next_message)

    def next_message(self) -> list[Any]:
        message = self.next_frame()
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
