"""A page of the server: a route that FastAPI serves and describes, made when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ponder.server.auth.access import Needs

TOLD = ("responses", "openapi_extra")
"""What the description alone reads."""


class Page(Route):
    """A path, its method, and the function that answers there. What FastAPI makes of the function's signature takes
    milliseconds, and most pages of most servers are never asked for."""

    def __init__(
        self, path: str, endpoint: Callable[..., Any], method: str, needs: Needs | None, options: Mapping[str, Any]
    ) -> None:
        """`needs`: the keys it is for; None: it is open. `options` are as for FastAPI's routes. HEAD answers as GET."""
        super().__init__(path, endpoint, methods=[method])
        self.needs = needs
        self.app = self._answer
        self._method, self._options = method, options

    @property
    def is_made(self) -> bool:
        """Whoever asks for it does not wait for that."""
        return "_served" in vars(self)

    def make(self) -> None:
        """Makes it now, before anybody is answered who would wait for it: the first takes a tenth of a second."""
        _ = self._served

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._served.app(scope, receive, send)

    @cached_property
    def _served(self) -> APIRoute:
        # FastAPI builds a validator for each status an answer may have, and never uses it.
        return self._made({name: value for name, value in self._options.items() if name not in TOLD})

    def described(self) -> APIRoute:
        """The same for `/openapi.json`: with what is only told of it."""
        return self._made(self._options)

    def _made(self, options: Mapping[str, Any]) -> APIRoute:
        needs = [] if self.needs is None else [Depends(self.needs)]
        return APIRoute(self.path, self.endpoint, methods=[self._method], dependencies=needs, **options)
