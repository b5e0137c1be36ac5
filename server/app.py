"""The application: its routes, who may use each, and the middleware around all of them.

There is one table of pages, and a page cannot stand in it without saying which scope it takes (`None`: open to all, for
health probes). So a route is closed unless somebody decided otherwise. FastAPI serves the pages; the dialects' routes
are bare, because what FastAPI does for a route costs a request more than all the rest here.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ponder.compute.account import Account, Accounts
from ponder.compute.errors import NotAuthenticated, NotFound, NotPermitted, PonderError, RequestError, Unavailable
from ponder.compute.replicas import HasReplicas
from ponder.compute.slots import Slots
from ponder.metering.ledger import Ledger
from ponder.metering.metrics import Metrics
from ponder.metering.receipts import Signer
from ponder.metering.responses import ResponseStore
from ponder.metering.series import release
from ponder.metering.traces import TraceStore
from ponder.server import docs_page, errors, openapi, paths
from ponder.server.admission import Admission
from ponder.server.auth.access import AuthenticatedRoute, Guard, Needs
from ponder.server.auth.keys import Keyring
from ponder.server.auth.page import KeyChange, KeysPage, KeyWish, Rotation, body_of
from ponder.server.auth.stored_keys import StoredKeys
from ponder.server.completions import Completions
from ponder.server.dialect import ByPath, Dialect
from ponder.server.dialects import (
    DEFAULT,
    GOOGLE,
    GOOGLE_ROOT,
    GeminiModel,
    GeminiModelPages,
    GeminiModels,
    MessageModel,
    MessageModels,
    google_speaker,
    installed,
    lister,
    plugins,
    speaker,
)
from ponder.server.http.cors import CrossOrigin
from ponder.server.idempotency.requests import Idempotency
from ponder.server.kept.page import GIVEN, STREAMED, ResponsesPage
from ponder.server.kept.responses import KeptResponses
from ponder.server.limits_page import LimitsPage
from ponder.server.live import EVENTS, EventsShape, LiveRequests
from ponder.server.logs import REQUEST_ID
from ponder.server.loop_thoughts import LoopThoughts
from ponder.server.pages import Page
from ponder.server.policies import policies_of, warn
from ponder.server.receipts import Receipts
from ponder.server.registry import Registry, ServedModel
from ponder.server.reload import LiveSettings, Reload
from ponder.server.replicas import moved
from ponder.server.running import RunningTable
from ponder.server.sealed_thoughts import SealedThoughts, passing
from ponder.server.settings import Scope as KeyScope
from ponder.server.settings import Settings
from ponder.server.shared_traces import SharedTraces
from ponder.server.status import Health, Model, Models, Status
from ponder.server.trace_list import TraceList
from ponder.server.trace_shapes import TOLD
from ponder.server.traces import Traces
from ponder.server.tracing import Traced, Tracing
from ponder.server.usage import UsagePage, UsageReports

__all__ = ["ServedModel", "ServerHandle", "all_dialects", "create_app", "plugged_in"]

WRITTEN = 0.8
"""Seconds, behind a drain, for what ran behind its callers to be written down."""

TRACED = 0.2
"""The same for traces."""

DialectOf = Callable[[Scope], Dialect]
"""The dialect that writes the errors of a request."""


@dataclass(frozen=True, slots=True)
class ServerHandle:
    """Controls an application that is being served: whether it is ready, and its drain. It is `app.state.handle`."""

    admission: Admission
    metrics: Metrics
    traces: Traces
    drain_timeout: float
    keyring: Keyring
    reload: Reload
    kept: KeptResponses
    status: Status

    async def drain(self) -> None:
        """Going down: not ready and nobody new at once; those inside finish within the drain timeout, or answer with
        their best. Returns when all have left."""
        await self.admission.drain(self.drain_timeout)
        await self.kept.close(WRITTEN)
        if self.traces.shared is not None:
            await self.traces.shared.close(TRACED)

    def hurry(self) -> None:
        """Those inside answer with their best now."""
        self.admission.hurry()


class ErrorMiddleware:
    """The outermost middleware: gives each request an id, and writes every error in the shape of its dialect."""

    def __init__(self, app: ASGIApp, metrics: Metrics, dialect_of: DialectOf) -> None:
        self._app, self._metrics, self._dialect_of = app, metrics, dialect_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = "req_" + secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = request_id
        REQUEST_ID.set(request_id)
        state, started = scope["state"], False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                # What was run for another request has that one's id.
                id = state["request_id"].encode()
                # The second for Anthropic's clients.
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", id), (b"request-id", id)]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            self._metrics.disconnected("sending_body")
        except asyncio.CancelledError:
            # Only a server that ends cancels a request. It is told so, and the task ends here.
            if not started:
                dialect = self._dialect_of(scope)
                ends = Unavailable("the server is going down", code="draining", retry_after=5)
                await errors.response(ends, request_id, dialect.error)(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - the last place before the socket
            if isinstance(error, RequestError) and not isinstance(error, NotAuthenticated | NotPermitted):
                self._metrics.rejected("invalid_request")
            found = errors.first(error)
            self._metrics.errors.told(errors.code(found), errors.status(found))
            if started:
                errors.told(error, request_id)
            else:
                dialect = self._dialect_of(scope)
                await errors.response(error, request_id, dialect.error)(scope, receive, sending)


def direct(routes: Mapping[str, ASGIApp], others: ASGIApp, metrics: Metrics, dialect_of: DialectOf) -> ASGIApp:
    """Calls what is posted to a dialect, by its path, past the router and the layers around it that have nothing to do
    there. `others` serves all else."""
    posted = ByPath({path: ErrorMiddleware(route, metrics, dialect_of) for path, route in routes.items()})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        posts, path = scope.get("method") == "POST", scope.get("path", "")
        found = posted(path) if posts else None
        if found is None and path != (tidied := paths.tidy(path)):
            scope = {**scope, "path": tidied, "raw_path": tidied.encode()}
            found = posted(tidied) if posts else None
        if found is not None and found[2]:
            scope = {**scope, "path_params": found[2]}
        await (others if found is None else found[0])(scope, receive, send)

    return app


def _no_route(
    request: Request, error: Exception, dialect: Dialect, known: Iterable[str], allowed: Callable[[], list[str]]
) -> Response:
    """404 and 405 of the router, and what a route of the `known` ones takes, where that is asked (RFC 9110, 9.3.7).
    `allowed` says which methods the path has."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers: Mapping[str, str] = (error.headers or {}) if isinstance(error, HTTPException) else {}
    if status == 405:
        # The router asks the first route of the path alone, and several may have it.
        headers = {"Allow": ", ".join(allowed())}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": headers["Allow"] + ", OPTIONS"})
        refused = errors.WrongMethod("this route does not take this method", code="method_not_allowed")
    elif status == 404:
        refused = NotFound(paths.hint(request.url.path, known), code="route_not_found")
    else:
        refused = RequestError("the request cannot be answered", code="bad_request")
    response = errors.response(refused, request.state.request_id, dialect.error)
    response.headers.update(headers)
    return response


PAGES = (
    "/v1/models",
    "/v1/models/{id}",
    "/v1beta/models",
    "/v1beta/models/{id}",
    "/v1/strategies",
    "/v1/traces",
    "/v1/traces/{id}",
    "/v1/requests",
    "/v1/requests/{id}/events",
    "/v1/usage",
    "/v1/usage/requests",
    "/v1/usage/{id}",
    "/v1/receipts/key",
    "/v1/receipts/{id}",
    "/v1/organization/usage/completions",
    "/v1/organization/costs",
    "/v1/limits",
    "/v1/keys",
    "/v1/keys/{id}",
    "/v1/keys/{id}/rotate",
    "/v1/reload",
    "/v1/responses/{id}",
    "/v1/responses/{id}/cancel",
    "/v1/responses/{id}/input_items",
    "/livez",
    "/readyz",
    "/health",
    "/healthz",
    "/metrics",
    "/metrics/engine",
    "/openapi.json",
    "/docs",
    "/docs/{name}",
)
"""The paths of the pages, which no dialect may have."""


def all_dialects() -> Sequence[Dialect]:
    """Ours and those of installed packages. Raises `WrongSettings` for one whose path is taken, and `BrokenPlugin`."""
    return installed(PAGES)


def plugged_in() -> Sequence[tuple[str, Dialect | PonderError]]:
    """The dialects of installed packages: what each is called, and itself, or why it cannot be had."""
    return list(plugins(PAGES))


def create_app(
    settings: Settings,
    models: Mapping[str, ServedModel],
    *,
    metrics: Metrics | None = None,
    engine_metrics: Callable[[], bytes] | None = None,
    dialects: Sequence[Dialect] | None = None,
    accounts: Sequence[Account] = (),
    ledger: Ledger | None = None,
    tracing: Tracing | None = None,
    keyring: Keyring | None = None,
    stored: StoredKeys | None = None,
    source: Callable[[], Settings] | None = None,
    signer: Signer | None = None,
    seals: SealedThoughts | None = None,
) -> FastAPI:
    """The application over engines that are ready. `engine_metrics` gives the engine's own Prometheus text. `dialects`
    are those it speaks; None is `all_dialects()`, which may raise `WrongSettings`. `accounts` are told of every request
    beside the metrics, and may refuse it; so is the `ledger`, from whose rows the metrics of what was billed come then.
    `keyring` has the keys of the settings and, where they are `stored`, those of the ledger's database. `source` reads
    the configuration again. `signer` signs receipts; None makes none. `seals` seals thoughts for their
    callers; None: with a secret that ends with the application. `tracing` begins a span for each request. The
    application is complete: middleware goes around it, as `Middleware(app)`, not into it by `add_middleware`."""
    metrics = metrics or Metrics()
    keyring = keyring or Keyring(settings.keys, required=settings.require_key)
    registry, guard, live = Registry(), Guard(keyring, metrics), LiveSettings(settings)
    configured = settings.served()
    registry.policies = policies_of(configured)
    warn(configured, registry.policies)
    admission = Admission(
        settings.max_inflight,
        settings.max_queue,
        metrics,
        chains=settings.max_chains,
        keys=max(1, keyring.count),
    )
    told: set[Slots] = set()
    for name, served in models.items():
        if isinstance(served.engine, HasReplicas):
            metrics.replicas(name, served.engine)
        for role, slots in served.slots.items():
            if slots not in told:
                # Those of a model and its adapters are the same.
                metrics.slots(name, role, slots)
                told.add(slots)
    status = Status(
        models,
        registry,
        admission,
        metrics,
        engine_metrics,
        DEFAULT.error_body,
        lister,
        ledger,
        lambda: live.now.list_strategies,
        lambda model: live.now.price_of(model),
    )
    usage = UsageReports(ledger)
    receipts = Receipts(signer, usage)
    thoughts = LoopThoughts(
        settings.loop_thoughts, settings.loop_thought_bytes, settings.loop_thought_timeout, keyring.count
    )

    def counted(keys: int) -> None:
        admission.expect(keys)
        thoughts.expect(keys)

    keyring.told = counted
    keys_page = KeysPage(keyring, stored, list(models), lambda: live.now.limits)
    reload = Reload(
        live,
        keyring,
        stored,
        registry,
        source,
        lambda changed: moved({name: served.engine for name, served in models.items()}, changed),
    )
    account = Accounts([*accounts, metrics if ledger is None else ledger])
    store = None if ledger is None else ResponseStore(ledger)
    idempotency = Idempotency(settings.idempotency, ledger, metrics, lambda: admission.draining)
    kept = KeptResponses(settings.responses, store, idempotency.sealing)
    shared = None
    if ledger is not None and ledger.place.file is None and settings.shared_traces:
        shared = SharedTraces(TraceStore(ledger, settings.traces), idempotency.sealing)
    traces = Traces(settings.traces, settings.trace_bytes, shared)
    running = RunningTable()
    requests = LiveRequests(running, live, metrics)
    responses_page = ResponsesPage(kept, lambda: live.now, metrics)
    dialects = all_dialects() if dialects is None else dialects
    by_path = ByPath({dialect.path: dialect for dialect in dialects})
    seals = seals or passing()
    app = FastAPI(
        title="Ponder", version=release(), openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    pages: list[Page] = []

    def page(
        path: str, scope: KeyScope | None, endpoint: Callable[..., Any], *, method: str = "GET", **more: Any
    ) -> None:
        """A page; `more` is as for FastAPI's routes."""
        asks = google_speaker if path.startswith(GOOGLE_ROOT) else speaker
        needs = None if scope is None else Needs(scope, guard, asks, DEFAULT.key_scheme)
        more = {"responses": DEFAULT.refusals, "operation_id": endpoint.__name__} | more
        pages.append(Page(path, endpoint, method, needs, more))

    described: list[bytes] = []

    async def schema() -> Response:
        # Made when somebody asks for it, once, and in a thread: it takes a tenth of a second.
        if not described:
            document = await asyncio.to_thread(openapi.document, app.version, pages, dialects)
            described.append(json.dumps(document).encode())
        return Response(described[0], media_type="application/json")

    unavailable: dict[int | str, dict[str, Any]] = DEFAULT.refusals | {
        503: {"model": Health, "description": "The same, beside the error"}
    }
    text: dict[str, Any] = {"response_class": PlainTextResponse}
    either: dict[str, Any] = {"response_model": Models | MessageModels | GeminiModels}
    page("/v1/models", "infer", status.models, response_model_exclude_unset=True, **either)
    page("/v1/models/{id:path}", "infer", status.model, response_model=Model | MessageModel | GeminiModel)
    google = GeminiModelPages(status.ids)
    page("/v1beta/models", "infer", google.gemini_models, response_model_exclude_unset=True, responses=GOOGLE.refusals)
    page("/v1beta/models/{id:path}", "infer", google.gemini_model, responses=GOOGLE.refusals)
    page("/v1/models/{id:path}", "infer", status.delete_model, method="DELETE")
    page("/v1/strategies", "infer", status.strategies)
    page("/v1/traces", "trace", TraceList(traces).traces)
    page("/v1/traces/{id}", "trace", traces.one, operation_id="trace", responses=DEFAULT.refusals | TOLD)
    page("/v1/requests", "trace", requests.requests)
    page(
        "/v1/requests/{id}/events",
        "trace",
        requests.events,
        responses=DEFAULT.refusals | EVENTS,
        response_class=EventsShape,
    )
    page("/v1/usage", "usage", usage.usage, response_model=UsagePage)
    page("/v1/usage/requests", "usage", usage.dearest_requests)
    page("/v1/usage/{id}", "usage", usage.usage_of_request)
    page("/v1/receipts/key", "infer", receipts.receipt_keys)
    page("/v1/receipts/{id}", "usage", receipts.receipt, response_model_exclude_none=True)
    page("/v1/organization/usage/completions", "usage", usage.organization_usage)
    page("/v1/organization/costs", "usage", usage.organization_costs)
    page("/v1/limits", "usage", LimitsPage(keyring, ledger, usage).limits)
    page("/v1/keys", "admin", keys_page.api_keys)
    page(
        "/v1/keys",
        "admin",
        keys_page.create_api_key,
        method="POST",
        status_code=201,
        openapi_extra=body_of(KeyWish),
    )
    page("/v1/keys/{id}", "admin", keys_page.api_key)
    page("/v1/keys/{id}", "admin", keys_page.change_api_key, method="POST", openapi_extra=body_of(KeyChange))
    page("/v1/keys/{id}", "admin", keys_page.revoke_api_key, method="DELETE")
    page("/v1/keys/{id}/rotate", "admin", keys_page.rotate_api_key, method="POST", openapi_extra=body_of(Rotation))
    page("/v1/reload", "admin", reload.reload_configuration, method="POST")
    page("/v1/responses/{id}", "infer", responses_page.retrieve_response, responses=DEFAULT.refusals | STREAMED)
    page("/v1/responses/{id}", "infer", responses_page.delete_response, method="DELETE")
    page(
        "/v1/responses/{id}/cancel",
        "infer",
        responses_page.cancel_response,
        method="POST",
        responses=DEFAULT.refusals | GIVEN,
    )
    page("/v1/responses/{id}/input_items", "infer", responses_page.response_input_items)
    page("/livez", None, status.live)
    page("/readyz", None, status.ready)
    page("/health", None, status.ready, operation_id="ready_too")
    page(
        "/healthz",
        "admin",
        status.health,
        response_model=Health,
        responses=unavailable,
        response_model_exclude_unset=True,
    )
    page("/metrics", "metrics", status.metrics, **text)
    page("/metrics/engine", "metrics", status.metrics_of_engine, **text, include_in_schema=False)
    page("/openapi.json", "infer", schema, include_in_schema=False)
    if settings.has_docs:
        page("/docs", None, docs_page.page, include_in_schema=False)
        page("/docs/{name}", None, docs_page.asset, include_in_schema=False)
    spoken = {
        dialect.path: AuthenticatedRoute(
            Completions(
                live,
                models,
                registry,
                admission,
                account,
                metrics,
                traces,
                thoughts,
                receipts,
                dialect,
                idempotency,
                seals,
                kept,
                running,
            ),
            "infer",
            dialect,
            guard,
        )
        for dialect in dialects
    }

    def dialect_of(scope: Scope) -> Dialect:
        found = by_path(scope["path"])
        if found is not None:
            return found[0]
        return GOOGLE if scope["path"].startswith(GOOGLE_ROOT) else speaker(Headers(scope=scope))

    async def no_route(request: Request, error: Exception) -> Response:
        def allowed() -> list[str]:
            if by_path(request.url.path) is not None:
                # It is no name of a model or a response, which stand in such places, too.
                return ["POST"]
            routes = [one for one in app.router.routes if isinstance(one, Route)]
            here = [one for one in routes if one.matches(request.scope)[0] is not Match.NONE]
            return sorted({method for one in here for method in one.methods or ()})

        response = _no_route(request, error, dialect_of(request.scope), [*spoken, *PAGES], allowed)
        if response.status_code >= 400:
            codes = {404: "route_not_found", 405: "method_not_allowed"}
            metrics.errors.told(codes.get(response.status_code, "bad_request"), response.status_code)
        return response

    app.router.routes[:] = [
        *pages,
        *(Route(path, route, methods=["POST"], name=path) for path, route in spoken.items()),
    ]
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(RequestValidationError, no_route)
    app.add_middleware(ErrorMiddleware, metrics=metrics, dialect_of=dialect_of)
    stack = direct(spoken, app.build_middleware_stack(), metrics, dialect_of)
    stack = Traced(stack, tracing, spoken) if tracing is not None else stack
    app.middleware_stack = CrossOrigin(stack, settings.cors_origins) if settings.cors_origins else stack
    app.state.handle = ServerHandle(admission, metrics, traces, settings.drain_timeout, keyring, reload, kept, status)
    return app
