"""Where a pool's replicas are: a list, a file that is read again when it changes, a name that DNS has addresses for.

What cannot be read for a moment, or says that there is none, changes nothing: an editor that writes a file anew, or a
name server that is away, must not empty a pool.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

log = logging.getLogger(__name__)

FILE_SECONDS = 1.0
"""Between two looks at a file."""
LARGEST = 1 << 20
"""Bytes of a file at most."""
MOST = 1 << 12
"""Replicas at most."""
DNS_SECONDS = 5.0
"""Between two questions for a name."""
ANSWER_SECONDS = 10.0
"""For the answer to one."""


class Membership(Protocol):
    """Who belongs to a pool."""

    @property
    def interval(self) -> float:
        """Seconds between two readings."""
        ...

    async def read(self) -> Sequence[str] | None:
        """Addresses, at least one; None where that is as it was or cannot be told."""
        ...


def address(text: str) -> str:
    """The address of a vLLM server as it is known by: scheme, host and port, without the /v1 that clients of OpenAI's
    add. Raises `ValueError` in plain words."""
    parts = urlsplit(text.strip())
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise ValueError("the address of a replica is http://host:port or https://host:port")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the key of a replica is set beside its address, not in it")
    return text.strip().rstrip("/").removesuffix("/v1").rstrip("/")


class Listed:
    """Those that were listed."""

    interval = 3600.0

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)

    async def read(self) -> Sequence[str] | None:
        return self._urls or None


class InFile:
    """Those in a file, one a line; what stands behind a `#` is passed over."""

    interval = FILE_SECONDS

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: object = None
        self._fault = ""

    async def read(self) -> Sequence[str] | None:
        return await asyncio.to_thread(self._read)

    def _read(self) -> Sequence[str] | None:
        try:
            found = os.stat(self._file)
            seen = found.st_mtime_ns, found.st_size, found.st_ino
            if seen == self._seen:
                return None
            if found.st_size > LARGEST:
                raise ValueError(f"it has {found.st_size} bytes, above the limit of {LARGEST}")
            urls = self._urls(self._file.read_text())
        except (OSError, ValueError) as error:
            self._broken(f"{type(error).__name__}" if isinstance(error, OSError | UnicodeError) else str(error))
            return None
        self._seen, self._fault = seen, ""
        return urls

    def _urls(self, text: str) -> Sequence[str]:
        urls: list[str] = []
        for number, line in enumerate(text.splitlines(), 1):
            if one := line.partition("#")[0].strip():
                try:
                    urls.append(address(one))
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from None
        if not urls:
            raise ValueError("there is no address in it")
        if len(urls) > MOST:
            raise ValueError(f"it has {len(urls)} addresses, above the limit of {MOST}")
        return urls

    def _broken(self, fault: str) -> None:
        if fault != self._fault:
            log.error("%s: the replicas stay as they were: %s", self._file, fault)
        self._fault = fault


class InDns:
    """Those that a name has addresses for (A and AAAA records)."""

    def __init__(self, url: str, interval: float = DNS_SECONDS) -> None:
        """`url` has the name in place of the host; scheme and port are those of each."""
        self.interval = interval
        self._parts = urlsplit(url)
        self._urls: Sequence[str] = ()
        self._fault = ""

    def name_of(self, url: str) -> str | None:
        """What the certificate of one of those is for: the name. None for others, and where there is no TLS."""
        return self._parts.hostname if self._parts.scheme == "https" and url in self._urls else None

    async def read(self) -> Sequence[str] | None:
        name = self._parts.hostname or ""
        port = self._parts.port or (443 if self._parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except TimeoutError:
            return self._broken(f"no answer within {ANSWER_SECONDS:.0f} s")
        except OSError as error:
            return self._broken(error.strerror or type(error).__name__)
        hosts = sorted({str(where[0]) for *_, where in found})
        if not hosts:
            return self._broken("it has no address")
        self._fault = ""
        netlocs = (_netloc(host, port) for host in hosts[:MOST])
        self._urls = [urlunsplit(self._parts._replace(netloc=netloc)).rstrip("/") for netloc in netlocs]
        return self._urls

    def _broken(self, fault: str) -> None:
        if fault != self._fault:
            log.error("%s: the replicas stay as they were: %s", self._parts.hostname, fault)
        self._fault = fault


class Together:
    """Those of several sources. One that cannot be read counts as it was read last; as long as one never was, it is
    waited for."""

    def __init__(self, sources: Sequence[Membership]) -> None:
        self.sources = sources
        self._known: list[Sequence[str]] = [()] * len(sources)
        self.interval = min(source.interval for source in sources)

    async def read(self) -> Sequence[str] | None:
        found = [await source.read() for source in self.sources]
        if all(urls is None for urls in found):
            return None
        self._known = [known if urls is None else urls for known, urls in zip(self._known, found, strict=True)]
        return [url for urls in self._known for url in urls] or None


def certified(membership: Membership, url: str) -> str | None:
    """The name that the certificate of a replica is for, where that is not in its address."""
    if isinstance(membership, Together):
        return next((name for one in membership.sources if (name := certified(one, url)) is not None), None)
    return membership.name_of(url) if isinstance(membership, InDns) else None


def _netloc(host: str, port: int) -> str:
    bracketed = f"[{host}]" if ipaddress.ip_address(host.partition("%")[0]).version == 6 else host
    return f"{bracketed}:{port}"
