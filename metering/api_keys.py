"""API keys in the ledger's database: made, changed, rotated and revoked by one process, and known to all others that
share it. Of a secret there is its hash alone.

A key is never deleted and its name never given again, so that what was used under a name is one key's for ever. Every
change adds one to a version, in the same transaction: whoever remembers the keys reads that and knows whether to look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from ponder.metering.audit import Act, record
from ponder.metering.clock import milliseconds
from ponder.metering.tables import key_hashes, keys, versions

VERSION = "keys"
"""The row of `versions`."""


class KeyFault(Exception):
    """Something cannot be done with a key; the message says what and why."""


class NameTaken(KeyFault):
    """The name is or was another key's."""


class NoSuchKey(KeyFault):
    """No key has that id or name."""


class KeyEnded(KeyFault):
    """The key was revoked."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as the database has it. Times are milliseconds since 1970."""

    id: str
    name: str
    owner: str | None
    scopes: tuple[str, ...]
    limits: Mapping[str, Any]
    """What else the configuration can say of a key, in its words."""
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    hashes: Mapping[str, int | None]
    """Those of its secrets, and until when each may be used; None: as long as the key."""


def version(connection: Connection) -> int:
    """How often the keys were changed."""
    return connection.execute(select(versions.c.value).where(versions.c.id == VERSION)).scalar_one()


def changed(connection: Connection) -> None:
    """Tells all who remember the keys that they are others now. The first of two who change them goes first: the other
    waits here for its transaction to end."""
    connection.execute(update(versions).where(versions.c.id == VERSION).values(value=versions.c.value + 1))


def every(connection: Connection) -> Sequence[StoredKey]:
    """All keys there are and were, the oldest first."""
    hashes: dict[str, dict[str, int | None]] = {}
    for row in connection.execute(select(key_hashes).order_by(key_hashes.c.created_ms)).mappings():
        hashes.setdefault(row["key_id"], {})[row["hash"]] = row["until_ms"]
    rows = connection.execute(select(keys).order_by(keys.c.created_ms, keys.c.id)).mappings()
    return [_key(row, hashes.get(row["id"], {})) for row in rows]


def _key(row: RowMapping, hashes: Mapping[str, int | None]) -> StoredKey:
    columns: dict[str, Any] = {**row, "scopes": tuple(row["scopes"])}
    return StoredKey(**columns, hashes=hashes)


def find(connection: Connection, wanted: str) -> StoredKey:
    """The key with this id, or this name. Raises `NoSuchKey`."""
    asked = select(keys).where(or_(keys.c.id == wanted, keys.c.name == wanted)).order_by(keys.c.id != wanted)
    row = connection.execute(asked).mappings().first()
    if row is None:
        raise NoSuchKey("the ledger has no key with that id or name")
    theirs = connection.execute(select(key_hashes).where(key_hashes.c.key_id == row["id"])).mappings()
    return _key(row, {one["hash"]: one["until_ms"] for one in theirs})


def create(
    engine: Engine,
    who: str,
    *,
    id: str,
    hash: str,
    name: str,
    scopes: Sequence[str],
    owner: str | None = None,
    limits: Mapping[str, Any] | None = None,
    expires_ms: int | None = None,
) -> StoredKey:
    """Puts a key in. Raises `NameTaken`."""
    now = milliseconds()
    try:
        with engine.begin() as connection:
            changed(connection)
            if connection.execute(select(keys.c.id).where(keys.c.name == name)).first() is not None:
                raise _taken(name)
            values = {"id": id, "name": name, "owner": owner, "scopes": list(scopes), "limits": dict(limits or {})}
            connection.execute(insert(keys).values(**values, created_ms=now, expires_ms=expires_ms))
            connection.execute(insert(key_hashes).values(hash=hash, key_id=id, created_ms=now))
            record(
                connection,
                who,
                "key.created",
                subject(name, id),
                {name: value for name, value in values.items() if name not in ("id", "name")}
                | {"expires_ms": expires_ms},
            )
            return find(connection, id)
    except IntegrityError:
        raise _taken(name) from None


def revoke(engine: Engine, who: str, wanted: str) -> StoredKey:
    """Ends a key, by its id or name; one that was revoked stays so. Raises `NoSuchKey`."""
    return _changed(engine, who, wanted, "key.revoked", {"revoked_ms": milliseconds()}, ended=True)


def change(engine: Engine, who: str, wanted: str, values: Mapping[str, Any]) -> StoredKey:
    """Sets `owner`, `scopes`, `limits` or `expires_ms` of a key, or nothing. Raises `NoSuchKey` and `KeyEnded`."""
    return _changed(engine, who, wanted, "key.changed", values)


def _changed(
    engine: Engine, who: str, wanted: str, act: Act, values: Mapping[str, Any], *, ended: bool = False
) -> StoredKey:
    with engine.begin() as connection:
        changed(connection)
        key = find(connection, wanted)
        if key.revoked_ms is not None:
            if ended:
                return key
            raise _ended(key)
        if not values:
            return key
        connection.execute(update(keys).where(keys.c.id == key.id).values(**values))
        before = {name: getattr(key, name) for name in values}
        details = {} if ended else {"before": before, "after": dict(values)}
        record(connection, who, act, subject(key.name, key.id), details)
        return find(connection, key.id)


def rotate(engine: Engine, who: str, wanted: str, hash: str, grace: float) -> StoredKey:
    """Gives a key another secret, by its hash; the one before is good for `grace` seconds more. Raises `NoSuchKey` and
    `KeyEnded`."""
    with engine.begin() as connection:
        changed(connection)
        key = find(connection, wanted)
        if key.revoked_ms is not None:
            raise _ended(key)
        now = milliseconds()
        newest = (key_hashes.c.key_id == key.id, key_hashes.c.until_ms.is_(None))
        connection.execute(update(key_hashes).where(*newest).values(until_ms=now + round(grace * 1000)))
        connection.execute(insert(key_hashes).values(hash=hash, key_id=key.id, created_ms=now))
        record(connection, who, "key.rotated", subject(key.name, key.id), {"grace_seconds": grace})
        return find(connection, key.id)


def subject(name: str, id: str) -> str:
    """A key in a row of the audit."""
    return f"{name} ({id})"


def _taken(name: str) -> NameTaken:
    return NameTaken(f"a key in the ledger is or was called {name}; a name is given once, so take another")


def _ended(key: StoredKey) -> KeyEnded:
    return KeyEnded(f"the key {key.name} was revoked, and stays so: make another")
