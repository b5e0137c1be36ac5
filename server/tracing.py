"""Spans for OpenTelemetry: whether anybody wants them, and the layer around the dialects that begins and ends them.

The environment variables are those of OpenTelemetry itself. Where none of them names an endpoint, nothing of its
libraries is loaded, and there is no layer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ponder.compute.budget import Spending
from ponder.compute.outcome import Outcome
from ponder.server.calls import ToolCallParser
from ponder.server.dialect import ByPath
from ponder.server.logs import TRACE
from ponder.server.paths import tidy
from ponder.server.plan import ResolvedRequest

log = logging.getLogger("ponder.server")

PROTOCOLS = ("http/protobuf", "grpc")
"""Of OTLP; the first where none is named."""
LAST = 5.0
"""Seconds in which the last spans must have gone when the server ends."""


class Span(Protocol):
    """What is told of one request."""

    @property
    def ids(self) -> tuple[str, str]:
        """Of its trace and of itself, as log lines have them."""
        ...

    def told(
        self,
        resolved: ResolvedRequest,
        ended: str,
        spendings: Sequence[Spending],
        outcomes: Sequence[Outcome | None],
        parsers: Sequence[ToolCallParser],
        first: float | None,
    ) -> None:
        """What came of it, where it was begun. `first`: seconds to the first visible text."""
        ...

    def end(self, status: int | None, request_id: str) -> None:
        """It is over; `status` is HTTP's, None where nothing was answered."""
        ...


class Tracing(Protocol):
    """Begins spans."""

    def begin(self, path: str, traceparent: str | None) -> Span:
        """The span of a request to a path of the server's own; within the caller's trace, where its header names
        one."""
        ...

    def close(self) -> None:
        """Sends what is left. May take long."""
        ...


class Traced:
    """The layer: a span for whatever is posted to a dialect."""

    def __init__(self, app: ASGIApp, tracing: Tracing, paths: Collection[str]) -> None:
        self._app, self._tracing, self._paths = app, tracing, ByPath(dict.fromkeys(paths, True))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._traced(scope)
        if path is None:
            await self._app(scope, receive, send)
            return
        span = self._tracing.begin(path, _traceparent(scope))
        state = scope.setdefault("state", {})
        state["span"] = span
        before = TRACE.set(span.ids)
        status: int | None = None

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            span.end(status, str(state.get("request_id", "")))
            TRACE.reset(before)

    def _traced(self, scope: Scope) -> str | None:
        """The path of a dialect that is posted to, also where it was sent with a slash too many."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        path: str = scope["path"]
        found = self._paths(path) or self._paths(tidy(path))
        return None if found is None else found[1]


def _traceparent(scope: Scope) -> str | None:
    """The header, where there is exactly one, as its specification (W3C Trace Context) has it."""
    found = [value for name, value in scope["headers"] if name == b"traceparent"]
    return found[0].decode("latin-1") if len(found) == 1 else None


def wanted(environment: Mapping[str, str]) -> str | None:
    """The protocol by which spans are to be sent; None where nobody wants them."""

    def word(*names: str) -> str:
        return next((value for name in names if (value := environment.get(name, "").strip())), "")

    if word("OTEL_SDK_DISABLED").lower() == "true":
        return None
    if not word("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    exporters = word("OTEL_TRACES_EXPORTER") or "otlp"
    if exporters != "otlp":
        if exporters != "none":
            log.warning("no spans are sent: OTEL_TRACES_EXPORTER may be otlp or none here")
        return None
    protocol = word("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") or PROTOCOLS[0]
    if protocol not in PROTOCOLS:
        log.warning("no spans are sent: OTEL_EXPORTER_OTLP_PROTOCOL may be %s here", " or ".join(PROTOCOLS))
        return None
    return protocol


@asynccontextmanager
async def tracing_if_wanted() -> AsyncGenerator[Tracing | None]:
    """Tracing as the environment has it, for as long as the block lasts; None where nobody wants it, or the libraries
    are not there, which is said."""
    tracing = None if (protocol := wanted(os.environ)) is None else _opened(protocol)
    try:
        yield tracing
    finally:
        if tracing is not None:
            # A thread that the process need not wait for: the collector may be away.
            closing = threading.Thread(target=tracing.close, name="spans", daemon=True)
            closing.start()
            await asyncio.to_thread(closing.join, LAST)


def _opened(protocol: str) -> Tracing | None:
    try:
        # Loaded where spans are wanted alone.
        from ponder.server.spans import Spans

        tracing = Spans(protocol)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        log.warning(
            "no spans are sent: OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed: "
            "pip install 'ponder-server[otel]'"
        )
        return None
    log.info("spans are sent by OpenTelemetry (%s)", protocol)
    return tracing
