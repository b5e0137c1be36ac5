"""What systemd gives a service, and wants to be told by it: the socket of a `.socket` unit (sd_listen_fds(3)), and that
the service is ready, goes down, or has another main process (sd_notify(3)). Nothing happens where no systemd started
this process. Other service managers that speak the same two protocols do as well."""

from __future__ import annotations

import logging
import os
import socket

from ponder.server.http.sockets import CannotListen, checked

FIRST = 3
"""The descriptor of the first socket that is given."""

log = logging.getLogger("ponder.server")


def socket_of_unit() -> socket.socket | None:
    """The socket that a `.socket` unit has listened on for this process; None where there is none. Raises
    `CannotListen` for what cannot be served."""
    for_us = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not for_us or not count.isdecimal() or count == "0":
        return None
    if count != "1":
        raise CannotListen(f"the socket unit gives {count} sockets, and this server takes one: leave one ListenStream=")
    return checked(FIRST, "the socket unit")


def tell(**news: str | int) -> None:
    """Tells the service manager, by the names of sd_notify(3): `tell(READY=1)`. Where it does not listen, that is its
    affair."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    text = "\n".join(f"{name}={value}" for name, value in news.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.setblocking(False)
        try:
            out.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            log.debug("the service manager was not told %s: %s", ", ".join(news), error.strerror)
