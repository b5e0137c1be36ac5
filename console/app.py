"""The application: NiceGUI's pages behind the guard, served until it is told to end."""

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from nicegui import app as pages_app
from nicegui import ui
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from ponder.console import frame, login
from ponder.console.api import Api
from ponder.console.guard import Guard
from ponder.console.pages import PAGES
from ponder.console.sessions import Sessions

HERE = Path(__file__).parent
BRAND = {
    "primary": "#2b5fb3",
    "secondary": "#5a6577",
    "accent": "#7a4fb5",
    "positive": "#1f7a4d",
    "negative": "#b3261e",
    "warning": "#8a5a00",
    "info": "#2b5fb3",
    "dark": "#1a1e26",
    "dark-page": "#12151b",
}
"""What Quasar's own parts are coloured with; all else is in `console.css`."""
EVERY = 30.0
"""Seconds between two looks at who is idle."""


@dataclass(frozen=True)
class Options:
    """What `ponder console` is told. `idle` is in seconds."""

    server: str
    host: str = "127.0.0.1"
    port: int = 8080
    names: Collection[str] = ()
    sessions: int = 64
    idle: float = 3600.0


def application(options: Options) -> ASGIApp:
    """NiceGUI has one application in a process, so there is one of these, too."""
    sessions = Sessions(options.sessions, options.idle)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as tasks:
            tidying = tasks.create_task(_tidy(sessions))
            yield
            tidying.cancel()
        await sessions.end_all()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.router.routes.extend(login.routes(sessions, options.server, lambda key: Api(options.server, key)))
    app.router.routes.append(Route("/console.css", _style))
    for page in PAGES:
        frame.register(page, PAGES, sessions)
    # Sockets alone: a request of the polling kind would have to be told from one of another site's form.
    pages_app.config.socket_io_js_transports = ["websocket"]
    # Quasar's bar for requests of a page has no name that a screen reader could say, and pages make no requests.
    pages_app.config.quasar_config |= {"loadingBar": {"skipHijack": True}, "brand": BRAND}
    ui.run_with(
        app,
        title="Ponder console",
        favicon=HERE / "favicon.svg",
        dark=None,
        language="en-US",
        tailwind=False,
        gzip_middleware_factory=None,
        show_welcome_message=False,
    )
    guarded = Guard(app, sessions, {*options.names, options.host})
    # Level 9 takes twice as long on half a megabyte of script, for 4 per cent less.
    return GZipMiddleware(guarded, minimum_size=1024, compresslevel=4)


def _style(_: Request) -> FileResponse:
    return FileResponse(HERE / "console.css")


async def _tidy(sessions: Sessions) -> None:
    while True:
        await asyncio.sleep(EVERY)
        await sessions.tidy()


def serve(options: Options, tell: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; `tell` is given the address when it listens."""

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
            await super().startup(sockets)  # type: ignore[arg-type]
            for one in self.servers:
                host, port = one.sockets[0].getsockname()[:2]
                tell(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    config = uvicorn.Config(
        application(options),
        host=options.host,
        port=options.port,
        log_level="warning",
        ws="websockets-sansio",
        ws_max_size=1 << 20,
        timeout_graceful_shutdown=3,
    )
    Server(config).run()
