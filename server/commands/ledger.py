"""`ponder ledger`: how the ledger is, a copy of it and the way back, its rows as text, and rows that go."""

from __future__ import annotations

import argparse
import csv
import getpass
import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy.exc import SQLAlchemyError

from ponder.compute.errors import PonderError, RequestError
from ponder.metering import upkeep
from ponder.metering.audit import COLUMNS, acts
from ponder.metering.database import Database, WrongAddress
from ponder.metering.migrate import OtherVersion, migrate, newest
from ponder.metering.tables import requests
from ponder.server import query
from ponder.server.load_settings import load


class CannotDo(PonderError):
    """Something about the ledger cannot be done; the message says why."""


def the_ledger(config: str | None) -> Database:
    """The ledger of the configuration. Raises `WrongSettings`, and `CannotDo` where there is none."""
    try:
        place = load(config).ledger.database
    except WrongAddress as error:
        raise CannotDo(str(error)) from None
    if place is None:
        raise CannotDo("the configuration switches the ledger off ([ledger] url is none)")
    return place


def run(name: str, options: argparse.Namespace, out: TextIO) -> int:
    """Does what a subcommand is for. Raises `CannotDo` for what goes wrong with the ledger."""
    return guarded(WORKS[name], options, out)


def guarded(work: Callable[[argparse.Namespace, TextIO], None], options: argparse.Namespace, out: TextIO) -> int:
    """Does some work on a ledger; its exit status. Raises `CannotDo`."""
    try:
        work(options, out)
    except (upkeep.NoSuchLedger, OtherVersion) as error:
        raise CannotDo(str(error)) from None
    except SQLAlchemyError as error:
        original = getattr(error, "orig", None) or error
        raise CannotDo(f"the ledger cannot be used: {type(original).__name__}") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotDo(f"{error.filename or 'the ledger'}: {error.strerror or type(error).__name__}") from None
    return 0


def status(options: argparse.Namespace, out: TextIO) -> None:
    """`ponder ledger status`"""
    found = upkeep.state(the_ledger(options.config))
    out.write(f"ledger    {found.place}\n")
    if found.version is None:
        out.write("empty: no server has written to it yet\n")
        return
    out.write(f"version   {found.version}\nrequests  {found.rows}")
    if found.first_ms is not None and found.last_ms is not None:
        out.write(f", from {moment(found.first_ms)} to {moment(found.last_ms)}")
    out.write(f"\nopen      {found.open}\nservers   {found.servers}\nresponses {found.responses}")
    out.write(f", {found.background} of them in the background\n" if found.background else "\n")
    if found.lost:
        out.write(
            f"lost      {found.lost} (their server died; settled as last seen, "
            f"at most {found.uncertain} tokens uncertain)\n"
        )
    if found.unseen:
        out.write(f"unseen    {found.unseen} (the end of a call to their model was not seen; billed is what came)\n")


def bring(options: argparse.Namespace, out: TextIO) -> None:
    """`ponder ledger migrate`"""
    engine = the_ledger(options.config).engine(long=True)
    before, _ = migrate(engine, owners=load(options.config).owners)
    engine.dispose()
    if before == newest():
        out.write(f"the ledger has version {newest()} already\n")
    else:
        out.write(f"the ledger has version {newest()} now; before: {before or 'empty'}\n")


def backup(options: argparse.Namespace, out: TextIO) -> None:
    """`ponder ledger backup`"""
    count = upkeep.copy(the_ledger(options.config), Path(options.file))
    out.write(f"{count} requests are in {options.file}\n")


def restore(options: argparse.Namespace, out: TextIO) -> None:
    """`ponder ledger restore`"""
    place = the_ledger(options.config)
    new, known = upkeep.restore(place, Path(options.file), administrator())
    out.write(f"{new} requests are put into {place}; {known} were there\n")


def export(options: argparse.Namespace, out: TextIO) -> None:
    """`ponder ledger export`"""
    span = (options.start and instant(options.start), options.end and instant(options.end))
    written(upkeep.rows(the_ledger(options.config), *span), [c.name for c in requests.c], options.format, out)


def erase(options: argparse.Namespace, out: TextIO) -> None:
    """`ponder ledger erase`"""
    place = the_ledger(options.config)
    count = upkeep.erase(place, options.user, administrator(), keep_counts=options.keep_counts)
    out.write(f"{count} requests {'no longer name the user' if options.keep_counts else 'are erased'}\n")


def expire(options: argparse.Namespace, out: TextIO) -> None:
    """`ponder ledger expire`"""
    count = upkeep.expire(the_ledger(options.config), options.days, administrator())
    out.write(f"{count} requests older than {options.days} days are deleted\n")


def show_audit(options: argparse.Namespace, out: TextIO) -> None:
    """`ponder ledger audit`"""
    engine = upkeep.readable(the_ledger(options.config))
    span = (options.start and instant(options.start), options.end and instant(options.end))
    for row in acts(engine, *span):
        told = {"time": moment(row["at_ms"])} | {name: row[name] for name in COLUMNS if name != "at_ms"}
        if options.json:
            out.write(json.dumps(told) + "\n")
        else:
            details = json.dumps(row["details"]) if row["details"] else ""
            out.write(f"{told['time']}  {row['who']}  {row['act']}  {row['subject']}  {details}".rstrip() + "\n")
    engine.dispose()


WORKS: Mapping[str, Callable[[argparse.Namespace, TextIO], None]] = {
    "status": status,
    "migrate": bring,
    "backup": backup,
    "restore": restore,
    "export": export,
    "erase": erase,
    "expire": expire,
    "audit": show_audit,
}


# -- words ------------------------------------------------------------------------------------------------------------


def moment(ms: int) -> str:
    """Milliseconds since 1970 as people write a moment (ISO 8601, UTC)."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def administrator() -> str:
    """Who types, for the audit."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A user without a name, such as one that a container makes up.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def instant(text: str) -> int:
    """A day, a moment (ISO 8601; UTC where it says nothing) or seconds since 1970, in milliseconds. Raises
    `CannotDo`."""
    try:
        return query.moment("a time", text)
    except RequestError as error:
        raise CannotDo(str(error)) from None


def written(rows: Iterable[Mapping[str, Any]], columns: list[str], form: str, out: TextIO) -> None:
    """Rows as CSV with a head, or as lines of JSON."""
    if form == "json":
        for row in rows:
            out.write(json.dumps({name: row[name] for name in columns}) + "\n")
        return
    table = csv.writer(out, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        table.writerow([cell(row[name]) for name in columns])


def cell(value: Any) -> Any:
    """A value as a cell of CSV. A text that a spreadsheet would take for a formula is quoted, as OWASP advises."""
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value
