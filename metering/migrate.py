"""Brings the tables of a ledger to the version this server knows, in one transaction, whoever else tries the same."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text, update

from ponder.metering.database import Database
from ponder.metering.tables import requests

LOCK = 0x706F6E646572
"""Of PostgreSQL, held while the tables are changed."""


class OtherVersion(Exception):
    """The tables are not of the version that is wanted; the message says what to do."""


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


@cache
def _known() -> tuple[str, ...]:
    """All versions there have been, the newest first. Read once: their files do not change while a process lives."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def newest() -> str:
    """The version this server knows."""
    return _known()[0]


def version_of(connection: Connection) -> str | None:
    """The version of the tables; None where there are none. Raises `OtherVersion` for one from the future."""
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in _known():
        raise OtherVersion(
            f"the ledger has version {found}, which is newer than this server (it knows {newest()}): run the newer one"
        )
    return found


def check(place: Database, connection: Connection) -> None:
    """Raises `OtherVersion` where the ledger is not of the newest version."""
    found = version_of(connection)
    if found != newest():
        state = "is empty" if found is None else f"has version {found}"
        raise OtherVersion(
            f"the ledger ({place}) {state}, and version {newest()} is wanted: run `ponder ledger migrate`"
        )


def migrate(engine: Engine, to: str = "head", owners: Mapping[str, str] | None = None) -> tuple[str | None, str | None]:
    """Brings the tables to a version, left out the newest; the version before and behind. `owners`: ids of the API keys
    there are now, by name: rows that know a key by its name only become theirs, in the same transaction, so that a key
    which has the name later does not see them. Raises `OtherVersion`."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        before = version_of(connection)
        if to != "head" or before != newest():
            names_alone = before is not None and not _has_ids(connection)
            command.upgrade(_config(connection), to)
            for name, id in (owners or {}).items() if names_alone and _has_ids(connection) else ():
                connection.execute(update(requests).where(requests.c.key == name).values(key_id=id))
        return before, version_of(connection)


def _has_ids(connection: Connection) -> bool:
    """Rows say which key they are of, beside its name."""
    return any(column["name"] == "key_id" for column in inspect(connection).get_columns("requests"))


def prepare(place: Database, engine: Engine, owners: Mapping[str, str] | None = None) -> None:
    """What a server does before it writes: makes the tables of an empty ledger, and brings those of a SQLite file to
    the newest version; `owners` are as for `migrate`. An older PostgreSQL is left alone, for other servers may be
    writing to it: raises `OtherVersion`."""
    if place.file is None:
        with engine.connect() as connection:
            found = version_of(connection)
        if found is not None and found != newest():
            raise OtherVersion(
                f"the ledger ({place}) has version {found}, and this server wants {newest()}: "
                "run `ponder ledger migrate` when no older server writes to it"
            )
    migrate(engine, owners=owners)
