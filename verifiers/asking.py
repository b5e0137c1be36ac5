"""The side of the test: runs a text of assert statements and says whether they hold. The program is in another sandbox.

A name that the text uses and does not bind is the program's: here it is a proxy.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import _ast
import builtins
import importlib
import io
import os
import symtable
import sys
import types

from ponder.verifiers.rpc import Connection
from ponder.verifiers.rpc.plain import loaded
from ponder.verifiers.rpc.proxies import RemoteClass, Super, here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Any

PASSED = b"passed"
STEERING = {"load_tests", "setUpModule", "tearDownModule"}
"""Names by which `unittest` lets a module change how it is tested."""
SYNTAX = 0x400
"""`ast.PyCF_ONLY_AST`."""

LABELS = ("__name__", "__qualname__", "__doc__", "__module__")
OPEN = {"__main__", "_io", "argparse", "random", "re", "types"}
"""The modules of classes whose objects a program may look into, when the test hands it one."""
CLOSED = (
    *(types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType, types.FrameType),
    *(types.CodeType, types.TracebackType, types.CoroutineType, types.AsyncGeneratorType, types.MethodWrapperType),
)


class Asking(Connection):
    """The test's end of the connection. Of the objects that the test gives to a program, the program may call them, use
    their operators, and read the public attributes of instances of the test's own classes. None of these leads to the
    text of the test, to its names or to its interpreter."""

    strict = True

    def __init__(self, reading: IO[bytes], writing: IO[bytes]) -> None:
        super().__init__(reading, writing, 0)
        self.input = builtins.input
        self.ends: list[BaseException] = []
        self.space: dict[str, Any] = {}
        self.given: dict[str, Any] = {}

    def answer(self, message: list[Any]) -> Any:
        op, args = message[1], message[2]
        done_to = args[1:3] if op == "op" else args[:1]
        if op not in ("line", "input") and not any(_of_the_test(a) for a in done_to):
            # A call of `type`, say, would make an object here that does what the program says.
            raise self.fail()
        return super().answer(message)

    def perform(self, op: str, args: list[Any], named: dict[str, Any]) -> Any:
        if op == "line":
            return sys.stdin.readline()
        if op == "input":
            return self.prompted(*args)
        if op == "delete":
            raise AttributeError("a program cannot delete what is the test's")
        return super().perform(op, args, named)

    def prompted(self, prompt: str) -> str:
        """What `input` returns to the program. The test may have replaced `input`, or put lines into `sys.stdin`."""
        if builtins.input is not self.input:
            return str(builtins.input(prompt))
        sys.stdout.write(prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError("EOF when reading a line")
        return line.removesuffix("\n")

    def get(self, owner: Any, name: str) -> Any:
        kind = type(owner)
        allowed = name in LABELS
        if not allowed and not name.startswith("_") and not isinstance(owner, CLOSED):
            if isinstance(owner, types.GeneratorType):
                allowed = name in ("send", "throw", "close")
            elif isinstance(owner, type):
                allowed = owner.__module__ == "__main__"
            elif kind.__module__ == "unittest.mock":
                allowed = name not in dir(kind)
            else:
                allowed = kind.__module__ in OPEN or isinstance(owner, BaseException)
        if not allowed:
            raise AttributeError(f"'{kind.__name__}' object of the test has no attribute '{name}' for a program")
        return getattr(owner, name)

    def set(self, owner: Any, name: str, value: Any) -> None:
        kind = type(owner)
        own = kind.__module__ == "__main__" or kind is types.SimpleNamespace
        if name.startswith("_") or not own or callable(getattr(kind, name, None)):
            raise AttributeError(f"'{kind.__name__}' object of the test has no attribute '{name}' to set for a program")
        setattr(owner, name, value)

    def by_name(self, value: Any) -> tuple[str, str] | None:
        if isinstance(value, types.ModuleType):
            return (value.__name__, "") if value.__name__ in sys.stdlib_module_names else None
        owner = getattr(value, "__objclass__", None)
        module = getattr(value, "__module__", None) if owner is None else owner.__module__
        name = getattr(value, "__qualname__", None)
        if type(module) is str and type(name) is str and loaded(module, name) is value:
            return module, name
        return None

    def raised(self, exception: BaseException) -> None:
        if isinstance(exception, SystemExit):
            self.ends.append(exception)

    def take_beside(self, also: dict[str, Any]) -> None:
        for stream, text in zip((sys.stdout, sys.stderr), also["o"], strict=True):
            if text:
                stream.write(str(text))
        for name, value in also["v"]:
            # What the test has bound meanwhile is the test's.
            if name in self.given and self.space.get(name, self) is self.given[name]:
                self.space[name] = self.given[name] = self.decode(value)

    def hand(self, wanted: set[str], space: dict[str, Any]) -> None:
        """Gives the test the program's objects of these names, and keeps them up to date."""
        self.space, self.given = space, dict.fromkeys(wanted, self)
        self.ask("watch", [*wanted])


def _of_the_test(value: Any) -> bool:
    """Whether an encoded value is an object that the test has given to the program."""
    return type(value) is list and (value[0] == "y" or (value[0] == "m" and _of_the_test(value[1])))


class Candidate(types.ModuleType):
    """The program as a module, for a test that imports it."""

    __all__ = ()
    """`from candidate import *` adds nothing: the names a test uses are there already."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return here().ask("global", name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):
            super().__setattr__(name, value)
        else:
            here().ask("set global", name, value)


def parent(*of: Any) -> Any:
    """`super`, which also works in classes derived from the program's."""
    if not of:
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        of = frame.f_locals["__class__"], frame.f_locals[frame.f_code.co_varnames[0]]
    return Super(*of) if isinstance(of[0], RemoteClass) else SUPER(*of)


SUPER = super


def nodes(tree: Any) -> Iterator[Any]:
    """All nodes of a syntax tree (without the module `ast`, which takes its time to import)."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        for field in node._fields:
            value = getattr(node, field, None)
            left += [v for v in (value if type(value) is list else [value]) if isinstance(v, _ast.AST)]


def wanted(text: str, theirs: set[str]) -> tuple[set[str], set[str]]:
    """(names of the program that a test uses, modules of the standard library that it uses without importing them).

    A name of a builtin means the builtin, or a program could bring its own `abs`. Only where a test uses no other name
    of the program are these the program's. A name that the program shares with a module means the module, where the
    test takes an attribute from it that the module has.
    """
    table = symtable.symtable(text, "tests.py", "exec")
    used, bound, scopes = set[str](), set[str](), [table]
    for scope in scopes:
        scopes += scope.get_children()
        used |= {s.get_name() for s in scope.get_symbols() if s.is_referenced() and (scope is table or s.is_global())}
    for symbol in table.get_symbols():
        name = symbol.get_name()
        if symbol.is_imported() or symbol.is_namespace() or (symbol.is_assigned() and name not in theirs):
            bound.add(name)
    if used & {"eval", "exec", "globals", "locals", "vars"}:
        used |= theirs - sys.stdlib_module_names - vars(builtins).keys() - STEERING
    used = {name for name in used - bound if not name.startswith("__")}
    modules, imports = set[str](), False
    for node in nodes(compile(text, "tests.py", "exec", SYNTAX)):
        if isinstance(node, _ast.Attribute) and isinstance(node.value, _ast.Name):
            name = node.value.id
            if name in used & theirs & sys.stdlib_module_names and hasattr(importlib.import_module(name), node.attr):
                modules.add(name)
        imports |= "candidate" in (getattr(node, "module", ""), getattr(node, "name", ""), getattr(node, "value", ""))
    used -= modules
    own = used & theirs
    if imports or not own <= vars(builtins).keys():
        own = used - vars(builtins).keys()
    return own, modules


def main(calls: int, answers: int) -> None:
    """Runs the test in /program.py and writes `PASSED` to the standard output it was started with."""
    verdict = os.dup(1)
    with open("/dev/null", "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), open("/dev/null", "w"), open("/dev/null", "w")  # noqa: SIM115
    connection = Asking(os.fdopen(answers, "rb"), os.fdopen(calls, "wb"))
    with open("/program.py", encoding="utf-8") as file:
        text = file.read()
    theirs = set[str](connection.wait())
    program = Candidate("candidate")
    module = types.ModuleType("__main__")
    vars(module)["super"] = parent
    sys.modules["candidate"], sys.modules["__main__"], sys.argv = program, module, ["tests.py"]
    names, modules = wanted(text, theirs)
    module.__dict__.update({name: importlib.import_module(name) for name in modules})
    connection.hand(names, module.__dict__)
    try:
        exec(compile(text, "tests.py", "exec"), module.__dict__)  # noqa: S102
    except SystemExit as end:
        if end.code or any(end is theirs for theirs in connection.ends):
            raise
    if not connection.broken:
        os.write(verdict, PASSED)
        os._exit(0)
