"""Requests that carry an `Idempotency-Key`: the same key and body runs once and is billed once.

The first of them runs (`ponder.server.idempotency.run`). Others that come meanwhile are sent what it sends; on another
server they wait until it is over. Later ones are given the answer that is kept. One rule says what is kept: a run that
has billed anything is over for good, whatever it came to; one that has billed nothing leaves the key free.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from starlette.requests import Request

from ponder.compute.errors import RequestError
from ponder.metering.idempotency import Claim, IdempotencyStore
from ponder.metering.ledger import Ledger
from ponder.metering.metrics import Metrics
from ponder.server.beside import beside_if_large
from ponder.server.idempotency.key import NAME, canonical, key_of, row_id
from ponder.server.idempotency.run import Live
from ponder.server.idempotency.seal import Seal, Sealing
from ponder.server.settings import IdempotencySettings


class Idempotency:
    """What a server knows of the keys, and the runs that it has."""

    def __init__(
        self, settings: IdempotencySettings, ledger: Ledger | None, metrics: Metrics, draining: Callable[[], bool]
    ) -> None:
        """`draining`: the server goes down. Raises `WrongSettings` for a secret that cannot be read."""
        self.settings, self.metrics, self.draining = settings, metrics, draining
        self.store = None if ledger is None else IdempotencyStore(ledger)
        self.live: dict[str, Live] = {}
        """By the ids of their rows."""
        self.sealing = Sealing(settings, None if ledger is None else ledger.place)

    def forget(self, live: Live) -> None:
        """A run is asked for no more: what it came to is in the table."""
        if self.live.get(live.claim.id) is live:
            del self.live[live.claim.id]

    async def claim(
        self, key: str, request: Request, raw: bytes, beside: str, owner: str
    ) -> tuple[Claim, IdempotencyStore, Seal]:
        """What a request with a key asks of the table. `beside`: as a `Reading` has it. `owner`: the id of its API key.
        Raises `RequestError` and `Unavailable` where no key can be taken."""
        if self.store is None:
            raise RequestError(
                f"this server keeps no ledger ([ledger] url is none), so it cannot promise to run a request once: send "
                f"it without {NAME}",
                param=NAME,
                code="idempotency_unavailable",
            )
        seal, id = await self.sealing.seal(f"it takes no {NAME}", "idempotency_unavailable"), row_id(owner, key)
        body = partial(canonical, request.url.path, beside, raw)
        fingerprint = seal.fingerprint(id, await beside_if_large(len(raw), body))
        return Claim(id, str(request.state.request_id), owner, seal.name, fingerprint), self.store, seal


def asked(request: Request) -> str | None:
    """The `Idempotency-Key` of a request. Raises `RequestError`."""
    return key_of(request.headers.getlist(NAME)) if NAME in request.headers else None
