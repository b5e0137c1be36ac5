"""The keys of the ledger's database, as a server knows them: a thread looks twice a second whether they were changed,
here or by anybody else who shares the database.

Where the database is away, what is known stays known: a key that may ask goes on asking, one that was revoked stays
out.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from ponder.metering import api_keys
from ponder.metering.api_keys import StoredKey
from ponder.metering.database import Database
from ponder.metering.ledger import Ledger
from ponder.metering.upkeep import readable
from ponder.server.auth.keys import Keyring, Secret, caller
from ponder.server.settings import KeySettings, KeyTerms, WrongSettings

T = TypeVar("T")

EVERY = 0.5
"""Seconds between two looks."""

log = logging.getLogger("ponder.server")


class StoredKeys:
    """The keys of one ledger, kept in a keyring. Made by `following`."""

    def __init__(self, place: Database, keyring: Keyring) -> None:
        self.place = place
        self.known: Sequence[StoredKey] = ()
        """All of them, those that have ended included."""
        self._keyring = keyring
        self._engine = place.engine(reads=True)
        self._version = -1
        self._away = False
        self._looking = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)

    def start(self) -> None:
        """Looks once, in the thread that asks, and from then on in another. Raises what the database does, and
        `WrongSettings` where a key of the configuration has the name of one of these."""
        self._look()
        check_names(self._keyring.configured, self.known)
        self._thread.start()

    async def close(self) -> None:
        """Looks no more."""
        self._ended.set()
        await asyncio.to_thread(self._thread.join, 5.0)

    async def act(self, work: Callable[[Engine], T]) -> T:
        """What `work` on the database returns or raises, in a thread; this server knows of it at once."""
        return await asyncio.to_thread(self._act, work)

    def _act(self, work: Callable[[Engine], T]) -> T:
        readable(self.place).dispose()
        engine = self.place.engine()
        try:
            done = work(engine)
        finally:
            engine.dispose()
        self._glance()
        return done

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            self._glance()
        self._engine.dispose()

    def _glance(self) -> None:
        try:
            self._look()
        except SQLAlchemyError as error:
            if not self._away:
                self._away = True
                word = type(getattr(error, "orig", None) or error).__name__
                log.warning("the keys of the ledger cannot be read (%s): they stay as they were last seen", word)
        else:
            if self._away:
                self._away = False
                log.warning("the keys of the ledger can be read again")

    def _look(self) -> None:
        with self._looking:
            # One transaction: the keys are those of the version.
            with self._engine.connect() as connection:
                found = api_keys.version(connection)
                if found == self._version:
                    return
                keys = api_keys.every(connection)
            self.known, self._version = keys, found
            self._keyring.store([secret for key in keys for secret in secrets_of(key)])


@asynccontextmanager
async def following(ledger: Ledger | None, keyring: Keyring) -> AsyncGenerator[StoredKeys | None]:
    """The keys of a ledger, in a keyring for as long as the block lasts; None where there is no ledger. Raises
    `WrongSettings`."""
    if ledger is None:
        yield None
        return
    stored = StoredKeys(ledger.place, keyring)
    await asyncio.to_thread(stored.start)
    try:
        yield stored
    finally:
        await stored.close()


def secrets_of(key: StoredKey) -> list[Secret]:
    """What may be presented for a key, and what might once. Nothing for one that this server does not understand: a
    newer one has made it."""
    try:
        hashes = {hash: settings_of(key, hash) for hash in key.hashes}
    except ValidationError:
        log.error("the key %s of the ledger cannot be used: this server does not know all that is said of it", key.name)
        return []
    return [
        Secret(hash, caller(settings), _first(key.hashes[hash], key.expires_ms), key.revoked_ms is not None)
        for hash, settings in hashes.items()
    ]


def settings_of(key: StoredKey, hash: str) -> KeySettings:
    """A key as the configuration would have it. Raises `ValidationError`."""
    words: Mapping[str, Any] = {"name": key.name, "id": key.id, "hash": hash, "scopes": list(key.scopes)}
    return KeySettings.model_validate({**key.limits, **words})


def as_json(terms: KeyTerms) -> dict[str, Any]:
    """The terms of a key as the database has them: what is left out is as it usually is."""
    told = KeyTerms.model_dump(terms, mode="json", include=set(KeyTerms.model_fields), exclude_defaults=True)
    return {
        name: sorted(cast("list[str]", value)) if isinstance(value, list) else value for name, value in told.items()
    }


def check_names(configured: Iterable[KeySettings], stored: Iterable[StoredKey]) -> None:
    """Raises `WrongSettings` where a key of the configuration has the name of one of the ledger."""
    taken = {key.name for key in stored}
    if twice := [key.name for key in configured if key.name in taken]:
        raise WrongSettings(
            f"keys: a key of the ledger is or was called {twice[0]}, too; a name belongs to one key, so give the one "
            "in the configuration another"
        )


def _first(*moments: int | None) -> int | None:
    return min((moment for moment in moments if moment is not None), default=None)
