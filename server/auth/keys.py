"""Who may ask: API keys, known by their hashes only, compared in constant time.

Some stand in the configuration, others in the ledger's database, and both may change while the server runs. What a
request sees is one table, which is replaced as a whole.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from ponder.compute.errors import NotAuthenticated
from ponder.compute.quota import Quota
from ponder.server.coarse import Coarse
from ponder.server.settings import KeyLimits, KeySettings, Scope

METRICS: frozenset[Scope] = frozenset({"metrics"})
"""What `admin` includes."""
LONGEST = 512
"""Characters of a presented key that are looked at; ours have 46."""


@dataclass(frozen=True, slots=True)
class Key:
    """A caller: what they are called and what they may do."""

    name: str
    scopes: frozenset[Scope]
    max_thinking_budget: int | None = None
    models: frozenset[str] | None = None
    """Names of the models they may ask; None is all."""
    coarse: Coarse | None = None
    """How coarse the numbers are they see; None: exact."""
    weight: float = 1.0
    """Their share beside other callers, in relation to the others'."""
    id: str = ""
    """Who they are, whatever they are called: what belongs to a caller is kept under it."""
    max_cost_usd: Decimal | None = None
    """Highest cost of one request; None: no limit of their own."""
    strategies: frozenset[str] | None = None
    """Names of the strategies they may ask for; None is all."""
    quota: Quota | None = None
    """The limits of all their requests together; None: there are none."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def may_ask(self, model: str) -> bool:
        return self.models is None or model in self.models

    @property
    def highest_budget(self) -> int | None:
        """Hidden tokens of one request at most: no more than all of them may have in a minute, a day, a month."""
        caps = (self.max_thinking_budget, None if self.quota is None else self.quota.thinking)
        return min((cap for cap in caps if cap is not None), default=None)

    def may_use(self, strategy: str) -> bool:
        return self.strategies is None or strategy in self.strategies


ANYONE = Key("anyone", frozenset({"infer", "usage", "metrics", "admin", "trace"}), id="anyone")
"""The key of all callers of a server without keys, which binds to loopback only: every scope but that to see
thoughts."""


def digest(key: str) -> str:
    """How a key is written down. A plain hash is enough: the key is 256 random bits, nothing to guess."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def make() -> tuple[str, str]:
    """A new key and its hash. The key is shown once and kept nowhere."""
    key = "pk-" + secrets.token_urlsafe(32)
    return key, digest(key)


def new_id() -> str:
    """The id of a new key."""
    return "key_" + secrets.token_hex(12)


def caller(key: KeySettings) -> Key:
    """Who a key stands for."""
    coarse = Coarse(key.coarse_tokens, key.coarse_seconds) if key.coarse_tokens > 1 or key.coarse_seconds else None
    scopes = key.scopes | METRICS if "admin" in key.scopes else key.scopes
    return Key(
        key.name,
        scopes,
        key.max_thinking_budget,
        key.models,
        coarse,
        key.weight,
        key.identity,
        key.max_cost_usd,
        key.strategies,
        quota(key, told=coarse is None),
    )


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret that is known, or was."""

    hash: str
    key: Key
    until_ms: int | None = None
    """When it ends, in milliseconds since 1970; None: never."""
    revoked: bool = False


NOBODY = Secret("sha256:" + "0" * 64, ANYONE, revoked=True)
"""What a secret is compared with that nobody has."""


def quota(limits: KeyLimits, *, told: bool = True) -> Quota | None:
    """What all requests of a key may take together; None where it has no such limit. `told`: its callers see how much
    is left."""
    amounts = (
        limits.thinking_tokens_per_minute,
        limits.thinking_tokens_per_day,
        limits.thinking_tokens_per_month,
        limits.nano_usd_per_month,
        limits.max_inflight,
    )
    return None if all(amount is None for amount in amounts) else Quota(*amounts, told=told)


class Keyring:
    """The keys of a server."""

    def __init__(
        self, keys: Sequence[KeySettings], *, required: bool | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """`required`: a key is asked for also where there is none (True), or only where one is configured (False);
        None: where there is one anywhere. `clock` gives seconds since 1970."""
        self._required, self._clock = required, clock
        self._lock = threading.Lock()
        self._configured: Sequence[KeySettings] = ()
        self._stored: Sequence[Secret] = ()
        self._table: dict[str, Secret] | None = None
        """By hash; None: anyone may ask."""
        self.told: Callable[[int], None] | None = None
        """Called with the number of keys whenever they have changed, in whatever thread that was."""
        self.configure(keys)

    def configure(self, keys: Sequence[KeySettings]) -> None:
        """The keys of the configuration are these from now on."""
        with self._lock:
            self._configured = tuple(keys)
            self._join()

    def store(self, secrets: Sequence[Secret]) -> None:
        """Those of the database are these from now on, the ones that have ended among them."""
        with self._lock:
            self._stored = tuple(secrets)
            if secrets and self._required is None:
                # Whatever becomes of the database: this server does not open again.
                self._required = True
            self._join()

    def _join(self) -> None:
        configured = [Secret(key.hash, caller(key)) for key in self._configured]
        stored = () if self._required is False else self._stored
        found = {secret.hash: secret for secret in (*stored, *configured)}
        self._table = found if found or self._required else None
        if self.told is not None:
            self.told(self.count)

    @property
    def open(self) -> bool:
        """There is no key: anyone on this machine may ask. Keys that were revoked count, so that a server does not open
        because its last key was."""
        return self._table is None

    @property
    def count(self) -> int:
        """Keys that may ask."""
        return len({secret.key.id for secret in (self._table or {}).values() if not secret.revoked})

    @property
    def callers(self) -> Sequence[Key]:
        """Who may ask, each once."""
        found = {secret.key.id: secret.key for secret in (self._table or {}).values() if not secret.revoked}
        return list(found.values())

    @property
    def configured(self) -> Sequence[KeySettings]:
        """Those of the configuration."""
        return self._configured

    def who(self, presented: str | None, hint: str) -> Key:
        """The caller, by the key a request presents. `hint`: the header to send one in. Raises `NotAuthenticated`.

        It is looked up by its hash, of which nobody who tries keys knows or chooses anything, and compared in constant
        time.
        """
        table = self._table
        if table is None:
            return ANYONE
        if not presented:
            raise NotAuthenticated(f"this server wants an API key: send the header {hint}", code="missing_api_key")
        asked = digest(presented[: LONGEST + 1])
        found = table.get(asked, NOBODY)
        if not hmac.compare_digest(found.hash, asked) or len(presented) > LONGEST:
            raise NotAuthenticated("this server does not know that API key", code="invalid_api_key")
        if found.revoked:
            raise NotAuthenticated("this API key was revoked", code="revoked_api_key")
        if found.until_ms is not None and self._clock() * 1000 >= found.until_ms:
            raise NotAuthenticated("this API key has expired", code="expired_api_key")
        return found.key
