"""What is answered before there is an application to ask: errors in OpenAI's shape, as bytes and as ASGI."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

REASONS = {
    400: b"Bad Request",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


def new_id() -> str:
    """Of a request."""
    return "req_" + secrets.token_hex(12)


def refusal(status: int, code: str, message: str, request_id: str) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Body and headers. The connection ends with it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        (b"request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    return body, headers + ([(b"retry-after", b"1")] if status == 503 else [])


def refuses(status: int, code: str, message: str) -> Callable[..., Awaitable[None]]:
    """An ASGI application that only says no."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request_id = scope["state"]["request_id"] = new_id()
        body, headers = refusal(status, code, message, request_id)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def as_bytes(status: int, code: str, message: str, request_id: str) -> bytes:
    """The same as it goes over the wire."""
    body, headers = refusal(status, code, message, request_id)
    head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, REASONS[status], head, body)
