"""Which grammars one model's answers may be held to: those that compiled in time, in a process that can be killed.

Each is tried once for each tenant, in the worker pool (`ponder.engines.grammar_trial`); what came of it is remembered,
refusals too. A tenant has a share of the places at work, so that whoever sends schemas that take for ever waits for
them alone; and a caller who goes takes the work along.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any
from weakref import ref

from ponder.compute.engine import Grammar
from ponder.compute.errors import NoVerdict, RequestError, TooBusy, Unavailable
from ponder.compute.pool import CORES, Turns, end_ready, keep_ready, pool
from ponder.engines.grammar_trial import SMALLEST, item
from ponder.engines.grammars import SIZE, too_large
from ponder.engines.machine_faults import of_the_machine

log = logging.getLogger(__name__)

TASK = "ponder.engines.grammar_trial:trial"

WAIT = 60.0
"""Seconds on the clock until a grammar must have compiled, waiting for others counted: then the caller is told to come
again."""
AGAIN = 5.0
"""Seconds after which a caller may try again where the machine was at fault."""
REMEMBERED = 64 << 20
"""Bytes of all that is remembered, schemas and grammars. Of what is too much, the tenant with the most loses its
oldest."""
COMPILED = 128 << 20
"""Bytes that a compiled grammar takes of the engine's memory at most."""


@dataclass(frozen=True, slots=True)
class Held:
    """A grammar as vLLM takes it: the field of its `StructuredOutputsParams`, and the text."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why there is none."""

    message: str
    param: str | None
    code: str

    @property
    def error(self) -> RequestError:
        return RequestError(self.message, param=self.param, code=self.code)


class HeldGrammars:
    """The grammars of one model."""

    def __init__(self, tools: str, seconds: float, vocabulary: Callable[[], str]) -> None:
        """`tools`: how the model writes calls. `seconds` of processor time a grammar may take. `vocabulary` makes
        xgrammar's `TokenizerInfo` as JSON; it may take a second, and is called once."""
        self._tools, self._seconds, self._vocabulary = tools, seconds, vocabulary
        self._file: IO[bytes] | None = None
        self._begun = asyncio.Lock()
        # One place at least is another tenant's, and one core at least is the server's, where it has two.
        self._turns = Turns(max(2, CORES))
        self._known = _Remembered(REMEMBERED)
        self._in_hand: dict[tuple[int, str | None], tuple[ref[Grammar], Held]] = {}
        """Those of requests that go on, by the `id` of the request's own object: what others ask for takes nothing from
        them."""

    async def begin(self, *, ready: bool = False) -> None:
        """Writes down the vocabulary, once. `ready`: from now on workers that have read it wait for grammars, at the
        price of a process or two; otherwise the first grammar waits for one to read it. Raises `RequestError` where
        this model's vocabulary is of a kind that no grammar can be compiled for."""
        async with self._begun:
            if self._file is None:
                try:
                    written = await asyncio.to_thread(self._vocabulary)
                except Exception as error:
                    if of_the_machine(error):
                        raise Unavailable(
                            "the machine could not write down this model's vocabulary, which grammars are made of: try "
                            "again",
                            code="engine_unavailable",
                            retry_after=AGAIN,
                        ) from error
                    log.warning("this model's answers cannot be held to a schema: %s", type(error).__name__)
                    raise RequestError(
                        "this model's answers cannot be held to a schema: its vocabulary is of an unknown kind",
                        param="response_format",
                        code="unsupported_parameter",
                    ) from error
                self._file = await asyncio.to_thread(_kept, written.encode())
                if ready:
                    _served.append(self._path)
                    _ready()

    async def held(self, grammar: Grammar, tenant: str | None) -> Held:
        """The grammar as vLLM takes it; tried once, as long as this very object lives. Raises `RequestError` for one
        that cannot be held or takes too much, `TooBusy` where nobody could try it in time, `Unavailable` where the
        machine is at fault."""
        key = id(grammar), tenant
        if (in_hand := self._in_hand.get(key)) is not None:
            return in_hand[1]
        found = self._known.get(tenant, grammar)
        if found is None and _characters(grammar) > SIZE:
            raise too_large(grammar.param)
        if found is None:
            await self.begin()
            until = asyncio.get_running_loop().time() + WAIT
            try:
                async with asyncio.timeout_at(until), self._turns.turn(tenant):
                    # Somebody of the same tenant may have asked for it meanwhile.
                    found = self._known.get(tenant, grammar) or await self._tried(grammar, tenant, until)
            except TimeoutError:
                raise _busy() from None
            self._known.put(tenant, grammar, found)
        if isinstance(found, Refused):
            raise found.error
        self._in_hand[key] = ref(grammar, lambda _: self._in_hand.pop(key, None)), found
        return found

    async def _tried(self, grammar: Grammar, tenant: str | None, until: float) -> Held | Refused:
        wish = item(grammar, self._tools)
        try:
            made: dict[str, Any] = await pool().work(
                TASK, wish, self._path, tenant=tenant, seconds=self._seconds, until=until
            )
        except NoVerdict as none:
            match none.reason:
                case "overran":
                    return _costly(grammar, f"takes more than {self._seconds:g} s to be compiled")
                case "unclear":
                    return _costly(grammar, "cannot be compiled, or takes too much memory")
                case _:
                    raise _busy() from None
        if "refused" not in made:
            if made["bytes"] > COMPILED:
                return _costly(grammar, f"takes more than {COMPILED >> 20} MiB when it is compiled")
            return Held(made["kind"], made["text"])
        return Refused(*made["refused"]) if made["refused"] else unenforceable(grammar)

    @property
    def _path(self) -> str:
        """Where workers read the vocabulary."""
        if self._file is None:
            raise RuntimeError("begin() comes first")
        return f"/proc/{os.getpid()}/fd/{self._file.fileno()}" if sys.platform == "linux" else self._file.name

    def close(self) -> None:
        """Lets go of the vocabulary. Idempotent."""
        if self._file is not None:
            if self._path in _served:
                _served.remove(self._path)
                _ready()
            self._file.close()
            self._file = None


_served: list[str] = []
"""The vocabularies of all models."""


def _ready() -> None:
    """Keeps workers ready that have read them."""
    if _served:
        keep_ready(TASK, SMALLEST, "\n".join(_served), seconds=WAIT)
    else:
        end_ready(TASK)


class _Remembered:
    """What came of grammars, by tenant, within so many bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[str | None, OrderedDict[Grammar, Held | Refused]] = {}
        self._sizes: dict[str | None, int] = {}

    def get(self, tenant: str | None, grammar: Grammar) -> Held | Refused | None:
        own = self._found.get(tenant)
        if own is None or (found := own.get(grammar)) is None:
            return None
        own.move_to_end(grammar)
        return found

    def put(self, tenant: str | None, grammar: Grammar, found: Held | Refused) -> None:
        own = self._found.setdefault(tenant, OrderedDict())
        if grammar not in own:
            self._sizes[tenant] = self._sizes.get(tenant, 0) + _size(grammar, found)
        own[grammar] = found
        while sum(self._sizes.values()) > self._most:
            most = max(self._sizes, key=self._sizes.__getitem__)
            self._sizes[most] -= _size(*self._found[most].popitem(last=False))
            if not self._found[most]:
                del self._found[most], self._sizes[most]


def _size(grammar: Grammar, found: Held | Refused) -> int:
    """Bytes, roughly."""
    return 1000 + _characters(grammar) + (len(found.text) if isinstance(found, Held) else 0)


def _characters(grammar: Grammar) -> int:
    """Of its schemas."""
    return len(grammar.schema or "") + sum(len(call.parameters) for call in grammar.calls)


def unenforceable(grammar: Grammar) -> Refused:
    """What vLLM or xgrammar refuse, in words of ours."""
    return Refused(
        "this JSON schema cannot be enforced: it is no valid schema, or the engine does not support a keyword in it",
        grammar.param,
        "invalid_json_schema",
    )


def _costly(grammar: Grammar, how: str) -> Refused:
    return Refused(
        f"{grammar.param}: the schema {how}: use fewer or shorter values in enum, patterns that repeat less ({{m,n}}), "
        "lower maxItems and minItems, or check the answer yourself",
        grammar.param,
        "invalid_json_schema",
    )


def _busy() -> TooBusy:
    return TooBusy(f"the schema could not be tried within {WAIT:.0f} s; try again", code="server_busy", retry_after=5)


def _kept(data: bytes) -> IO[bytes]:
    """A file for processes of ours to read that goes with this one, however it ends (where there is /proc)."""
    file: Any = tempfile.TemporaryFile() if sys.platform == "linux" else tempfile.NamedTemporaryFile()  # noqa: SIM115
    file.write(data)
    file.flush()
    return file


def vocabulary_of(llm: Any) -> str:
    """xgrammar's `TokenizerInfo` of vLLM's engine, as JSON: by vLLM's own code, as families differ."""
    backends: Any = importlib.import_module("vllm.v1.structured_output.backend_xgrammar")
    made = backends.XgrammarBackend(
        vllm_config=llm.vllm_config, tokenizer=llm.get_tokenizer(), vocab_size=llm.model_config.get_vocab_size()
    )
    return str(made.compiler.compile_grammar(SMALLEST).tokenizer_info.serialize_json())
