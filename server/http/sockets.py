"""The address a server listens on: had, or refused in words that say what else to try."""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path

from ponder.compute.errors import PonderError

BACKLOG = 2048
"""Connections that may wait until they are accepted."""


class CannotListen(PonderError):
    """The address is not to be had; the message says why and what else to try."""


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet. Raises `CannotListen`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise CannotListen(f"--host {host}: no such address; 127.0.0.1 is this machine") from error
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setblocking(False)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise CannotListen(_why(error, host, port)) from error
    return sock


def checked(fd: int, giver: str) -> socket.socket:
    """The socket of a descriptor that another process has listened on for this one. Raises `CannotListen`."""
    try:
        sock = socket.socket(fileno=fd)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise CannotListen(f"{giver} gives no socket as descriptor {fd}: {error.strerror}") from error
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM or not listens:
        sock.close()
        raise CannotListen(f"{giver} gives a socket that does not listen at a TCP address (ListenStream=HOST:PORT)")
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock


def listen(sock: socket.socket) -> None:
    """From here on callers get in. Raises `CannotListen`, where another program was quicker."""
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        host, port = sock.getsockname()[:2]
        raise CannotListen(_why(error, host, port)) from error


def check_tls(cert: Path | None, key: Path | None) -> None:
    """Raises `CannotListen` where the files do not hold a certificate and its private key."""
    if cert is None or key is None:
        return
    for name, file in (("--tls-cert", cert), ("--tls-key", key)):
        try:
            file.read_bytes()
        except OSError as error:
            raise CannotListen(f"{name} {file}: {error.strerror}") from error
    try:
        # Asked for a password, it has none: by default OpenSSL would ask the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise CannotListen(
            f"--tls-cert {cert} --tls-key {key}: no certificate chain and its private key, both in PEM and the "
            "key without a password"
        ) from error


def url_of(sock: socket.socket, scheme: str = "http") -> str:
    """The address as a link."""
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken by another program: choose another with --port, or --port 0 for any"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has: choose one above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: choose another with --host"
    return f"cannot listen on {host} port {port}: {error.strerror}"
