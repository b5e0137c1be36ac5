"""Traces that several servers of one ledger show, whichever of them has run the request.

Each has its own in memory (`ponder.server.traces`), and beside that a row in the database, written in a thread behind
the answer. It is sealed as answers for an `Idempotency-Key` are, for texts may be in it; a server with another secret
finds it and cannot read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ponder.compute.errors import NotFound
from ponder.metering.ledger import OPENING
from ponder.metering.traces import StoredTrace, TraceStore
from ponder.server.beside import beside_if_large
from ponder.server.errors import Unreadable
from ponder.server.idempotency.seal import Seal, Sealing

LARGEST = 1 << 23
"""Bytes of what is told of one trace: a larger one is shared without its texts, or not at all."""
REVEALED = ("salt", "markers"), ("prompt", "reads"), ("text", "likelihood", "ids")
"""What keys with the scope `reveal` alone are told: of a trace, of each of its choices, of each of their calls."""


class SharedTraces:
    """The traces of all servers of a ledger."""

    def __init__(self, store: TraceStore, sealing: Sealing) -> None:
        self._store, self._sealing = store, sealing

    def keep(self, id: str, facts: dict[str, Any], told: Sequence[Callable[[], str]]) -> None:
        """Writes a trace down, later. `facts`: what the list says of it. `told`: all that is told of it as JSON, the
        first that is small enough; made in another thread."""

        def made() -> StoredTrace | None:
            seal = self._sealing.made()
            if seal is None:
                return None
            for make in told:
                plain = make().encode()
                if len(plain) <= LARGEST:
                    content = seal.shut(plain, _bound(id, facts["key_id"]))
                    return StoredTrace(id=id, secret=seal.name, content=content, **facts)
                facts["has_text"] = False
            return None

        self._store.put(made)

    async def one(self, id: str) -> tuple[str, Callable[[bool], Any]] | None:
        """The API key that a trace is of, and what is told of it: to a key with the scope `reveal` (True), or to
        another. None: there is none. Raises `Unavailable` and `Unreadable`."""
        found = await self._store.find(id, OPENING)
        if found is None:
            return None
        seal = await self._sealing.seal("it reads no traces of other servers", "traces_unavailable")
        if seal.name != found.secret:
            raise Unreadable(
                "this trace was written by a server with another secret ([idempotency] secret), and this one cannot "
                "open it: servers that share a ledger want the same secret",
                code="trace_unreadable",
            )
        told = await beside_if_large(len(found.content), partial(_opened, seal, found))
        return found.key_id, lambda reveals: told if reveals else _silent(told)

    async def latest(self, key_id: str | None, after: str | None, most: int) -> Sequence[StoredTrace]:
        """The newest of an API key, or of all, behind one of them. Raises `NotFound` where that one is gone, and
        `Unavailable`."""
        found = await self._store.latest(key_id, after, most, OPENING)
        if found is None:
            raise NotFound("there is no such trace; the latest ones are kept", param="after", code="trace_not_found")
        return found

    async def close(self, seconds: float) -> None:
        """Writes what is still to be written, as far as that does not take longer."""
        await self._store.close(seconds)


def _opened(seal: Seal, found: StoredTrace) -> dict[str, Any]:
    plain = seal.unshut(found.content, _bound(found.id, found.key_id))
    if plain is None:
        raise Unreadable("this trace was altered in the database, so it is not shown", code="trace_altered")
    return json.loads(plain)


def _silent(told: dict[str, Any]) -> dict[str, Any]:
    """The same for a key that may see no texts."""
    of_all, of_choices, of_calls = REVEALED
    choices = [
        {name: value for name, value in choice.items() if name not in of_choices}
        | {"calls": [{name: value for name, value in call.items() if name not in of_calls} for call in choice["calls"]]}
        for choice in told["choices"]
    ]
    return {name: value for name, value in told.items() if name not in of_all} | {"choices": choices}


def _bound(id: str, key_id: str) -> str:
    """What a trace is sealed for."""
    return f"trace {id} {key_id}"
