"""What servers take of the limits of API keys, as the database has it.

A limit has windows: a minute, a day, a month of UTC, by the moment a request came. What may be spent in one is leased
by servers, some at a time, so that no row is written to for every request by all of them. A lease is spent by settled
requests, in the transaction that settles their rows, and given back when it is not needed, or when its server has died,
by what its rows say then. So over all servers the leases are never above the limit, and nothing is spent without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, case, delete, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from ponder.metering.tables import limit_leases, limit_windows, requests, servers

Kind = Literal["inflight", "minute", "day", "month", "usd"]
"""What is limited: requests at the same time, hidden tokens in a window, nano-USD in a month."""

PATIENCE = 1000
"""Milliseconds that a lease waits for the lease of another server."""
HELD = 600
"""Milliseconds for which a server that stops amid a lease, or is cut off, holds that up: fewer than others wait."""
_WAITS = text(
    "SELECT set_config('lock_timeout', :wait, true), set_config('idle_in_transaction_session_timeout', :held, true)"
)
PLACES = 240_000
"""Milliseconds for which the places of a process that was silent stay taken: what it ran may run on."""
MOST = 1 << 62
"""More than anything costs."""
KEPT: Mapping[Kind, timedelta] = {
    "minute": timedelta(days=1),
    "day": timedelta(days=40),
    "month": timedelta(days=100),
    "usd": timedelta(days=100),
}
"""How long a window is remembered: a clock may be set back."""


@dataclass(frozen=True, slots=True)
class Window:
    """A window of a limit of one key."""

    key: str
    kind: Kind
    begun_ms: int = 0
    ends_ms: int | None = None
    """None: never."""


def window(key: str, kind: Kind, at_ms: int) -> Window:
    """The window that a moment is in."""
    if kind == "inflight":
        return Window(key, kind)
    at = datetime.fromtimestamp(at_ms // 1000, UTC).replace(second=0)
    end = at + timedelta(minutes=1)
    if kind != "minute":
        at = at.replace(hour=0, minute=0)
        end = at + timedelta(days=1)
    if kind in ("month", "usd"):
        at = at.replace(day=1)
        end = (at + timedelta(days=32)).replace(day=1)
    return Window(key, kind, int(at.timestamp()) * 1000, int(end.timestamp()) * 1000)


def amount(kind: Kind, row: Mapping[Any, Any]) -> int:
    """What a settled row takes of a limit."""
    if kind == "inflight":
        return 0
    return int(row["cost_nano_usd" if kind == "usd" else "thinking"])


@dataclass(frozen=True, slots=True)
class Ask:
    """What a server wants of a limit beside what it has."""

    window: Window
    limit: int
    amount: int
    first: bool
    """It has not asked for this window before."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What it has come to."""

    added: int
    leased: int
    """All that it has now, what is spent of it included."""
    spent: int
    others: int
    """What is not its own: leased by other servers, or spent when there was no limit."""
    others_spent: int
    shared: bool = False
    """Other servers have asked for the limit, whatever they got."""


def take(connection: Connection, owner: str, asks: Sequence[Ask]) -> list[Lease]:
    """Leases for a process, within the limits, in the order of the asks."""
    if connection.dialect.name == "postgresql":
        connection.execute(_WAITS, {"wait": str(PATIENCE), "held": str(HELD)})
    # In one order for all servers, so that no two wait for each other.
    order = sorted(range(len(asks)), key=lambda i: (asks[i].window.key, asks[i].window.kind, asks[i].window.begun_ms))
    taken = {i: _take(connection, owner, asks[i]) for i in order}
    return [taken[i] for i in range(len(asks))]


def _take(connection: Connection, owner: str, ask: Ask) -> Lease:
    of = {"key": ask.window.key, "kind": ask.window.kind, "begun_ms": ask.window.begun_ms}
    here = [limit_windows.c[name] == value for name, value in of.items()]
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(make(limit_windows).values(**of).on_conflict_do_nothing())
    before = connection.execute(select(limit_windows.c.before).where(*here).with_for_update()).scalar_one()
    if ask.first and ask.window.ends_ms is not None:
        before = max(before, _unaccounted(connection, ask.window))
        connection.execute(update(limit_windows).where(*here).values(before=before))
    leased = spent = 0
    others, others_spent, shared = before, before, False
    rows = connection.execute(
        select(limit_leases.c.owner, limit_leases.c.leased, limit_leases.c.spent).where(
            *(limit_leases.c[name] == value for name, value in of.items())
        )
    )
    for row in rows:
        if row.owner == owner:
            leased, spent = row.leased, row.spent
        else:
            others, others_spent, shared = others + row.leased, others_spent + row.spent, True
    left = max(0, ask.limit - others - leased)
    # Some for those to come, so that not every request asks; none where that would be missed elsewhere.
    added = min(left, ask.amount + max(0, left - ask.amount) // 8) if ask.amount else 0
    if ask.amount or ask.first:
        # Also where there is nothing left: so the others know.
        mine = make(limit_leases).values(**of, owner=owner, leased=leased + added)
        connection.execute(
            mine.on_conflict_do_update(
                index_elements=["key", "kind", "begun_ms", "owner"], set_={"leased": mine.excluded.leased}
            )
        )
    return Lease(added, leased + added, spent, others, others_spent, shared)


def _unaccounted(connection: Connection, window: Window) -> int:
    """What requests of a window have spent that no lease was for."""
    column = requests.c.cost_nano_usd if window.kind == "usd" else requests.c.thinking
    rows = select(func.coalesce(func.sum(column), 0)).where(
        requests.c.key == window.key,
        requests.c.begun_ms >= window.begun_ms,
        requests.c.begun_ms < window.ends_ms,
        requests.c.settled_ms.is_not(None),
    )
    leases = select(func.coalesce(func.sum(limit_leases.c.spent), 0)).where(
        limit_leases.c.key == window.key,
        limit_leases.c.kind == window.kind,
        limit_leases.c.begun_ms == window.begun_ms,
    )
    # One statement, so that both are of one moment.
    return max(0, int(connection.execute(select(rows.scalar_subquery() - leases.scalar_subquery())).scalar_one()))


_OWN = [limit_leases.c[name] == bindparam(f"_{name}") for name in ("key", "kind", "begun_ms", "owner")]
_GIVE = update(limit_leases).where(*_OWN).values(leased=limit_leases.c.leased - bindparam("_amount"))
_after = limit_leases.c.spent + bindparam("_amount")
_SPEND = (
    update(limit_leases)
    .where(*_OWN)
    .values(spent=_after, leased=case((limit_leases.c.leased < _after, _after), else_=limit_leases.c.leased))
)
"""What was spent beyond a lease must not be leased again."""


def _named(window: Window, owner: str, amount: int) -> dict[str, Any]:
    return {
        "_key": window.key,
        "_kind": window.kind,
        "_begun_ms": window.begun_ms,
        "_owner": owner,
        "_amount": amount,
    }


def give_back(connection: Connection, owner: str, given: Sequence[tuple[Window, int]]) -> None:
    """A process needs so much of its leases no more."""
    if given:
        connection.execute(_GIVE, [_named(window, owner, amount) for window, amount in given])


def spend(connection: Connection, owner: str, spent: Mapping[Window, int]) -> None:
    """Requests that are settled in this transaction have spent so much of the leases of a process."""
    rows = [_named(window, owner, amount) for window, amount in spent.items() if amount]
    if rows:
        connection.execute(_SPEND, rows)


def leave(connection: Connection, owner: str, settled: Sequence[Mapping[Any, Any]], *, silent: bool = False) -> None:
    """A process has ended, or is taken for dead: of its leases remains what its requests have spent; these were settled
    for it in this transaction. `silent`: they may run on where nobody sees it, so that what they may spend counts as
    spent, and the places they have are free when `PLACES` milliseconds are over."""
    leases = connection.execute(select(limit_leases).where(limit_leases.c.owner == owner)).mappings().all()
    if not leases:
        return
    known = {(lease["key"], lease["kind"], lease["begun_ms"]) for lease in leases}
    spent: dict[Window, int] = {}
    for row in settled:
        for kind in KEPT:
            found = window(row["key"], kind, row["begun_ms"])
            if (found.key, kind, found.begun_ms) in known:
                spent[found] = spent.get(found, 0) + (_at_most(kind, row) if silent else amount(kind, row))
    if silent:
        # Never more than it had: it cannot have taken more while nobody heard of it.
        room = {(one["key"], one["kind"], one["begun_ms"]): one["leased"] - one["spent"] for one in leases}
        spent = {of: min(units, room[of.key, of.kind, of.begun_ms]) for of, units in spent.items()}
    spend(connection, owner, spent)
    own, kind = limit_leases.c.owner == owner, limit_leases.c.kind
    others = own if not silent else own & (kind != "inflight")
    connection.execute(update(limit_leases).where(others).values(leased=limit_leases.c.spent))
    if silent:
        running = Counter(row["key"] for row in settled)
        for lease in leases:
            if lease["kind"] == "inflight":
                here = own & (kind == "inflight") & (limit_leases.c.key == lease["key"])
                left = min(lease["leased"], running[lease["key"]])
                connection.execute(update(limit_leases).where(here).values(leased=left))


def _at_most(kind: Kind, row: Mapping[Any, Any]) -> int:
    """What a row may come to that was settled for a process which may run on."""
    return MOST if kind == "usd" else max(int(row["budget"]), amount(kind, row))


def forget(connection: Connection, now_ms: int, ended_ms: int) -> None:
    """Deletes windows that have ended long ago, and the places of processes that were taken for dead so long before
    `ended_ms` that nothing of theirs runs."""
    for kind, kept in KEPT.items():
        until = now_ms - int(kept.total_seconds()) * 1000
        for table in (limit_leases, limit_windows):
            connection.execute(delete(table).where(table.c.kind == kind, table.c.begun_ms < until))
    # Who has ended leases nothing; a slot has no window that would end.
    slots = limit_leases.c.kind == "inflight"
    gone = select(servers.c.id).where(servers.c.ended_ms < ended_ms - PLACES)
    connection.execute(delete(limit_leases).where(slots, limit_leases.c.leased == 0))
    connection.execute(delete(limit_leases).where(slots, limit_leases.c.owner.in_(gone)))
