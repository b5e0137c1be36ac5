"""The application: its routes, who may use each, and the middleware around all of them.

There is one table of routes, and a route cannot stand in it without saying which scope it takes (`None`: open to
all, for health probes). So a route is closed unless somebody decided otherwise.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ponder.compute.account import Account, Accounts
from ponder.compute.errors import NotAuthenticated, NotFound, NotPermitted, RequestError
from ponder.metering.metrics import Metrics
from ponder.server import errors
from ponder.server.admission import Admission
from ponder.server.completions import Completions
from ponder.server.dialect import Dialect
from ponder.server.dialects import DEFAULT, installed
from ponder.server.keys import ANYONE, Key, Keyring
from ponder.server.registry import Registry, ServedModel
from ponder.server.settings import Scope as KeyScope
from ponder.server.settings import Settings
from ponder.server.status import Status, answer
from ponder.server.traces import Traces

__all__ = ["ServedModel", "ServerHandle", "all_dialects", "create_app"]

Endpoint = Callable[[Request, Key], Awaitable[ASGIApp]]
"""Takes a request and the key it came with, and returns the ASGI application that answers."""


@dataclass(frozen=True, slots=True)
class ServerHandle:
    """Controls an application that is being served: whether it is ready, and its drain. It is `app.state.handle`."""

    admission: Admission
    metrics: Metrics
    traces: Traces
    drain_timeout: float

    async def drain(self) -> None:
        """Going down: not ready and nobody new at once; those inside finish within the drain timeout, or answer with
        their best. Returns when all have left."""
        await self.admission.drain(self.drain_timeout)


class AuthenticatedRoute:
    """A route: finds the key, checks its scope, and sends what the endpoint answers."""

    def __init__(
        self, endpoint: Endpoint, scope: KeyScope | None, dialect: Dialect, keyring: Keyring, metrics: Metrics
    ) -> None:
        self.scope: KeyScope | None = scope
        self._dialect = dialect
        self._endpoint, self._keyring, self._metrics = endpoint, keyring, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        key = ANYONE
        if self.scope is not None:
            try:
                key = self._keyring.who(self._dialect.key(request.headers), self._dialect.key_hint)
                if not key.may(self.scope):
                    raise NotPermitted(f"this API key has not the scope {self.scope}", code="missing_scope")
            except (NotAuthenticated, NotPermitted):
                self._metrics.rejected("not_permitted")
                raise
        response = await self._endpoint(request, key)
        await response(scope, receive, send)


class ErrorMiddleware:
    """The outermost middleware: gives each request an id, and writes every error in the shape of its dialect."""

    def __init__(self, app: ASGIApp, metrics: Metrics, dialect_of: Callable[[str], Dialect]) -> None:
        """`dialect_of` returns the dialect that writes the errors of a path."""
        self._app, self._metrics, self._dialect_of = app, metrics, dialect_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = "req_" + secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = request_id
        header = (b"x-request-id", request_id.encode())
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            self._metrics.disconnected("sending_body")
        except Exception as error:  # noqa: BLE001 - the last place before the socket
            if isinstance(error, RequestError) and not isinstance(error, NotAuthenticated | NotPermitted):
                self._metrics.rejected("invalid_request")
            if started:
                errors.told(error, request_id)
            else:
                dialect = self._dialect_of(scope["path"])
                await errors.response(error, request_id, dialect.error)(scope, receive, sending)


def direct(
    routes: Mapping[tuple[str, str], ASGIApp],
    others: ASGIApp,
    metrics: Metrics,
    dialect_of: Callable[[str], Dialect],
) -> ASGIApp:
    """Calls routes without parameters, by method and path, past the router and the layers around it that have nothing
    to do there. `others` serves all else."""
    table = {key: ErrorMiddleware(route, metrics, dialect_of) for key, route in routes.items() if "{" not in key[1]}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        key = scope.get("method", ""), scope.get("path", "")
        await table.get(key, others)(scope, receive, send)

    return app


def _no_route(request: Request, error: Exception, dialect: Dialect) -> Response:
    """404 and 405 of the router."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        refused = errors.WrongMethod("this route does not take this method", code="method_not_allowed")
    elif status == 404:
        refused = NotFound("there is no such route", code="route_not_found")
    else:
        refused = RequestError("the request cannot be answered", code="bad_request")
    response = errors.response(refused, request.state.request_id, dialect.error)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


PROBES = ("/livez", "/readyz", "/healthz", "/metrics")
DESCRIBED = ("/v1/models", "/v1/models/{id}", "/v1/strategies", "/v1/traces/{id}", *PROBES)
"""The pages that are no dialect's and stand in `/openapi.json`."""
PAGES = (*DESCRIBED, "/metrics/engine", "/openapi.json")
"""The paths of all of them."""


def all_dialects() -> Sequence[Dialect]:
    """Ours and those of installed packages. Raises `WrongSettings` for one whose path is taken."""
    return installed(PAGES)


def create_app(
    settings: Settings,
    models: Mapping[str, ServedModel],
    *,
    metrics: Metrics | None = None,
    engine_metrics: Callable[[], bytes] | None = None,
    dialects: Sequence[Dialect] | None = None,
    accounts: Sequence[Account] = (),
) -> FastAPI:
    """The application over engines that are ready. `engine_metrics` gives the engine's own Prometheus text. `dialects`
    are those it speaks; None is `all_dialects()`, which may raise `WrongSettings`. `accounts` are told of every request
    beside the metrics, and may refuse it. It is complete: middleware goes around it, as `Middleware(app)`, not into it
    by `add_middleware`."""
    metrics = metrics or Metrics()
    keyring, registry = Keyring(settings.keys), Registry()
    admission = Admission(settings.max_inflight, settings.max_queue, metrics)
    status = Status(models, registry, admission, metrics, engine_metrics, DEFAULT.error_body)
    traces = Traces(settings.traces, settings.trace_bytes)
    account = Accounts([*accounts, metrics])
    dialects = all_dialects() if dialects is None else dialects
    by_path = {dialect.path: dialect for dialect in dialects}
    app = FastAPI(title="Ponder", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)

    async def schema(request: Request, key: Key) -> Response:
        return answer(openapi(app.version, dialects))

    table: list[tuple[str, str, KeyScope | None, Endpoint]] = [
        ("GET", "/v1/models", "infer", status.models),
        ("GET", "/v1/models/{id:path}", "infer", status.model),
        ("GET", "/v1/strategies", "infer", status.strategies),
        ("GET", "/v1/traces/{id}", "trace", traces.one),
        ("GET", "/livez", None, status.live),
        ("GET", "/readyz", None, status.ready),
        ("GET", "/healthz", "admin", status.health),
        ("GET", "/metrics", "usage", status.metrics),
        ("GET", "/metrics/engine", "usage", status.metrics_of_engine),
        ("GET", "/openapi.json", "infer", schema),
    ]
    for dialect in dialects:
        endpoint = Completions(settings, models, registry, admission, account, metrics, traces, dialect)
        table.append(("POST", dialect.path, "infer", endpoint))

    def dialect_of(path: str) -> Dialect:
        return by_path.get(path, DEFAULT)

    async def no_route(request: Request, error: Exception) -> Response:
        return _no_route(request, error, dialect_of(request.url.path))

    guarded = {
        (method, path): AuthenticatedRoute(endpoint, scope, dialect_of(path), keyring, metrics)
        for method, path, scope, endpoint in table
    }
    app.router.routes[:] = [
        Route(path, route, methods=[method], name=path) for (method, path), route in guarded.items()
    ]
    app.add_exception_handler(HTTPException, no_route)
    app.add_middleware(ErrorMiddleware, metrics=metrics, dialect_of=dialect_of)
    app.middleware_stack = direct(guarded, app.build_middleware_stack(), metrics, dialect_of)
    app.state.handle = ServerHandle(admission, metrics, traces, settings.drain_timeout)
    return app


def openapi(version: str, dialects: Sequence[Dialect]) -> dict[str, Any]:
    """What a generator of clients needs: the routes, and the schemas of the dialects' requests."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for dialect in dialects:
        operation, named = dialect.operation()
        paths[dialect.path] = {"post": operation}
        schemas |= named
    for path in DESCRIBED:
        paths[path] = {"get": {"responses": DEFAULT.responses}}
    for path in ("/v1/models/{id}", "/v1/traces/{id}"):
        paths[path]["get"]["parameters"] = [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Ponder", "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }
