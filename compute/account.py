"""The port to whoever keeps account of requests: a durable ledger, quotas, prices, metrics are adapters behind it.

Of each request it is told three times: before anything is generated, while calls to the models end, and before the last
byte of the answer leaves. What it is told is `Usage`, which adds up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ponder.compute.budget import Usage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Intent:
    """A request that is about to be worked on. Tokens are those of all its choices together."""

    request: str
    """Its id: what is told twice under one id is one and the same."""
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


class Bill(Protocol):
    """The account of one request."""

    @property
    def used(self) -> Callable[[Usage], None] | None:
        """Told what a call has used whenever one ends, each time the difference alone; None where nobody wants to know.
        It is called on the path of the tokens, so it must be quick and must not raise. Which answer is given is not
        known yet, so all that was generated counts as hidden. Over a request, `generated`, `prompt_read`, `cached`,
        `verifier`, `verifier_cached` and `chains` add up to those of the settlement."""
        ...

    async def settle(self, usage: Usage, ending: str) -> None:
        """The whole usage of the request, told before the last byte of its answer is sent, also after a hang-up and an
        error, and with an empty usage where it came to nothing. `ending`: answered, refused, turned_away, deadline,
        failed, disconnected or cancelled.

        It is awaited to its end exactly once. Where the caller hangs up meanwhile it is cancelled and begun again, so
        it must be idempotent. If it raises, that is logged and the answer goes out all the same."""
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
        """A bill of all. Where one refuses, those asked before it are settled with nothing."""
        bills: list[Bill] = []
        try:
            for account in self._accounts:
                bills.append(await account.reserve(intent))
        except BaseException:
            await _Bills(bills).settle(Usage(), "refused")
            raise
        return bills[0] if len(bills) == 1 else _Bills(bills)


class _Bills:
    """The bills of several accounts, settled one after the other."""

    def __init__(self, bills: Sequence[Bill]) -> None:
        self._open = list(bills)
        self._told = [used for bill in bills if (used := bill.used) is not None]
        self.used: Callable[[Usage], None] | None = self._use if self._told else None

    def _use(self, usage: Usage) -> None:
        for told in self._told:
            told(usage)

    async def settle(self, usage: Usage, ending: str) -> None:
        while self._open:
            try:
                await self._open[-1].settle(usage, ending)
            except Exception:
                # Anybody's code; the others are settled all the same.
                log.exception("an account could not settle a request")
            self._open.pop()
