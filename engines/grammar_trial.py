"""What a worker of the pool does with a grammar: makes it, and compiles it as the engine would.

A schema of a few hundred characters may take minutes and gigabytes, and nobody can tell beforehand which does. Here it
takes a process that can be killed; the engine is only given what was compiled here within its time. What is counted is
the processor time of all threads, so that it takes the engine no longer.

xgrammar is loaded without the parts that write with a grammar: they need torch, which takes seconds and 200 MiB of each
worker.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from ponder.compute.engine import CallSchema, Grammar
from ponder.compute.errors import RequestError
from ponder.compute.pool import CORES
from ponder.engines.grammars import encoded

SMALLEST = 'root ::= "a"'
"""A grammar in the place of none. As an item it makes a worker ready: the vocabularies of all files are read."""
THREADS = max(1, min(8, CORES // 2))
"""That compile one grammar."""
VOCABULARIES = 4
"""Of models, that one worker has read: tens of megabytes each."""


def item(grammar: Grammar, tools: str) -> str:
    """A grammar as a worker is sent it."""
    calls = [(call.name, call.parameters, call.param, call.strict) for call in grammar.calls]
    shape = [grammar.schema, grammar.param, calls, grammar.several, grammar.document, grammar.text]
    return json.dumps([*shape, tools])


def trial() -> Callable[[str, str], dict[str, Any]]:
    """What tries an item with the vocabulary in a file, as `ponder.engines.held_grammars` keeps it.

    It returns `{"kind", "text", "bytes"}`: the field of vLLM's `StructuredOutputsParams`, its text, the memory the
    compiled grammar takes. Or `{"refused": [message, param, code]}`, or with `null` in the place of the list where the
    compiler refuses.
    """
    core = core_of_xgrammar()

    @lru_cache(maxsize=VOCABULARIES)
    def made(file: str, _which: tuple[int, int]) -> Any:
        vocabulary = core.TokenizerInfo.deserialize_json(Path(file).read_text(encoding="utf-8"))
        return core.GrammarCompiler(vocabulary, THREADS, False, -1)

    def compiler(file: str) -> Any:
        # The name of an open file is given to another one when it is closed.
        status = Path(file).stat()
        return made(file, (status.st_ino, status.st_mtime_ns))

    def tried(item: str, file: str) -> dict[str, Any]:
        if item == SMALLEST:
            for one in file.split("\n"):
                compiler(one).compile_grammar_from_strings(SMALLEST, "root")
            return {"refused": None}
        compiling = compiler(file)
        schema, param, calls, *how, tools = json.loads(item)
        grammar = Grammar(schema, param, tuple(CallSchema(*call) for call in calls), *how)
        try:
            kind, text = encoded(grammar, tools)
        except RequestError as error:
            return {"refused": [error.message, error.param, error.code]}
        try:
            if kind == "grammar":
                compiled = compiling.compile_grammar_from_strings(text, "root")
            else:
                compiled = compiling.compile_structural_tag(text)
        except Exception:  # noqa: BLE001 - whatever the C++ of it throws, the engine would throw it too
            return {"refused": None}
        return {"kind": kind, "text": text, "bytes": compiled.memory_size_bytes()}

    return tried


def core_of_xgrammar() -> Any:
    """The compiled part of xgrammar. Where the package is not loaded already, `xgrammar` is from now on what makes and
    compiles grammars."""
    if "xgrammar" not in sys.modules:
        found = find_spec("xgrammar")
        if found is None or found.submodule_search_locations is None:
            raise ImportError("xgrammar is not installed")
        if "torch" not in sys.modules:
            sys.modules["torch"] = None  # pyright: ignore[reportArgumentType] - Python's way to say there is none
        package: Any = ModuleType("xgrammar")
        package.__path__ = list(found.submodule_search_locations)
        sys.modules["xgrammar"] = package
        import_module("xgrammar.load_binding")
        package.Grammar = import_module("xgrammar.grammar").Grammar
    return import_module("xgrammar.base")._core
