"""`ponder console`: pages for a server, beside it or far from it."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from collections.abc import Callable

URL = "http://127.0.0.1:8000"


def add_to(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommand `console`, added to those of a command line."""
    flags = add_parser("console", help="pages to ask, compare, watch and pay by, for any running server")
    flags.add_argument("--server", metavar="URL", default=URL, help=f"the server it asks (default: {URL})")
    flags.add_argument("--host", default="127.0.0.1", help="the address it listens on (default: 127.0.0.1)")
    flags.add_argument("--port", type=int, default=8080, help="its port (default: 8080; 0: one that is free)")
    words = "a name it may be asked by, beside addresses; several"
    flags.add_argument("--name", "-n", action="append", default=[], help=words)
    flags.add_argument("--sessions", type=int, default=64, help="people signed in at a time (default: 64)")
    flags.add_argument("--idle", type=float, default=60.0, help="minutes until one who does nothing is signed out")
    flags.set_defaults(command=command)


def command(options: argparse.Namespace) -> int:
    """`ponder console`: its exit status. Keys are typed on the page: a flag would show them to the whole machine."""
    from ponder.console.app import Options, serve

    if options.sessions < 1 or not options.idle > 0:
        sys.stderr.write("ponder: --sessions and --idle are above 0\n")
        return 2
    if not _is_loopback(options.host):
        sys.stderr.write(
            f"ponder: keys are typed on these pages, and {options.host} is more than this machine: put TLS before it\n"
        )
    wanted = Options(options.server, options.host, options.port, options.name, options.sessions, options.idle * 60)
    serve(wanted, _tell)
    return 0


def _tell(address: str) -> None:
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
