"""One worker process of the pool for untrusted work (`compute/pool.py`): what it can be asked, and how a process that
may hang or swell over it is bounded. Run as a script it is the worker; it imports nothing of ours.

It reads one request a line from its standard input, a socket, and answers with one line. It ends when the socket closes
and when the process dies that started it, also in the middle of an item and whatever that one is at: by the kernel's
parent death signal. An item's processor time is bounded by a timer of the kernel's, so that neither a busy machine nor
code that never returns to Python changes it; memory by the address space.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import re
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

MEMORY = 2**30
"""Bytes of address space of one worker."""
SWOLLEN = 2**28
"""Bytes of resident memory behind an item from which a worker is replaced, so that the next has room."""
PROGRAM = 2**18
"""Bytes RE2 may take for one pattern: about 15,000 instructions."""

NICE = 5
"""Steps of priority below the server's: what is at work here gives way to the streams of everybody else."""

Check = Callable[[str, str], Any]
"""What is done with one item: two texts. It returns what JSON can say."""


def compiled(pattern: str) -> Any:
    """A pattern as RE2 runs it: in time linear in the text. Takes some milliseconds at most, for any pattern of 500
    characters. Raises `ValueError` with RE2's words, which quote the pattern, for what it does not know and for what
    grows beyond `PROGRAM`."""
    re2 = import_module("re2")
    options = re2.Options()
    options.max_mem = PROGRAM
    options.never_capture = True
    options.log_errors = False
    try:
        return re2.compile(pattern.encode(errors="replace"), options)
    except re2.error as error:
        raise ValueError(error.args[0].decode(errors="replace")) from None


# -- the tasks: each imports what it needs, and gives the check itself ------------------------------------------------


@cache
def _algebra() -> Check:
    math_verify = import_module("math_verify")
    latex = [math_verify.LatexExtractionConfig()]

    @lru_cache(maxsize=512)
    def parse(expression: str) -> list[Any]:
        return math_verify.parse(
            f"${expression}$", extraction_config=latex, parsing_timeout=None, fallback_mode="no_fallback"
        )

    def equal(first: str, second: str) -> bool:
        a, b = parse(first), parse(second)
        if not a or not b:
            raise ValueError("not an expression")
        # Its verdict depends on the order.
        return any(math_verify.verify(*pair, timeout_seconds=None) for pair in ((a, b), (b, a)))

    equal("x+1", "1+x")  # The first comparison of a process takes as long as what it imports.
    return equal


@cache
def _patterns() -> Check:
    return lambda pattern, text: compiled(pattern).search(text.encode(errors="replace")) is not None


@cache
def _schemas() -> Check:
    # The registry of the specifications alone: a remote reference in a schema is an error, never fetched.
    registry = import_module("jsonschema_specifications").REGISTRY
    validators = import_module("jsonschema").validators

    @cache
    def linear(kind: Any) -> Any:
        return validators.extend(kind, _linear())

    def fulfils(schema: str, text: str) -> bool:
        rules: Any = json.loads(schema)
        kind = validators.validator_for(rules)
        kind.check_schema(rules)
        try:
            value = json.loads(text, parse_float=_finite, parse_constant=_finite)
        except ValueError:
            return False
        if rules not in (True, False):
            # A reference to the root would lead to the kind that it names, and not to ours.
            rules.pop("$schema", None)
        return bool(linear(kind)(rules, registry=registry).is_valid(value))

    fulfils("{}", "{}")
    return fulfils


def _finite(digits: str) -> float:
    """A number of JSON. Raises `ValueError` for one without a value: 1e999, NaN."""
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("no finite number")
    return value


@lru_cache(maxsize=512)
def _found(pattern: str) -> Callable[[str], object]:
    """What looks for a pattern in a text: RE2 where it knows it, else Python's `re`, which may take for ever."""
    try:
        known = compiled(pattern)
    except ValueError:
        return re.compile(pattern).search
    return lambda text: known.search(text.encode(errors="replace"))


def _linear() -> dict[str, Any]:
    """The words of JSON Schema by which patterns are matched. `unevaluatedProperties` is left as it is."""
    wrong = import_module("jsonschema").ValidationError

    def pattern(validator: Any, rule: str, instance: Any, _: Any) -> Iterator[Any]:
        if validator.is_type(instance, "string") and not _found(rule)(instance):
            yield wrong("does not match")

    def pattern_properties(validator: Any, rule: dict[str, Any], instance: Any, _: Any) -> Iterator[Any]:
        if validator.is_type(instance, "object"):
            for name, schema in rule.items():
                for key, value in instance.items():
                    if _found(name)(key):
                        yield from validator.descend(value, schema)

    def additional_properties(validator: Any, rule: Any, instance: Any, schema: dict[str, Any]) -> Iterator[Any]:
        if validator.is_type(instance, "object"):
            named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
            for key, value in instance.items():
                if key not in named and not any(_found(name)(key) for name in patterns):
                    yield from validator.descend(value, rule)

    return {
        "pattern": pattern,
        "patternProperties": pattern_properties,
        "additionalProperties": additional_properties,
    }


TASKS: dict[str, Callable[[], Check]] = {"same": _algebra, "match": _patterns, "schema": _schemas}


def _check_of(task: str) -> Check:
    """One of these tasks, or `MODULE:NAME`: what the function of that name in that module returns."""
    module, _, name = task.partition(":")
    return (getattr(import_module(module), name) if name else TASKS[task])()


# -- the process ------------------------------------------------------------------------------------------------------


def _bind(parent: int) -> None:
    """Ties this process to the one that started it, and bounds it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        # It may have died before that; then nobody sends the signal.
        if os.getppid() != parent:
            os._exit(0)
    # What is sent to the whole group (Ctrl-C, a service manager) asks the server to finish; it still needs us for that.
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICE)


def _resident() -> int:
    """Bytes of memory in use; 0 where it cannot be told."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
    return 0


def _work() -> None:
    """Answers [task, first, second, seconds] with [result, whether this worker is to be replaced] until the socket
    closes. The result is null where there is none. Out of processor time it is ended by SIGPROF."""
    asking = socket.socket(fileno=os.dup(0))
    for line in asking.makefile("rb"):
        task, first, second, seconds = json.loads(line)
        result: Any = None
        # Anything may come out of parsing what a model wrote; whatever it is, there is no result.
        with contextlib.suppress(Exception):
            check = _check_of(task)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            result = check(first, second)
        signal.setitimer(signal.ITIMER_PROF, 0)
        asking.sendall(json.dumps([result, _resident() > SWOLLEN]).encode() + b"\n")


if __name__ == "__main__":
    _bind(int(sys.argv[1]))
    _work()
