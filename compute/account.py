"""The port for accounts of requests: a durable ledger, quotas, prices and metrics are adapters behind it.

An account is called at three points of a request: before anything is generated, when calls to the models end, and
before the last byte of the answer leaves. It is given `Usage`, which adds up. Counts are in tokens.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ponder.compute.errors import Unavailable
from ponder.compute.price import Price
from ponder.compute.quota import Drawing, Quota
from ponder.compute.usage import Usage

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds an account has to settle one request: whoever waits for its answer waits that long at most."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A request that is about to run. Tokens are those of all its answers together."""

    request: str
    """Its id, the same as in the header `x-request-id`. Calls with one id are about one request."""
    owner: str
    """Whose API key it came with."""
    model: str
    strategy: str
    prompt: int
    """Tokens of its prompt, counted once."""
    thinking: int
    """Hidden tokens at most."""
    answer: int
    """Visible tokens at most."""
    timeout: float
    """Seconds the request has: an account that takes longer to answer refuses it."""
    answers: int = 1
    asked: int | None = None
    """Hidden tokens the request asked for, where it said a number."""
    verifier: str | None = None
    """What is to judge its candidates."""
    price: Price | None = None
    """What its tokens cost; None: nothing that is known."""
    max_cost: int | None = None
    """Nano-USD that all of it costs at most, where its limits are that low; None: the limits in tokens say."""
    quota: Quota | None = None
    """The limits of its API key, beyond which it is not begun; None: there are none."""
    whole: bool = False
    """All it may spend is reserved before it begins, for nothing that others do may show in its answer."""
    user: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the caller wrote down to find the request again by, as it was sent."""
    key_id: str = ""
    """Which API key that is, whatever it is called now or later."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request is."""

    usage: Usage
    """Of all its answers, as it stands."""
    open: int
    """Chains that are being written now."""
    samples: int
    """Finished candidates of the answers that have ended."""
    stopped_by: str | None
    """Why an answer ended, of those that have ended the first with a reason of its own."""
    receipt: Callable[[], str | None] = lambda: None
    """Signs what was used. Called when nothing is made any more, it always gives the same; None where there is to be no
    receipt."""


class Bill(Protocol):
    """The account of one request."""

    @property
    def used(self) -> Callable[[Usage], None] | None:
        """Told what a call has used whenever one ends, each time the difference alone; None where nobody wants to know.
        It is called on the path of the tokens, so it must be quick; what it raises is logged. Which answer is given is
        not known yet, so all that was generated counts as hidden. Over a request, `generated`, `prompt_read`,
        `cached`, `verifier`, `verifier_cached` and `chains` add up to those of the settlement."""
        ...

    async def settle(self, usage: Usage, ending: str) -> None:
        """Given the whole usage of the request, before the last byte of its answer is sent; also after a hang-up or an
        error, and with an empty usage where it came to nothing. `ending`: answered, refused, turned_away, deadline,
        failed, disconnected or cancelled.

        It is awaited to its end exactly once. Where the caller hangs up meanwhile it is cancelled and begun again, so
        it must be idempotent. If it raises, or takes longer than `PATIENCE`, that is logged and the answer goes out all
        the same."""
        ...


@runtime_checkable
class Following(Protocol):
    """A bill that follows its request while it runs, so that little is lost with the server."""

    @property
    def every(self) -> int:
        """Tokens that each chain may make between two looks."""
        ...

    def follow(self, progress: Callable[[], Progress]) -> None:
        """The request begins; `progress` may be called at any moment on the event loop until it is settled, and once
        more then."""
        ...

    def look(self) -> None:
        """So much was made since the last time, or more chains are being written than ever before. On the path of the
        tokens, so it must be quick and raise nothing."""
        ...


@runtime_checkable
class Limited(Protocol):
    """A bill that may be of a key with limits."""

    @property
    def drawing(self) -> Drawing | None:
        """What the calls of the request draw from; None where nothing bounds them but its budget."""
        ...

    def headers(self) -> Mapping[str, str]:
        """How the limits stand, for the caller to see."""
        ...


@runtime_checkable
class Revocable(Protocol):
    """A bill of a request that may have to end early: what it has of a limit is about to be given to others."""

    def when_revoked(self, stop: Callable[[], None]) -> None:
        """`stop` ends the request with its best so far; called on the event loop, once, as soon as it must end."""
        ...


class Account(Protocol):
    """Keeps account of requests."""

    async def reserve(self, intent: Intent) -> Bill:
        """Called before anything is generated for a request. Raises `RequestError` or `NotNow` to refuse it: it is not
        begun then, and there is nothing to settle. The same where it is cancelled."""
        ...


class Accounts:
    """Several accounts as one. A request is begun where none refuses it."""

    def __init__(self, accounts: Sequence[Account]) -> None:
        """Asked in this order, settled in the reverse."""
        self._accounts = tuple(accounts)

    async def reserve(self, intent: Intent) -> Bill:
        """A bill of all. Where one refuses or the caller goes, those asked before it are settled with nothing. Raises
        `Unavailable` where one does not answer in the time the request has."""
        if len(self._accounts) == 1:
            return await self._accounts[0].reserve(intent)
        bills: list[Bill] = []
        try:
            async with asyncio.timeout(intent.timeout):
                for account in self._accounts:
                    bills.append(await account.reserve(intent))
        except TimeoutError:
            await _Bills(bills, intent).settle(Usage(), "turned_away")
            raise Unavailable(
                "an account of this server did not answer in the time this request has",
                code="account_unavailable",
                retry_after=5,
            ) from None
        except Exception:
            await _Bills(bills, intent).settle(Usage(), "refused")
            raise
        except asyncio.CancelledError:
            await _Bills(bills, intent).settle(Usage(), "disconnected")
            raise
        return _Bills(bills, intent)


class _Bills:
    """The bills of several accounts, settled one after the other."""

    def __init__(self, bills: Sequence[Bill], intent: Intent) -> None:
        self._open, self._intent = list(bills), intent
        self._told = [used for bill in bills if (used := bill.used) is not None]
        self.used: Callable[[Usage], None] | None = self._use if self._told else None
        self._following = [bill for bill in bills if isinstance(bill, Following)]
        self.every = min((bill.every for bill in self._following), default=sys.maxsize)

    @property
    def drawing(self) -> Drawing | None:
        limited = (bill.drawing for bill in self._open if isinstance(bill, Limited))
        return next((drawing for drawing in limited if drawing is not None), None)

    def headers(self) -> Mapping[str, str]:
        return {
            name: value for bill in self._open if isinstance(bill, Limited) for name, value in bill.headers().items()
        }

    def when_revoked(self, stop: Callable[[], None]) -> None:
        for bill in self._open:
            if isinstance(bill, Revocable):
                bill.when_revoked(stop)

    def _use(self, usage: Usage) -> None:
        for told in self._told:
            try:
                told(usage)
            except Exception as error:  # noqa: BLE001 (anybody's code, on the path of the tokens)
                log.error("%s: an account was told of a call and raised %s", self._intent.request, type(error).__name__)

    def follow(self, progress: Callable[[], Progress]) -> None:
        for bill in self._following:
            bill.follow(progress)

    def look(self) -> None:
        for bill in self._following:
            bill.look()

    async def settle(self, usage: Usage, ending: str) -> None:
        while self._open:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._open[-1].settle(usage, ending)
            except Exception as error:  # noqa: BLE001 (anybody's code; the others are settled all the same)
                log.error("%s: an account could not settle it (%s)", self._intent.request, type(error).__name__)
            self._open.pop()
