"""The table from error class to HTTP status, and what a caller is told of an error; a dialect gives that its shape.

What a caller reads is the message of a `RequestError` or `NotNow`, which never quotes a request. Everything else is our
fault: the caller gets an opaque id and the log gets the kind of the error and the places it went through, never its
message, which may hold anything.
"""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable

from starlette.responses import Response

from ponder.compute.errors import (
    DeadlinePassed,
    EngineError,
    Lost,
    NotAuthenticated,
    NotFound,
    NotNow,
    NotPermitted,
    PonderError,
    RequestError,
    TooBusy,
    Unavailable,
    UsedUp,
    first,
)
from ponder.server.answers import Failure, Usage

log = logging.getLogger("ponder.server")

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


class KeyReused(RequestError):
    """An `Idempotency-Key` came before, with another body."""


class AlreadyRun(RequestError):
    """The request of this `Idempotency-Key` is over and billed, and there is no answer to give. Asking again tells the
    same."""


class Unreadable(RequestError):
    """What is kept of a response cannot be opened. The server's fault, told as it is."""


class StillRuns(NotNow):
    """The request of this `Idempotency-Key` runs yet."""


STATUS: dict[type[BaseException], int] = {
    NotAuthenticated: 401,
    NotPermitted: 403,
    NotFound: 404,
    WrongMethod: 405,
    TooSlow: 408,
    TooLarge: 413,
    AlreadyRun: 409,
    StillRuns: 409,
    WrongMedia: 415,
    KeyReused: 422,
    Unreadable: 500,
    RequestError: 400,
    TooBusy: 429,
    Unavailable: 503,
    NotNow: 503,
    DeadlinePassed: 504,
    EngineError: 500,
    Lost: 503,
}
"""Class -> HTTP status. The nearest class in an error's family counts."""


def status(error: BaseException) -> int:
    """HTTP status of an error."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def failure(error: BaseException, request_id: str, usage: Usage | None = None) -> Failure:
    """What a caller may know of an error. `usage`: what the request has used already; trying again would cost that
    again, so no client should do it by itself."""
    message, field, code = f"the server failed; its log knows this as {request_id}", None, "internal_error"
    match error:
        case RequestError():
            message, field, code = error.message, error.param, error.code
        case NotNow():
            message, code = error.message, error.code
        case DeadlinePassed():
            message, code = error.message, "deadline_passed"
        case Lost():
            billed = "" if usage is None else ", and what was made until then is billed"
            message, code = f"the model went away before it had answered{billed}: send the request again", "engine_lost"
        case EngineError():
            message, code = f"the model failed; the server's log knows this as {request_id}", "engine_error"
        case _:
            pass
    again = usage is None and not isinstance(error, TooSlow | AlreadyRun | Unreadable | UsedUp)
    return Failure(status(error), code, message, field, isinstance(error, NotAuthenticated), again, usage)


def code(error: BaseException) -> str:
    """The stable word for an error."""
    return failure(error, "").code


def response(
    error: BaseException, request_id: str, write: Callable[[Failure], Response], usage: Usage | None = None
) -> Response:
    """The answer to a request that failed, as a dialect writes it; logged, too, where the fault is ours."""
    error = first(error)
    told(error, request_id)
    answer = write(failure(error, request_id, usage))
    if isinstance(error, NotNow | Lost) and not isinstance(error, UsedUp):
        seconds = error.retry_after if isinstance(error, NotNow) else 1.0
        answer.headers["retry-after"] = str(min(LONGEST_RETRY, max(1, math.ceil(seconds))))
    if isinstance(error, NotNow):
        answer.headers.update(error.headers)
    if isinstance(error, TooLarge | TooSlow):
        answer.headers["connection"] = "close"
    return answer


def told(error: BaseException, request_id: str) -> None:
    """Tells the log about an error that is ours: its kind and the way it came. No message of it, no value."""
    if isinstance(error, EngineError) or status(error) == 500 or not isinstance(error, PonderError):
        log.error("%s: %s", request_id, way(error))


def way(error: BaseException) -> str:
    """An error in words without its message: its class and, innermost first, the lines it came through."""
    kinds, cause = type(error).__name__, error.__cause__ or error.__context__
    while cause is not None and kinds.count(" after ") < 3:
        kinds, cause = f"{kinds} after {type(cause).__name__}", cause.__cause__ or cause.__context__
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    lines = " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in reversed(frames))
    return f"{kinds} at {lines}"
