"""What Serve's HTTP proxies do beside: an answer has one `x-request-id`, that of the server.

Serve adds an id of its own behind the application's, and nothing that an application says keeps it from that. Ray calls
`middlewares` when a proxy starts, where its environment names it (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`).
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAME = b"x-request-id"


class OneRequestId:
    """Keeps the first id of an answer: the application's where that has one, else Serve's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                ids = [place for place, (name, _) in enumerate(headers) if name.lower() == NAME]
                for place in reversed(ids[1:]):
                    del headers[place]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, sending)


def middlewares() -> list[Middleware]:
    """Called by Ray in each of its proxies."""
    return [Middleware(OneRequestId)]
