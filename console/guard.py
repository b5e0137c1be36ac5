"""What stands before every page: by which names it is asked, who may change anything, who is signed in, and what a
browser may load.

A page of NiceGUI is a few inline scripts, which each get the nonce of their response here, and templates that Vue
compiles in the browser, which is why evaluating is allowed. `docs/console.md` goes through the policy word by word.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ponder.console.sessions import COOKIE, Session, Sessions

SOCKET = "/_nicegui_ws"
OPEN = ("/login", "/console.css", "/favicon.ico", "/_nicegui/")
"""Paths that are for anybody: signing in, and files that are the same for all."""
EVENT = '42["event"'
"""How a message of socket.io begins that tells of something a person did."""
_SCRIPT = re.compile(rb"<script(?=[\s>])")


def policy(nonce: str | None) -> str:
    """The content security policy of a page; without a nonce, of one that runs no script."""
    scripts = f"'self' 'nonce-{nonce}' 'unsafe-eval'" if nonce else "'none'"
    rules = {
        "default-src": "'none'",
        "script-src": scripts,
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "font-src": "'self'",
        "connect-src": "'self'" if nonce else "'none'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "object-src": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


def is_address(host: str) -> bool:
    """A host that is an address or this machine: a name of somebody else's cannot be made to mean it."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


class Guard:
    """The middleware. `names` are the hosts it may be asked by, beside addresses and localhost."""

    def __init__(self, app: ASGIApp, sessions: Sessions, names: Collection[str]) -> None:
        self._app, self._sessions, self._names = app, sessions, frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        session = self._sessions.of(cookie_parser(headers.get("cookie", "")).get(COOKIE))
        refusal = self._refusal(scope, headers, session)
        if scope["type"] == "websocket":
            if refusal is not None or session is None:
                await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
                return
            await self._app(scope, self._noticing(session, receive), send)
            return
        if refusal is None:
            if session is not None:
                self._sessions.touch(session)
                scope.setdefault("state", {})["session"] = session
            await _Dressed(self._app)(scope, receive, send)
        else:
            await _Dressed(refusal)(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers, session: Session | None) -> Response | None:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if not is_address(host) and host not in self._names:
            return PlainTextResponse(
                f"this console is not asked by the name {host[:80]!r}: start it with --name for one more", 421
            )
        path: str = scope["path"]
        if not self._own(scope, headers):
            return PlainTextResponse("this is for pages of the console itself", 403)
        if path.startswith(SOCKET):
            return None if scope["type"] == "websocket" else PlainTextResponse("a websocket alone", 404)
        if session is None and not path.startswith(OPEN):
            return RedirectResponse("/login", 303)
        return None

    @staticmethod
    def _own(scope: Scope, headers: Headers) -> bool:
        """A page of the console's own sent it, or it changes nothing."""
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            return True
        origin = headers.get("origin", "")
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or parts.netloc.lower() != headers.get("host", "").lower():
            return False
        return headers.get("sec-fetch-site", "same-origin") == "same-origin"

    def _noticing(self, session: Session, receive: Receive) -> Receive:
        """`receive` of a websocket, which notices what a person does. What a session that is over sends is dropped."""

        async def noticed() -> Message:
            while True:
                message = await receive()
                if message["type"] != "websocket.receive" or not (message.get("text") or "").startswith(EVENT):
                    return message
                if not session.over and self._sessions.of(session.id) is session:
                    self._sessions.touch(session)
                    return message

        return noticed


class _Dressed:
    """An app whose answers have the headers, and whose pages have nonces. It is below compression."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        nonce = secrets.token_urlsafe(18)
        first: Message | None = None
        whole = bytearray()

        async def dressed(message: Message) -> None:
            nonlocal first
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                page = headers.get("x-nicegui-content") == "page"
                for name, value in HEADERS.items():
                    headers[name] = value
                headers["content-security-policy"] = policy(nonce if page else None)
                if page:
                    first = message
                    return
            elif first is not None:
                whole.extend(message.get("body", b""))
                if message.get("more_body"):
                    return
                body = _SCRIPT.sub(b'<script nonce="' + nonce.encode() + b'"', bytes(whole))
                MutableHeaders(raw=first["headers"])["content-length"] = str(len(body))
                await send(first)
                await send({"type": "http.response.body", "body": body})
                return
            await send(message)

        await self._app(scope, receive, dressed)
