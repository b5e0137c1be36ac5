"""`ponder keys`: API keys of the ledger's database from the command line, on a machine that reaches the database."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO, cast

from pydantic import ValidationError
from sqlalchemy import Engine

from ponder.metering import api_keys
from ponder.metering.api_keys import KeyFault, StoredKey
from ponder.metering.migrate import prepare
from ponder.metering.upkeep import readable
from ponder.server.auth import keys as secret_keys
from ponder.server.auth.stored_keys import as_json
from ponder.server.commands.ledger import CannotDo, administrator, guarded, instant, moment, the_ledger
from ponder.server.load_settings import load
from ponder.server.settings import KeySettings, WrongSettings, nearest

SPAN = re.compile(r"([0-9]{1,6})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LATEST = 253_402_300_799_000
"""Milliseconds since 1970 at the end of the year 9999."""


def run(name: str, options: argparse.Namespace, out: TextIO) -> int:
    """Does what a subcommand is for. Raises `CannotDo` and `WrongSettings`."""
    try:
        return guarded(WORKS[name], options, out)
    except KeyFault as error:
        raise CannotDo(str(error)) from None


def create(options: argparse.Namespace, out: TextIO) -> None:
    """`ponder keys create`"""
    settings = load(options.config)
    secret, hash = secret_keys.make()
    id = secret_keys.new_id()
    scopes = [word.strip() for word in cast("str", options.scopes).split(",") if word.strip()]
    key = _checked(options, {"name": options.name, "id": id, "hash": hash, "scopes": scopes})
    served = settings.served()
    known = [name for own, one in served.items() for name in (own, *one.adapters)]
    for model in sorted(key.models or ()):
        if model not in known:
            raise WrongSettings(f"--limits: {model} is not served{nearest(model, known)}")
    if key.name in {one.name for one in settings.keys}:
        raise CannotDo(f"a key of the configuration is called {key.name}, and a name belongs to one key")
    place = the_ledger(options.config)
    engine = place.engine(long=True)
    prepare(place, engine, settings.owners)
    api_keys.create(
        engine,
        administrator(),
        id=id,
        hash=hash,
        name=key.name,
        owner=options.owner,
        scopes=sorted(key.scopes),
        limits=as_json(key),
        expires_ms=None if options.expires is None else when(options.expires),
    )
    engine.dispose()
    out.write(
        f"{secret}\n\n# {key.name} ({id}). This key is shown once and kept nowhere; it is known within a second.\n"
    )
    if not settings.keys and settings.require_key is None:
        out.write("# Servers on this ledger ask for a key from now on, those on loopback too (require_key).\n")


def show(options: argparse.Namespace, out: TextIO) -> None:
    """`ponder keys list`"""
    engine = readable(the_ledger(options.config))
    with engine.connect() as connection:
        stored = api_keys.every(connection)
    engine.dispose()
    lines = [_told(key) for key in stored] + [
        {"id": key.identity, "name": key.name, "status": "configured", "scopes": sorted(key.scopes)}
        | {"limits": as_json(key)}
        for key in load(options.config).keys
    ]
    if options.json:
        out.writelines(json.dumps(line) + "\n" for line in lines)
        return
    head = ("name", "status", "owner", "scopes", "expires", "limits", "id")
    cells = [head, *(tuple(_cell(line.get(name)) for name in head) for line in lines)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        out.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def revoke(options: argparse.Namespace, out: TextIO) -> None:
    """`ponder keys revoke`"""
    key = _acted(options, lambda engine: api_keys.revoke(engine, administrator(), options.key))
    out.write(f"{key.name} ({key.id}) is revoked\n")


def rotate(options: argparse.Namespace, out: TextIO) -> None:
    """`ponder keys rotate`"""
    secret, hash = secret_keys.make()
    grace: float = options.grace
    key = _acted(options, lambda engine: api_keys.rotate(engine, administrator(), options.key, hash, grace))
    before = f"the one before ends in {grace:g} seconds" if grace else "the one before has ended"
    out.write(f"{secret}\n\n# The new secret of {key.name} ({key.id}); {before}. It is shown once and kept nowhere.\n")


WORKS: Mapping[str, Callable[[argparse.Namespace, TextIO], None]] = {
    "create": create,
    "list": show,
    "revoke": revoke,
    "rotate": rotate,
}


def _acted(options: argparse.Namespace, work: Callable[[Engine], StoredKey]) -> StoredKey:
    place = the_ledger(options.config)
    readable(place).dispose()
    engine = place.engine(long=True)
    try:
        return work(engine)
    finally:
        engine.dispose()


def _checked(options: argparse.Namespace, words: Mapping[str, Any]) -> KeySettings:
    """The key that is asked for. Raises `WrongSettings`."""
    try:
        limits: Any = json.loads(options.limits) if options.limits else {}
    except ValueError:
        limits = None
    if not isinstance(limits, dict):
        raise WrongSettings('--limits: a JSON object of what [[keys]] takes, as in {"max_thinking_budget": 4096}')
    terms = cast("dict[str, Any]", limits)
    if mixed := sorted(set(terms) & set(words)):
        raise WrongSettings(f"--limits: {mixed[0]} is no limit")
    if options.owner is not None and len(options.owner) > 128:
        raise WrongSettings("--owner: 128 characters at most")
    try:
        return KeySettings.model_validate({**terms, **words})
    except ValidationError as error:
        wrong = error.errors()[0]
        where = str(wrong["loc"][0]) if wrong["loc"] else "--limits"
        what = {"scopes": "--scopes", "name": "NAME"}.get(where, f"--limits {where}" if wrong["loc"] else where)
        raise WrongSettings(f"{what}: {wrong['msg'].removeprefix('Value error, ').removeprefix('Input ')}") from None


def when(text: str) -> int:
    """A moment to come, in milliseconds since 1970: a span from now (`30d`, `12h`), else as `instant`. Raises
    `CannotDo`."""
    span = SPAN.fullmatch(text)
    now = int(time.time() * 1000)
    at = now + int(span[1]) * SECONDS[span[2]] * 1000 if span else instant(text)
    if not now < at <= LATEST:
        raise CannotDo("--expires is a time to come: a span (30d, 12h), a day (2030-01-31) or a moment")
    return at


def _told(key: StoredKey) -> dict[str, Any]:
    """A key without anything of its secrets."""
    expired = key.expires_ms is not None and key.expires_ms <= time.time() * 1000
    return {
        "id": key.id,
        "name": key.name,
        "status": "revoked" if key.revoked_ms is not None else "expired" if expired else "active",
        "owner": key.owner,
        "scopes": list(key.scopes),
        "limits": dict(key.limits),
        "created": moment(key.created_ms),
        "expires": key.expires_ms and moment(key.expires_ms),
        "revoked": key.revoked_ms and moment(key.revoked_ms),
    }


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(cast("list[str]", value))
    if isinstance(value, dict):
        return " ".join(f"{name}={_cell(one)}" for name, one in cast("dict[str, Any]", value).items()) or "-"
    return "-" if value is None else str(value)
