"""The side of the program: runs it, and serves the requests of a test in another sandbox.

A program can do anything to this side. All that it can change are its own answers.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import _ast
import builtins
import importlib
import io
import os
import sys
import types

from ponder.verifiers.rpc import Connection
from ponder.verifiers.rpc.frames import Broken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

SYNTAX, FUTURE = 0x400, 0x1FF0000
"""`ast.PyCF_ONLY_AST`; the bits of `from __future__ import`."""
OUTPUT = 2**20
"""Bytes a program may print between two answers."""


class ProgramSide(Connection):
    """The program's end of the connection: its names, what it prints and what it reads."""

    def __init__(self, reading: IO[bytes], writing: IO[bytes], module: types.ModuleType) -> None:
        super().__init__(reading, writing, 1)
        self.module = module
        self.watched: dict[str, Any] = {}
        self.has_read = False
        self.printed, self.complained = Printed(), Printed()
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(self.printed), encoding="utf-8", errors="replace")
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(self.complained), encoding="utf-8", errors="replace")
        sys.stdin = io.TextIOWrapper(io.BufferedReader(Given(self)), encoding="utf-8", errors="replace")
        builtins.input = self.input
        self.streams = sys.stdout, sys.stderr

    def input(self, prompt: object = "", /) -> str:
        """`input` of the program: a line of the test's standard input."""
        self.has_read = True
        return self.ask("input", str(prompt))

    def perform(self, op: str, args: list[Any], named: dict[str, Any]) -> Any:
        space = vars(self.module)
        if op == "global":
            if args[0] not in space:
                raise AttributeError(f"module 'candidate' has no attribute '{args[0]}'")
            return space[args[0]]
        if op == "set global":
            space[args[0]] = args[1]
            return None
        if op == "watch":
            self.watched = dict.fromkeys(args[0], self)
            return None
        if op == "super":
            return getattr(super(args[0], args[1]), args[2])
        if op == "derive":
            wraps = {"property": property, "staticmethod": staticmethod, "classmethod": classmethod}
            parts = {key: wraps[how](*values) if how else values[0] for key, how, *values in args[2]}
            parts["__module__"] = self.module.__name__
            return types.new_class(args[0], args[1], named, lambda space: space.update(parts))
        return super().perform(op, args, named)

    def named(self, module: str, name: str) -> Any:
        found: Any = importlib.import_module(module)
        for part in name.split(".") if name else ():
            found = getattr(found, part)
        return found

    def tell(self, also: dict[str, Any]) -> None:
        for stream in self.streams:
            if not stream.closed:
                stream.flush()
        also["o"] = [self.printed.taken(), self.complained.taken()]
        space = vars(self.module)
        changed = {n: space[n] for n, told in self.watched.items() if n in space and space[n] is not told}
        also["v"] = [[name, self.encode(value)] for name, value in changed.items()]
        self.watched |= changed


class Printed(io.RawIOBase):
    """Keeps what the program prints until the next message carries it to the test."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.data += memoryview(data)
        if len(self.data) > OUTPUT:
            os._exit(1)
        return memoryview(data).nbytes

    def taken(self) -> str:
        text = self.data.decode(errors="replace")
        self.data.clear()
        return text


class Given(io.RawIOBase):
    """Standard input of the program: the lines of the test's `sys.stdin`; empty where the test has put none there."""

    def __init__(self, connection: ProgramSide) -> None:
        self.connection, self.rest = connection, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self.connection.has_read = True
        line = self.rest or str(self.connection.ask("line")).encode(errors="replace")
        size = min(len(line), len(buffer))
        buffer[:size], self.rest = line[:size], line[size:]
        return size


def run(source: str, connection: ProgramSide) -> None:
    """Runs a program, one statement after the other: where one fails because there was nothing to read, as a script
    does that reads its input before anything is called, the next one follows."""
    flags = compile(source, "program.py", "exec", dont_inherit=True).co_flags & FUTURE
    tree: Any = compile(source, "program.py", "exec", SYNTAX, dont_inherit=True)
    for statement in tree.body:
        code = compile(_ast.Module([statement], []), "program.py", "exec", flags, dont_inherit=True)
        try:
            exec(code, vars(connection.module))  # noqa: S102
        except Broken:
            raise
        except BaseException:
            if not connection.has_read:
                raise


def main(calls: int, answers: int) -> None:
    """Runs the program in /program.py and serves the test until that is gone."""
    module = types.ModuleType("candidate")
    sys.modules["candidate"], sys.argv = module, ["program.py"]
    connection = ProgramSide(os.fdopen(calls, "rb"), os.fdopen(answers, "wb"), module)
    with open("/program.py", encoding="utf-8") as file:
        source = file.read()
    try:
        try:
            run(source, connection)
        except Broken:
            raise
        except BaseException as failed:  # noqa: BLE001 - whatever it is, the program has failed
            failure = failed.with_traceback(None)
            connection.send(lambda: ["!", connection.encode(failure)])
        else:
            connection.send(lambda: ["=", connection.encode([*vars(module)])])
        while True:
            connection.serve(connection.receive())
    except Broken:
        os._exit(1)
