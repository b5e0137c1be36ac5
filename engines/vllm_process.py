"""The engine of vLLM as a process that can be started again: `ponder.engines.supervisor.Process`.

A server goes on while its engine starts, so vLLM is launched in a thread; and its process is spawned, not forked, so
that it holds none of the server's connections open. Engines are started one after the other: each looks how much memory
there is.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from ponder.compute.errors import EngineError
from ponder.engines.launch import dead, forget, launch
from ponder.engines.watchdog import descendants

_TURN = threading.Lock()
"""Engines start one after the other."""


class Prompted(Protocol):
    """A call to the engine."""

    @property
    def ids(self) -> Sequence[int]:
        """What it is given to read."""
        ...

    @property
    def read(self) -> bool:
        """It has been read: a token has come."""
        ...


class Seen:
    """What was seen of the model, shared by all who ask it."""

    __slots__ = ("calls", "last")

    def __init__(self) -> None:
        self.last = float("-inf")
        """When it last made a token, by the monotonic clock."""
        self.calls: dict[int, Prompted] = {}
        """Those under way, by `id`."""

    @property
    def reading(self) -> int:
        """Tokens of the longest prompt that is being read. Prompts are read in the order they come, so the first token
        to come next waits for one of them."""
        return max((len(call.ids) for call in self.calls.values() if not call.read), default=0)


class VllmProcess:
    """The engine behind an `AsyncLLM`, and those that come after it."""

    def __init__(
        self,
        name: str,
        given: Mapping[str, Any],
        llm: Any,
        took: float,
        seen: Seen,
        take: Callable[[Any], Awaitable[None]],
    ) -> None:
        """`given` are vLLM's arguments; `took`: the seconds of the first start; `take` puts a new `AsyncLLM` in the
        place of the one before."""
        self._name, self._given, self._seen, self._take = name, dict(given), seen, take
        self._llm: Any = llm
        self.took = took
        self._before: set[BaseProcess] | None = None
        """The children there were when the start that goes on began."""
        self._abandoned = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def progress(self) -> float:
        return self._seen.last

    @property
    def reading(self) -> int:
        return self._seen.reading

    @property
    def pids(self) -> Sequence[int]:
        return [pid for one in self._processes() if one.pid is not None for pid in descendants(one.pid)]

    def _processes(self) -> list[BaseProcess]:
        if self._llm is not None:
            return _engines(self._llm)
        before = self._before
        return [] if before is None else [one for one in multiprocessing.active_children() if one not in before]

    @property
    def status(self) -> int | None:
        if self._llm is None:
            return None
        ended = [one.exitcode for one in _engines(self._llm) if one.exitcode is not None]
        if ended:
            return ended[0]
        return 1 if self._llm.errored else None

    async def start(self) -> None:
        """See `ponder.engines.supervisor.Process`."""
        loop = asyncio.get_running_loop()
        launched: asyncio.Future[Any] = loop.create_future()
        self._abandoned = False

        def told(llm: Any, error: BaseException | None) -> None:
            if launched.done():
                if llm is not None:
                    _end(llm)
            elif error is not None:
                launched.set_exception(error)
            else:
                launched.set_result(llm)

        def work() -> None:
            llm: Any = None
            failed: BaseException | None = None
            try:
                with _TURN:
                    self._before = set(multiprocessing.active_children())
                    # Read by vLLM when it makes the process.
                    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
                    if not self._abandoned:
                        llm = launch(self._given)
            except Exception as error:  # noqa: BLE001 (raised where it is awaited)
                failed = error
            finally:
                self._before = None
            with suppress(RuntimeError):  # The loop has ended, and the server with it.
                loop.call_soon_threadsafe(told, llm, failed)

        # No thread of an executor: those are waited for at the end of the server.
        threading.Thread(target=work, name=f"starts {self._name}", daemon=True).start()
        began = time.monotonic()
        llm = await launched
        if llm is None:
            raise EngineError(f"the start of {self._name} was broken off")
        self._llm = llm
        self._seen.last = float("-inf")
        await self._take(llm)
        self.took = time.monotonic() - began

    async def end(self) -> None:
        """See `ponder.engines.supervisor.Process`."""
        self._abandoned = True
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(_end, llm)
            # It may have ended the task that tells them before that had anything to tell.
            llm.output_processor.propagate_error(dead()[0]())

    def let_go(self) -> None:
        """The engine was ended by whoever asks it."""
        self._llm = None


def _engines(llm: Any) -> list[BaseProcess]:
    """The processes that an `AsyncLLM` has started; none where others start them."""
    core = getattr(llm, "engine_core", None)
    return list(getattr(getattr(getattr(core, "resources", None), "engine_manager", None), "processes", ()))


def _end(llm: Any) -> None:
    """What is left of an `AsyncLLM` whose processes were killed."""
    forget(llm)
    llm.shutdown(timeout=0)
