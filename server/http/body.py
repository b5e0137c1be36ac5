"""Reads a request's body with a bound on its size and its time, whether its length was announced or not."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from ponder.server.errors import TooLarge, TooSlow, WrongMedia
from ponder.server.settings import Limits


async def read(request: Request, limits: Limits, *, most: int | None = None) -> bytes:
    """The whole body, of `most` bytes at most where that is given, else of `limits.body_bytes`. Raises `TooLarge`,
    `TooSlow`, `WrongMedia`, and `ClientDisconnect` when the caller goes."""
    most = limits.body_bytes if most is None else most
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise WrongMedia("the body must be sent as Content-Type: application/json", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise WrongMedia("the body must be sent without Content-Encoding", code="unsupported_encoding")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:12]) > most:
        raise _too_large(limits)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part: bytes = message.get("body", b"")
                size += len(part)
                if size > most:
                    raise _too_large(limits)
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {limits.body_timeout:g} seconds", code="body_timeout") from None


def _too_large(limits: Limits) -> TooLarge:
    return TooLarge(f"the body is larger than the {limits.body_bytes} bytes allowed", code="body_too_large")
