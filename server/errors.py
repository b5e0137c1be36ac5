"""The table from error class to HTTP answer, and the one shape every refusal has.

What a caller reads is the message of a `RequestError` or `NotNow`, which never quotes a request. Everything else is our
fault: the caller gets an opaque id and the log gets the kind of the error and the places it went through, never its
message, which may hold anything.
"""

from __future__ import annotations

import json
import logging
import math
import traceback
from typing import Any

from starlette.responses import Response

from ponder.compute.errors import (
    DeadlinePassed,
    EngineError,
    NotAuthenticated,
    NotFound,
    NotNow,
    NotPermitted,
    PonderError,
    RequestError,
    TooBusy,
    Unavailable,
    first,
)

log = logging.getLogger("ponder.door")

LONGEST_RETRY = 120
"""Seconds of `Retry-After` at most."""


class TooLarge(RequestError):
    """The body has more bytes than allowed."""


class TooSlow(RequestError):
    """The body did not arrive in time."""


class WrongMethod(RequestError):
    """The route exists, not for this method."""


class WrongMedia(RequestError):
    """The body is not sent as JSON."""


TABLE: dict[type[BaseException], tuple[int, str]] = {
    NotAuthenticated: (401, "authentication_error"),
    NotPermitted: (403, "permission_error"),
    NotFound: (404, "not_found_error"),
    WrongMethod: (405, "invalid_request_error"),
    TooSlow: (408, "invalid_request_error"),
    TooLarge: (413, "invalid_request_error"),
    WrongMedia: (415, "invalid_request_error"),
    RequestError: (400, "invalid_request_error"),
    TooBusy: (429, "rate_limit_error"),
    Unavailable: (503, "service_unavailable_error"),
    NotNow: (503, "service_unavailable_error"),
    DeadlinePassed: (504, "timeout_error"),
    EngineError: (500, "server_error"),
}
"""Class -> (HTTP status, `error.type`). The nearest class in an error's family counts."""


def status(error: BaseException) -> tuple[int, str]:
    """(HTTP status, `error.type`) of an error."""
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), (500, "server_error"))


def body(error: BaseException, request_id: str) -> dict[str, Any]:
    """The one shape: `{"error": {"message", "type", "param", "code"}}`."""
    message, param, code = f"the server failed; its log knows this as {request_id}", None, "internal_error"
    match error:
        case RequestError():
            message, param, code = error.message, error.param, error.code
        case NotNow():
            message, code = error.message, error.code
        case DeadlinePassed():
            message, code = error.message, "deadline_passed"
        case EngineError():
            message, code = f"the model failed; the server's log knows this as {request_id}", "engine_error"
        case _:
            pass
    return {"error": {"message": message, "type": status(error)[1], "param": param, "code": code}}


def response(error: BaseException, request_id: str, *, billed: bool = False) -> Response:
    """The answer to a request that failed, also told to the log where the fault is ours.

    `billed`: tokens were made for it already, so that trying again would only cost again.
    """
    error = first(error)
    told(error, request_id)
    number, _ = status(error)
    headers: dict[str, str] = {}
    if isinstance(error, NotNow):
        headers["retry-after"] = str(min(LONGEST_RETRY, max(1, math.ceil(error.retry_after))))
    if isinstance(error, NotAuthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, TooLarge | TooSlow):
        headers["connection"] = "close"
    if billed or isinstance(error, TooSlow):
        headers["x-should-retry"] = "false"
    content = json.dumps(body(error, request_id)).encode()
    return Response(content, number, headers, media_type="application/json")


def told(error: BaseException, request_id: str) -> None:
    """Tells the log about an error that is ours: its kind and the way it came. No message of it, no value."""
    if status(error)[0] == 500 or not isinstance(error, PonderError):
        log.error("%s: %s", request_id, way(error))


def way(error: BaseException) -> str:
    """An error in words without its message: its class and, innermost first, the lines it came through."""
    kinds, cause = type(error).__name__, error.__cause__ or error.__context__
    while cause is not None and kinds.count(" after ") < 3:
        kinds, cause = f"{kinds} after {type(cause).__name__}", cause.__cause__ or cause.__context__
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    lines = " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in reversed(frames))
    return f"{kinds} at {lines}"
