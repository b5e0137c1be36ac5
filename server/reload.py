"""The configuration read again while the server serves: keys, prices, limits, policies and where replicas are change,
and nothing else does.

What cannot change without a restart is named. A configuration with a fault changes nothing. Requests that run keep what
they began with: the price book, the limits and the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from ponder.compute.errors import NotFound, PonderError, RequestError, Unavailable
from ponder.metering.api_keys import subject
from ponder.metering.audit import Act, record
from ponder.metering.migrate import OtherVersion
from ponder.metering.upkeep import NoSuchLedger
from ponder.server.auth.access import Caller
from ponder.server.auth.keys import Keyring
from ponder.server.auth.page import who
from ponder.server.auth.stored_keys import StoredKeys, as_json, check_names
from ponder.server.policies import policies_of, warn
from ponder.server.registry import Registry
from ponder.server.settings import KeySettings, KeyTerms, Limits, ModelSettings, Settings, WrongSettings
from ponder.server.settings.replicas import ReplicaSettings

log = logging.getLogger("ponder.server")

LIVE = ("keys", "prices")
"""Settings that are looked at anew for each request; `limits` beside them, but for those of connections."""
REPLICAS = "replicas of "
"""Before the name of a model whose replicas are others."""
OF_CONNECTIONS = frozenset({"header_bytes", "header_timeout", "connections", "connections_per_address", "idle_timeout"})
"""Limits that hold for a connection before there is a request on it."""


class Reloaded(BaseModel):
    """What became of a configuration that was read again."""

    changed: list[str] = Field(description="Settings that hold from now on")
    kept: list[str] = Field(description="Settings that are others in the configuration, and want a restart")


@dataclass(slots=True)
class LiveSettings:
    """The configuration as it holds now: whoever serves a request looks once, and keeps what is there."""

    now: Settings


Happened = tuple[Act, str, Mapping[str, Any]]
"""A row of the audit: the act, its subject, its details."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What of a configuration can be taken over while the server serves."""

    settings: Settings
    """Complete, as they are to hold."""
    told: Reloaded
    happened: Sequence[Happened] = field(default_factory=tuple[Happened, ...])


class Reload:
    """Reads the configuration again, one at a time."""

    def __init__(
        self,
        live: LiveSettings,
        keyring: Keyring,
        stored: StoredKeys | None,
        registry: Registry,
        source: Callable[[], Settings] | None,
        moved: Callable[[Mapping[str, ModelSettings]], None] = lambda _: None,
    ) -> None:
        """`source` reads the configuration as it was read at the start; None: it was made in memory. `moved` is told
        the models where the replicas of one are others."""
        self._live, self._keyring, self._stored = live, keyring, stored
        self._registry, self._source = registry, source
        self._moved = moved
        self.others: Callable[[str], Awaitable[Sequence[str]]] | None = None
        """Has the other servers do the same for somebody, where this one is asked in place of all: what was wrong with
        those that have not."""
        self._turn = asyncio.Lock()

    async def reload_configuration(self, key: Caller) -> Reloaded:
        """Reads the configuration again: keys, prices, limits and policies hold from now on, the rest is named."""
        try:
            told = await self.once(who(key))
        except WrongSettings as error:
            raise RequestError(f"nothing was changed: {error.message}", code="wrong_settings") from None
        if self.others is not None and (faults := await self.others(who(key))):
            raise Unavailable(
                f"{len(faults)} of the servers did not take the configuration over, and the others did; ask again, or "
                f"deploy anew: {'; '.join(faults)}",
                code="reload_incomplete",
                retry_after=5,
            )
        return told

    async def once(self, asker: str, *, written: bool = False) -> Reloaded:
        """Does so for somebody, who stands in the audit; `written`: by another server, which was asked first. Raises
        `WrongSettings`, and `Unavailable` where the act cannot be written down; nothing has changed then."""
        if self._source is None:
            raise NotFound("this server was not started from a configuration", code="no_configuration")
        async with self._turn:
            try:
                new = await asyncio.to_thread(self._source)
                changes = changes_of(self._live.now, new)
                check_names(changes.settings.keys, self._stored.known if self._stored else ())
                self._registry.check(changes.settings)
                served = changes.settings.served()
                policies = await asyncio.to_thread(policies_of, served)
            except WrongSettings as error:
                log.error("the configuration was read again, and nothing changed: %s", error.message)
                raise
            if changes.happened and self._stored is not None and not written:
                await self._written_down(self._stored, asker, changes.happened)
            self._live.now = changes.settings
            self._keyring.configure(changes.settings.keys)
            self._registry.forget()
            learned = [f"policy of {name}" for name in served if policies[name] != self._registry.policies.get(name)]
            self._registry.policies = policies
            if any(word.startswith(REPLICAS) for word in changes.told.changed):
                self._moved(served)
            warn(served, policies)
        told = changes.told.model_copy(update={"changed": [*changes.told.changed, *learned]})
        _say(told)
        return told

    async def _written_down(self, stored: StoredKeys, asker: str, happened: Sequence[Happened]) -> None:
        def write(engine: Engine) -> None:
            with engine.begin() as connection:
                for act, what, details in happened:
                    record(connection, asker, act, what, details)

        try:
            await stored.act(write)
        except (SQLAlchemyError, OtherVersion, NoSuchLedger, OSError):
            log.error("the configuration was read again, and nothing changed: the ledger cannot write that down")
            raise Unavailable(
                "nothing was changed: the ledger of this server cannot be written to, and what an administrator does "
                "is written down there",
                code="ledger_unavailable",
                retry_after=5,
            ) from None


def _say(told: Reloaded) -> None:
    log.info("the configuration was read again; changed: %s", ", ".join(told.changed) or "nothing")
    if told.kept:
        log.warning("these settings are others in the configuration and want a restart: %s", ", ".join(told.kept))


def changes_of(running: Settings, new: Settings) -> Changes:
    """What of a new configuration can hold at once. Raises `WrongSettings` where that does not fit what stays."""
    limits = new.limits.model_copy(update={name: getattr(running.limits, name) for name in OF_CONNECTIONS})
    try:
        settings = running.with_changes(
            keys=new.keys,
            prices=new.prices,
            limits=limits,
            policy=new.policy,
            models=_moved(_with_policies(running.models, new), new),
            replicas=_of(running.replicas, new.replicas),
        )
    except ValueError as error:
        raise WrongSettings(f"beside what only a restart changes it cannot be: {error}") from None
    changed = [*_keys_changed(running, new), *(["prices"] if new.prices != running.prices else [])]
    changed += [f"limits.{name}" for name in _others(running.limits, limits)]
    changed += [
        f"{REPLICAS}{name}"
        for name, model in settings.served().items()
        if model.replicas != running.served()[name].replicas
    ]
    comparable = new.model_copy(update={"models": _with_policies(new.models, new)})
    kept = [name for name in _others(settings, comparable) if name not in (*LIVE, "limits")]
    kept += [f"limits.{name}" for name in _others(running.limits, new.limits) if name in OF_CONNECTIONS]
    return Changes(settings, Reloaded(changed=changed, kept=kept), tuple(_happened(running, settings)))


def _with_policies(models: Mapping[str, ModelSettings], new: Settings) -> dict[str, ModelSettings]:
    """These models with the policies that the new configuration names, for them or for all."""
    named = {name: model.policy or new.policy for name, model in new.models.items()}
    return {name: model.model_copy(update={"policy": named.get(name, model.policy)}) for name, model in models.items()}


def _moved(models: Mapping[str, ModelSettings], new: Settings) -> dict[str, ModelSettings]:
    """These models with the replicas that the new configuration names for them."""
    named = {name: model.replicas for name, model in new.models.items()}
    return {
        name: model.model_copy(update={"replicas": _of(model.replicas, named.get(name))})
        for name, model in models.items()
    }


def _of(running: ReplicaSettings | None, new: ReplicaSettings | None) -> ReplicaSettings | None:
    """Where there are replicas before and after, those that are named now; how they are reached stays."""
    return running if running is None or new is None else running.moved(new)


def _others(one: BaseModel, two: BaseModel) -> list[str]:
    """Fields in which two tables differ."""
    return [name for name in type(one).model_fields if getattr(one, name) != getattr(two, name)]


def _keys_changed(running: Settings, new: Settings) -> list[str]:
    """The names of keys that came, went or became others."""
    before, after = ({key.name: key for key in settings.keys} for settings in (running, new))
    return [f"keys.{name}" for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]


def _happened(running: Settings, settings: Settings) -> Iterator[Happened]:
    before, after = ({key.name: key for key in one.keys} for one in (running, settings))
    for name, key in before.items():
        if name in after:
            yield from _of_key(key, after[name])
        else:
            yield "keys.configured", _subject(key), {"removed": _terms(key)}
    for name, key in after.items():
        if name not in before:
            yield "keys.configured", _subject(key), {"added": _terms(key)}
    if settings.prices != running.prices:
        books = {"before": running.prices, "after": settings.prices}
        details = {word: book.model_dump(mode="json", exclude_none=True) for word, book in books.items()}
        yield "prices.changed", settings.prices.version or "none", details
    if differs := _others(running.limits, settings.limits):
        yield "limits.changed", "requests", _both(running.limits, settings.limits, differs)


def _of_key(before: KeySettings, after: KeySettings) -> Iterator[Happened]:
    """What became of a key of the configuration. Its hash is in none of it."""
    fields = [name for name in _others(before, after) if name not in KeyTerms.model_fields]
    if fields:
        scopes = {"before": sorted(before.scopes), "after": sorted(after.scopes)} if "scopes" in fields else {}
        yield "keys.configured", _subject(after), {"changed": fields, **scopes}
    if as_json(before) != as_json(after):
        yield "limits.changed", _subject(after), {"before": as_json(before), "after": as_json(after)}


def _subject(key: KeySettings) -> str:
    return subject(key.name, key.identity)


def _terms(key: KeySettings) -> dict[str, Any]:
    return {"scopes": sorted(key.scopes), "limits": as_json(key)}


def _both(before: Limits, after: Limits, names: Sequence[str]) -> dict[str, Any]:
    return {
        "before": {name: getattr(before, name) for name in names},
        "after": {name: getattr(after, name) for name in names},
    }


# -- SIGHUP -----------------------------------------------------------------------------------------------------------


class Terminal:
    """The terminal that a server was started on, if it was: SIGHUP means that it is gone, else that the configuration
    is to be read again. Made before SIGHUP has a handler: where it was ignored (`nohup`), the server is to outlive its
    terminal."""

    def __init__(self) -> None:
        self._had = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    @property
    def gone(self) -> bool:
        return self._had and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def at_signal(reload: Reload) -> None:
    """What SIGHUP asks for; what goes wrong is in the log."""
    with contextlib.suppress(PonderError):
        await reload.once("SIGHUP")
