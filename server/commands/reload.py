"""`ponder reload`: asks a running server to read its configuration again, and tells what came of it."""

from __future__ import annotations

import os
from typing import Any, TextIO

import httpx

from ponder.compute.errors import PonderError
from ponder.server.load_settings import load

LONGEST = 60.0
"""Seconds until it is given up."""


class NotReloaded(PonderError):
    """The server did not do it; the message says why."""


def run(url: str | None, config: str | None, out: TextIO) -> int:
    """Asks the server at `url`, or the one that the configuration describes; the exit status. Raises `NotReloaded`, and
    `WrongSettings`."""
    address = url or os.environ.get("PONDER_URL") or _configured(config)
    key = os.environ.get("PONDER_API_KEY")
    try:
        answer = httpx.post(
            f"{address.rstrip('/')}/v1/reload",
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=LONGEST,
        )
        told: dict[str, Any] = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL):
        raise NotReloaded(f"no server answers at {address}: name it with --url, or send its process SIGHUP") from None
    except ValueError:
        raise NotReloaded(f"what answers at {address} is no server of this kind") from None
    if answer.status_code in (401, 403):
        raise NotReloaded(
            f"{told['error']['message']}; put a key with the scope admin into $PONDER_API_KEY, or send the server's "
            "process SIGHUP"
        )
    if answer.status_code != 200:
        raise NotReloaded(str(told["error"]["message"]))
    out.write(f"changed: {', '.join(told['changed']) or 'nothing'}\n")
    if told["kept"]:
        out.write(f"not changed, wants a restart: {', '.join(told['kept'])}\n")
    return 0


def _configured(config: str | None) -> str:
    settings = load(config)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 (it is read, not bound)
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
