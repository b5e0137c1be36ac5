"""The endpoint of every dialect: from the bytes of a request to the response that carries it out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from starlette.requests import Request

from ponder.compute.account import Account
from ponder.compute.clock import now
from ponder.compute.engine import LONG
from ponder.compute.errors import RequestError
from ponder.metering.metrics import Metrics
from ponder.server import bounds
from ponder.server.admission import Admission
from ponder.server.auth.keys import Key
from ponder.server.beside import beside
from ponder.server.dialect import Dialect, Item, Keeping, Reading, Target
from ponder.server.http.body import read
from ponder.server.idempotency.requests import Idempotency, asked
from ponder.server.idempotency.response import IdempotentResponse
from ponder.server.kept.answer import Asking, KeptResponse
from ponder.server.kept.responses import KeptResponses
from ponder.server.loop_thoughts import LoopThoughts
from ponder.server.plan import ResolvedRequest, make
from ponder.server.receipts import Receipts
from ponder.server.registry import Registry, ServedModel, takes_images
from ponder.server.reload import LiveSettings
from ponder.server.request import Request as Asked
from ponder.server.respond import CompletionResponse
from ponder.server.running import RunningTable
from ponder.server.sealed_thoughts import SealedThoughts
from ponder.server.settings import Limits
from ponder.server.token_counts import TokenCountResponse, of_the_prompt
from ponder.server.traces import Traces


class Completions:
    """What answers a dialect's requests."""

    def __init__(
        self,
        live: LiveSettings,
        models: Mapping[str, ServedModel],
        registry: Registry,
        admission: Admission,
        account: Account,
        metrics: Metrics,
        traces: Traces,
        thoughts: LoopThoughts,
        receipts: Receipts,
        dialect: Dialect,
        idempotency: Idempotency,
        seals: SealedThoughts,
        kept: KeptResponses,
        running: RunningTable,
    ) -> None:
        self._live, self._models, self._registry = live, models, registry
        self._admission, self._account = admission, account
        self._metrics, self._traces, self._thoughts = metrics, traces, thoughts
        self._receipts, self._dialect, self._idempotency = receipts, dialect, idempotency
        self._seals = seals
        self._kept, self._running = kept, running

    async def __call__(
        self, request: Request, key: Key
    ) -> CompletionResponse | KeptResponse | IdempotentResponse | TokenCountResponse:
        began = now()
        settings = self._live.now
        self._admission.check(key.name, key.weight)
        limits, target = settings.limits, Target(request.path_params, request.query_params, request.headers)
        raw = await read(request, limits, most=limits.wire_bytes(takes_images(self._models)))
        large = len(raw) >= LONG
        if large:
            reading = await beside(key.name, lambda: self._read(raw, limits, target))
        else:
            reading = self._read(raw, limits, target)
        timeout = header_timeout(request)

        async def plan(wanted: Asked, *, large: bool = large) -> ResolvedRequest:
            return await make(
                wanted,
                self._models,
                self._registry,
                settings,
                key,
                timeout,
                self._thoughts,
                self._seals,
                large=large,
            )

        name = asked(request)
        if reading.count is not None:
            return TokenCountResponse(reading, reading.count, partial(plan, of_the_prompt(reading.request)))

        def run(reading: Reading, account: Account) -> CompletionResponse:
            # What it goes on with is in no body.
            keeping = reading.keeping
            longer = keeping is not None and bool(keeping.previous is not None or keeping.named)
            return CompletionResponse(
                reading,
                partial(plan, reading.request, large=large or longer),
                self._dialect,
                self._admission,
                account,
                self._metrics,
                self._traces,
                self._thoughts,
                self._receipts,
                self._running,
                began=began,
                keepalive=settings.keepalive,
                send_timeout=settings.limits.send_timeout,
                headers_after=settings.headers_after,
            )

        async def behind(keeping: Keeping, items: list[Item], named: Mapping[str, Item]) -> Reading:
            most = limits.body_bytes + settings.responses.response_bytes
            return await beside(key.name, lambda: self._bounded(keeping.behind(items, named), limits, most))

        def response(account: Account) -> CompletionResponse | KeptResponse:
            if reading.keeping is None:
                return run(reading, account)
            asking = Asking(
                key.id, behind, run, reading.request.stream, settings.keepalive, settings.limits.send_timeout
            )
            return KeptResponse(self._kept, reading, reading.keeping, asking, account, self._metrics)

        if name is None:
            return response(self._account)
        most = settings.stream_timeout if reading.request.stream else settings.timeout
        return IdempotentResponse(
            self._idempotency,
            await self._idempotency.claim(name, request, raw, reading.beside, key.id),
            response,
            self._account,
            until=began + min(limit for limit in (reading.request.timeout, timeout, most) if limit is not None),
            patience=settings.limits.send_timeout,
        )

    def _read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        """A body within its bounds. Raises `RequestError` in the dialect's words."""
        reading = self._dialect.read(raw, limits, target)
        bounds.check_size(raw, reading.request, limits)
        return self._bounded(reading, limits)

    def _bounded(self, reading: Reading, limits: Limits, most: int | None = None) -> Reading:
        """`most`: characters of a conversation that is not all in its body."""
        try:
            if most is not None:
                bounds.check_conversation(reading.request, most)
            bounds.check(reading.request, limits)
        except RequestError as error:
            raise reading.renamed(error) from None
        return reading


def header_timeout(request: Request) -> float | None:
    """`X-Request-Timeout`, in seconds. Raises `RequestError`."""
    given = request.headers.get("x-request-timeout")
    if given is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", given) or float(given) <= 0:
        raise RequestError(
            "the header X-Request-Timeout holds seconds, above 0", param="X-Request-Timeout", code="invalid_value"
        )
    return float(given)
