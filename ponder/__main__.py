"""The `ponder` command, also `python -m ponder`. Where the client alone is installed, it can only `ask`."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NoReturn, cast

from ponder.clients import ask
from ponder.server import born

born.tie()

DISTRIBUTION = "ponder-server"
OF_THE_SERVER = (
    *("serve", "keys", "reload", "doctor", "ledger", "usage", "answers"),
    *("replay", "compare", "record", "calibrate", "export", "plan", "console"),
)
"""Subcommands that want the extra `server`."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point: runs a subcommand and exits with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = parser(words).parse_args(words)
        sys.exit(cast("Callable[[argparse.Namespace], int]", options.command)(options))
    except ModuleNotFoundError:
        if not (missing := lacking()):
            raise
        sys.stderr.write(
            f"ponder: the server is not installed, only the client: {', '.join(missing)} missing. "
            f"pip install '{DISTRIBUTION}[cpu]' or '{DISTRIBUTION}[gpu]' brings it with an engine, "
            f"'{DISTRIBUTION}[server]' without one\n"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The command line. Raises `ModuleNotFoundError` where `words` ask for the server and it is not installed."""
    top = argparse.ArgumentParser(prog="ponder", description="A test-time compute inference server.")
    top.add_argument("--version", action="version", version=f"ponder {_version()}")
    subcommands = top.add_subparsers(required=True, metavar="COMMAND")
    try:
        from ponder.console import command as console
        from ponder.evaluation import command as evaluation
        from ponder.server.commands import command
    except ModuleNotFoundError:
        if not lacking() or (words and words[0] in OF_THE_SERVER):
            raise
        top.epilog = f"{', '.join(OF_THE_SERVER)}: not installed; pip install '{DISTRIBUTION}[cpu]' or '[gpu]'"
    else:
        command.add_to(subcommands.add_parser)
        console.add_to(subcommands.add_parser)
        evaluation.add_to(subcommands.add_parser)
    ask.add_to(subcommands.add_parser)
    return top


def lacking() -> list[str]:
    """The distributions of the extra `server` that are not installed."""
    missing: list[str] = []
    for requirement in requires(DISTRIBUTION) or ():
        name = re.match(r"[\w.-]+", requirement)
        if name is not None and re.search(r"""extra == ['"]server['"]""", requirement):
            try:
                version(name[0])
            except PackageNotFoundError:
                missing.append(name[0])
    return missing


def _version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    main()
