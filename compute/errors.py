"""Everything that can go wrong, as one tree.

::

    PonderError
    ├── RequestError            the caller's to mend; `param` and `code` say where and what
    │   ├── NotAuthenticated    no key, or an unknown one
    │   ├── NotPermitted        the key's scopes or limits do not allow it
    │   └── NotFound            no such model, route or object
    ├── NotNow                  try again after `retry_after` seconds
    │   ├── TooBusy             the server or the key has too much in hand
    │   │   └── UsedUp          a limit of the key is; the same request may not succeed for long
    │   └── Unavailable         the engine is away, or the server is going down
    ├── DeadlinePassed          time was up and there was no candidate at all
    ├── EngineError             the model failed in the middle of a call
    │   └── Lost                the end of one chain was not seen; the same request may succeed
    ├── Exhausted               the budget has no tokens for what a strategy asks (ends a run, never a request)
    │   ├── Unaffordable        the cost limit does not pay for a judgement; the fallback judges
    │   └── OutOfQuota          the quota of the key has none for one chain
    └── NoVerdict               untrusted work had no result; the caller continues without one

The table from these classes to HTTP statuses is `server/errors.py`. Messages name the thing and the numbers and never
quote what a request contained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast


class PonderError(Exception):
    """The root: catch this to catch everything of ours."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestError(PonderError):
    """The request is at fault. `param` is the dotted path of the field, `code` a stable string for programs."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class NotAuthenticated(RequestError):
    """No API key, or one this server does not know."""


class NotPermitted(RequestError):
    """A known key that may not do this."""


class NotFound(RequestError):
    """No such model, route or object."""


class NotNow(PonderError):
    """Right, but not at this moment: the same request may succeed after `retry_after` seconds."""

    def __init__(
        self, message: str, *, code: str, retry_after: float = 1.0, headers: Mapping[str, str] | None = None
    ) -> None:
        """`headers`: what the answer says besides, in HTTP's words."""
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
        self.headers = headers or {}


class TooBusy(NotNow):
    """The server, or this key, has too much in hand."""


class UsedUp(TooBusy):
    """A limit of this key is used up: it takes hours or days until the same request may succeed, so it is not to be
    sent again by itself."""


class Unavailable(NotNow):
    """The engine is away or the server is draining."""


class DeadlinePassed(PonderError):
    """Time was up before there was anything to answer with."""


class EngineError(PonderError):
    """The model failed in the middle of a call. The message is for the log, not for the caller."""


class Lost(EngineError):
    """The model went away in the middle of a chain, so nobody knows how that would have ended. Other chains go on; with
    none left, the same request may succeed when it is sent again."""


class Exhausted(PonderError):
    """The budget cannot pay for what a strategy asks: the run ends here and answers with its best so far."""


class Unaffordable(Exhausted):
    """The cost limit does not pay for what a reward model would read."""


class OutOfQuota(Exhausted):
    """The quota of the API key has no tokens for one chain: the others go on with what they have."""


class NoVerdict(PonderError):
    """A check in the worker pool came to nothing. `reason` says why: it cannot be told (no expression, a faulty schema,
    out of memory) · it used up the processor time it may take · its deadline passed, waiting or at work · its worker
    was killed from outside. The first two would come again, whatever else the machine does."""

    def __init__(self, message: str, reason: Literal["unclear", "overran", "late", "lost"]) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def lasting(self) -> bool:
        """Asking again would come to the same."""
        return self.reason in ("unclear", "overran")


def first(error: BaseException) -> BaseException:
    """The error a task group has wrapped: the first that was raised."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
