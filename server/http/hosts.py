"""Who a request says it is for and from: one Host, and where no key is asked for, this machine's own names alone.

A server without keys listens on loopback, where web pages reach it too: by a name of theirs that resolves to loopback
(DNS rebinding), or by a form's POST to localhost. A browser tells in both cases, in `Host` and in `Origin`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

from ponder.server.settings import Settings, loopback

HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(:[0-9]{0,5})?")
"""RFC 9110, 7.2, without the comma, which only joined Hosts have."""
READS = (b"GET", b"HEAD", b"OPTIONS")

Refusal = tuple[int, str, str]
"""Status, code, message."""

ONE_HOST = 400, "invalid_host", "a request names its server in the header Host, once"
FOREIGN = (
    403,
    "host_not_allowed",
    "without API keys this server answers to the names of its own machine (localhost, 127.0.0.1, [::1]) and those in "
    "the setting `hosts`, not to the one in Host",
)
CROSS_SITE = (
    403,
    "origin_not_allowed",
    "without API keys this server takes no request from a page of another site, but for those in the setting "
    "`cors_origins`",
)


class Hosts:
    """Checks `Host` and `Origin`."""

    def __init__(self, settings: Settings, is_open: Callable[[], bool] | None = None) -> None:
        """`is_open`: whether a request needs no key, which may change; left out, as the settings say."""
        self._open: Callable[[], bool] = is_open or (lambda: not settings.locked)
        names = frozenset(name.lower() for name in settings.hosts)
        origins = frozenset(settings.cors_origins)

        @lru_cache(maxsize=256)
        def ours(authority: bytes) -> bool:
            found = HOST.fullmatch(authority)
            name = found[1].decode().strip("[]").rstrip(".").lower() if found else ""
            return name in names or name.endswith(".localhost") or loopback(name)

        @lru_cache(maxsize=256)
        def friendly(origin: bytes) -> bool:
            text = origin.decode("latin-1")
            return text in origins or ours(urlsplit(text).netloc.encode("latin-1") if "://" in text else b"")

        self._ours: Callable[[bytes], bool] = ours
        self._friendly: Callable[[bytes], bool] = friendly

    def fault(
        self, hosts: int, host: bytes, origin: bytes | None, method: bytes, url: bytes, version: str
    ) -> Refusal | None:
        """Why the request is refused. `hosts`: how many `Host` it has; `host` is the last."""
        if (hosts != 1 and (hosts or version == "1.1")) or not HOST.fullmatch(host):
            return ONE_HOST
        if not self._open():
            return None
        if hosts and not self._ours(host):
            return FOREIGN
        if not url.startswith(b"/") and b"://" in url and not self._ours(url.partition(b"://")[2].partition(b"/")[0]):
            return FOREIGN
        if origin is not None and method not in READS and not self._friendly(origin):
            return CROSS_SITE
        return None
