"""Judges a program by running it against tests, in a sandbox that lets nothing out.

A program never sees a test, only the arguments of calls or what it reads. What it returns is sent to the sandbox of the
tests as plain values, and the tests decide there. So a program cannot decide its own score.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.groups import TaskGroup
from ponder.compute.pool import Turns
from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score
from ponder.verifiers.programs import program
from ponder.verifiers.sandbox import Sandbox

AT_ONCE = 2
"""Programs that run at the same time for one tenant."""
PLACES = 2 * AT_ONCE
"""Programs that run at the same time for all tenants."""

Text = Annotated[str, Field(max_length=100_000)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Case:
    """What a program reads and what it must print for it; blanks at the ends of lines do not count."""

    stdin: Text
    stdout: Text


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Code:
    """The share of tests the candidate's last Python code block passes, run in a sandbox."""

    needs_likelihood: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    tests: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=20_000)] | Case, ...],
        Field(min_length=1, max_length=64, description="Each a text of assert statements, or an input and its output"),
    ]
    seconds: Annotated[float, Field(gt=0, le=30, description="For all tests of one program")] = 10.0
    memory_mb: Annotated[int, Field(ge=64, le=1024, description="Address space of the program, in MiB")] = 256

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        """0 for a text without a program. Raises `EngineError` where there is no sandbox to run one in."""
        sandbox = Sandbox(self.memory_mb, run.used_by_programs)
        await sandbox.probe()
        programs = {program(c.text) for c in candidates}
        try:
            async with TaskGroup() as judging:
                tasks = {p: judging.create_task(self.passed(sandbox, p, run.tenant)) for p in programs}
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [Score(tasks[program(c.text)].result()) for c in candidates]

    async def passed(self, sandbox: Sandbox, source: str, tenant: str | None) -> float:
        """The share of tests a program passes, in [0, 1]. Programs of one tenant wait for one another, and so do
        tenants."""
        if not source.strip():
            return 0.0
        clock = asyncio.get_running_loop().time
        passed, used = 0, 0.0
        for test in self.tests:
            async with _turns().turn(tenant):
                began = clock()
                passed += await passes(sandbox, source, test, self.seconds - used)
                used += clock() - began
            if used >= self.seconds:
                break
        return passed / len(self.tests)


async def passes(sandbox: Sandbox, source: str, test: str | Case, seconds: float) -> bool:
    """Whether a program passes a test within its limits."""
    if not isinstance(test, Case):
        return await sandbox.passes(source, test, seconds)
    status, printed = await sandbox.run(source, test.stdin, seconds)
    return status == 0 and _lines(printed.decode(errors="replace")) == _lines(test.stdout)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


_of_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = weakref.WeakKeyDictionary()


def _turns() -> Turns:
    """The turns of the running event loop."""
    return _of_loops.setdefault(asyncio.get_running_loop(), Turns(PLACES))
