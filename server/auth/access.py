"""Who may use a route: the key of a request is found and its scope checked before an endpoint is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

from fastapi import Depends
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ponder.compute.errors import NotAuthenticated, NotPermitted
from ponder.metering.metrics import Metrics
from ponder.server.auth.keys import ANYONE, Key, Keyring
from ponder.server.dialect import Dialect, KeyInQuery
from ponder.server.settings import Scope as KeyScope

Endpoint = Callable[[Request, Key], Awaitable[ASGIApp]]
"""Takes a request and the key it came with, and returns the ASGI application that answers."""


class Guard:
    """Finds the key a dialect's caller presents, and checks its scope."""

    def __init__(self, keyring: Keyring, metrics: Metrics) -> None:
        self._keyring, self._metrics = keyring, metrics

    def key(self, request: Request, scope: KeyScope, dialect: Dialect) -> Key:
        """The caller's key. Raises `NotAuthenticated` and `NotPermitted`, and counts them."""
        presented = dialect.key(request.headers)
        if presented is None and isinstance(dialect, KeyInQuery):
            presented = request.query_params.get(dialect.key_parameter)
        try:
            key = self._keyring.who(presented, dialect.key_hint)
            if not key.may(scope):
                raise NotPermitted(f"this API key has not the scope {scope}", code="missing_scope")
        except (NotAuthenticated, NotPermitted):
            self._metrics.rejected("not_permitted")
            raise
        return key


class Needs(SecurityBase):
    """A dependency of FastAPI's: the route is for keys with this scope. `Caller` is the key then."""

    def __init__(
        self, scope: KeyScope, guard: Guard, speaker: Callable[[Mapping[str, str]], Dialect], scheme: str
    ) -> None:
        """`speaker` tells from a request's headers which dialect reads its key; `scheme` is what `/openapi.json` calls
        the way of sending one."""
        self.scope: KeyScope = scope
        self.model, self.scheme_name = HTTPBearer(), scheme
        self._guard, self._speaker = guard, speaker

    async def __call__(self, request: Request) -> None:
        request.state.key = self._guard.key(request, self.scope, self._speaker(request.headers))


async def _caller(request: Request) -> Key:
    found: Key = request.state.key
    return found


Caller = Annotated[Key, Depends(_caller)]
"""The key of a request, for endpoints of a route that `Needs` a scope."""


class AuthenticatedRoute:
    """The bare route of a dialect: finds the key, checks its scope, and sends what the endpoint answers."""

    def __init__(self, endpoint: Endpoint, scope: KeyScope | None, dialect: Dialect, guard: Guard) -> None:
        self.scope: KeyScope | None = scope
        self._endpoint, self._dialect, self._guard = endpoint, dialect, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        key = ANYONE if self.scope is None else self._guard.key(request, self.scope, self._dialect)
        response = await self._endpoint(request, key)
        await response(scope, receive, send)
