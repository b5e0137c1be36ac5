"""Signing in and out: a page without a script, whose form is checked against the server before there is a session."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ponder.clients.answers import AskError, Refused
from ponder.console.api import Api, words
from ponder.console.sessions import COOKIE, Full, Session, Sessions

LONGEST = 4096
"""Bytes of the form."""
_KEY = re.compile(r"[\x21-\x7e]*")
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Sign in · Ponder console</title>
<link rel="icon" href="/favicon.ico">
<link rel="stylesheet" href="/console.css">
</head>
<body class="login">
<main>
<h1>Ponder <span>console</span></h1>
<form method="post" action="/login">
<label for="key">API key for {address}</label>
<input id="key" name="key" type="password" autocomplete="off" spellcheck="false" autofocus{described}>
{message}
<button>Sign in</button>
</form>
<p class="hint">The key stays in the memory of the console. Leave it empty where the server needs none.</p>
</main>
</body>
</html>
"""


def routes(sessions: Sessions, server: str, connect: Callable[[str | None], Api]) -> list[Route]:
    """`/login` and `/logout`. `server` is what the page calls the server, `connect` makes the way to it with a key."""

    def page(message: str = "", status: int = 200) -> Response:
        told = f'<p id="problem" class="problem" role="alert">{escape(message)}</p>' if message else ""
        described = ' aria-invalid="true" aria-describedby="problem"' if message else ""
        text = _PAGE.format(address=escape(server), message=told, described=described)
        return HTMLResponse(text, status, {"cache-control": "no-store"})

    async def show(request: Request) -> Response:
        return page()

    async def enter(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LONGEST:
                return page("That is too long for a key.", 413)
        key = parse_qs(bytes(body).decode("latin-1")).get("key", [""])[0].strip()
        if not _KEY.fullmatch(key):
            return page("An API key has visible ASCII characters alone.", 400)
        api = connect(key or None)
        try:
            await api.models()
            session = await sessions.begin(api, f"key …{key[-4:]}" if len(key) >= 12 else "key" if key else "no key")
        except (AskError, Full) as error:
            await api.close()
            if isinstance(error, AskError):
                return page(words(error), error.status if isinstance(error, Refused) else 502)
            return page(str(error), 503)
        before: Session | None = getattr(request.state, "session", None)
        if before is not None:
            await sessions.end(before)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE, session.id, path="/", httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        return response

    async def leave(request: Request) -> Response:
        session: Session | None = getattr(request.state, "session", None)
        if session is not None:
            await sessions.end(session)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    return [
        Route("/login", show, methods=["GET"]),
        Route("/login", enter, methods=["POST"]),
        Route("/logout", leave, methods=["POST"]),
    ]
