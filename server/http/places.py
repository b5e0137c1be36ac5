"""How many connections there are, in all and from one address; those beyond are told so, and probes answered."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Protocol

from ponder.server.settings import Limits

SPARE = 32
"""Connections beyond the bounds that are open at a time, to be told so. Of more, the oldest goes."""
PROBES = (b"/livez", b"/readyz", b"/health")
"""What is answered on those, too."""


class _Connection(Protocol):
    def drop(self) -> None:
        """Closes it at once."""
        ...


class Places:
    """The connections of one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inside = 0
        self._by_address: Counter[str] = Counter()
        self._spare: dict[_Connection, None] = {}

    def come(self, one: _Connection, address: str) -> None:
        """A connection is made. It has a place, or is spare."""
        if self._has_room(address):
            self._take(address)
            return
        self._spare[one] = None
        if len(self._spare) > SPARE:
            next(iter(self._spare)).drop()

    def full(self, one: _Connection, address: str) -> str | None:
        """Why this connection still has no place; None: it has one."""
        if one not in self._spare:
            return None
        if self._has_room(address):
            del self._spare[one]
            self._take(address)
            return None
        if self._inside >= self._limits.connections:
            return "the server has too many connections; try again soon"
        return "the server has too many connections from this address; close some, or use one for several requests"

    def go(self, one: _Connection, address: str) -> None:
        """It is lost."""
        if one in self._spare:
            del self._spare[one]
            return
        self._inside -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def _has_room(self, address: str) -> bool:
        limits = self._limits
        return self._inside < limits.connections and self._by_address[address] < limits.connections_per_address

    def _take(self, address: str) -> None:
        self._inside += 1
        self._by_address[address] += 1


def of(client: tuple[str, int] | None) -> str:
    """What counts as one address: of IPv6 the network of a site (/64), which one caller has whole."""
    host = client[0] if client else ""
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
