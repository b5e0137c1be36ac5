"""The `ponder` command: serve a model, ask one, make keys, find out what a machine lacks.

Each subcommand imports what it needs when it runs, so that a question or a key does not wait for a server's libraries.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn, cast

from pydantic import ValidationError

from compute.errors import PonderError
from server.settings import KeySettings, Scope, Settings, WrongSettings, load

FLAGS = (
    "host",
    "port",
    "prm",
    "prm_model",
    "profile",
    "strategy",
    "verifier",
    "thinking_budget",
    "max_thinking_budget",
    "answer_tokens",
    "timeout",
    "drain_timeout",
    "log_level",
)
"""Settings that are flags of `serve` too."""
PLACES = ("host", "port", "prm", "prm_model")
"""Those that `doctor` takes."""
URL = "http://127.0.0.1:8000"
MISUSED = 2
"""Exit status for a command line or configuration that cannot be meant."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point: runs a subcommand and exits with its status."""
    options = parser().parse_args(arguments)
    command = cast("Callable[[argparse.Namespace], int]", options.command)
    try:
        sys.exit(command(options))
    except WrongSettings as error:
        for line in error.message.splitlines():
            sys.stderr.write(f"ponder: {line}\n")
        sys.exit(MISUSED)
    except PonderError as error:
        sys.stderr.write(f"ponder: {error.message}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def parser() -> argparse.ArgumentParser:
    """The command line. What a flag means is read off the setting of the same name."""
    top = argparse.ArgumentParser(prog="ponder", description="A test-time compute inference server.")
    top.add_argument("--version", action="version", version=f"ponder {_version()}")
    subcommands = top.add_subparsers(required=True, metavar="COMMAND")

    serve_ = subcommands.add_parser("serve", help="serve a model over the OpenAI API")
    _settings_of(serve_, FLAGS)
    serve_.set_defaults(command=serve)

    ask_ = subcommands.add_parser("ask", help="ask a running server, streamed")
    ask_.add_argument("question", help="the question")
    ask_.add_argument("--budget", metavar="TOKENS", help='hidden tokens at most; 0 for none, "auto" for its own choice')
    ask_.add_argument("--model", help="a model the server lists (default: its first)")
    ask_.add_argument("--strategy", help="what spends the budget, such as majority_vote")
    ask_.add_argument("--url", help=f"the server (default: $PONDER_URL, else {URL}); $PONDER_API_KEY is the key")
    ask_.set_defaults(command=ask)

    keys_ = subcommands.add_parser("keys", help="make API keys").add_subparsers(required=True, metavar="COMMAND")
    new = keys_.add_parser("new", help="make a key, show it once, and print its table for ponder.toml")
    new.add_argument("name", help="who it belongs to")
    new.add_argument("--scopes", default="infer,usage", help="of infer, usage, admin, reveal, trace (%(default)s)")
    words = KeySettings.model_fields["max_thinking_budget"].description
    new.add_argument("--max-thinking-budget", type=int, metavar="TOKENS", help=f"{words} (left out: the server's)")
    new.set_defaults(command=new_key)

    doctor_ = subcommands.add_parser("doctor", help="tell what is missing to serve, and the line that mends it")
    _settings_of(doctor_, PLACES)
    doctor_.set_defaults(command=examine)
    return top


def _settings_of(command: argparse.ArgumentParser, flags: Sequence[str]) -> None:
    command.add_argument("model", nargs="?", metavar="MODEL", help=Settings.model_fields["model"].description)
    command.add_argument("--config", metavar="FILE", help="settings (default: $PONDER_CONFIG, else ponder.toml if any)")
    for name in flags:
        words = (Settings.model_fields[name].description or "").replace("%", "%%")
        command.add_argument("--" + name.replace("_", "-"), dest=name, metavar="X", help=words)


def _load(options: argparse.Namespace, flags: Sequence[str]) -> Settings:
    return load(options.config, **{name: getattr(options, name) for name in ("model", *flags)})


def _version() -> str:
    try:
        return version("ponder-server")
    except PackageNotFoundError:
        return "(not installed)"


# -- the subcommands --------------------------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> int:
    """`ponder serve`"""
    from server.serve import serve as serve_models

    serve_models(_load(options, FLAGS))
    return 0


def ask(options: argparse.Namespace) -> int:
    """`ponder ask`"""
    from clients.ask import ask as ask_server

    budget = cast("str | None", options.budget)
    if budget is not None and budget != "auto":
        try:
            budget = int(budget)
        except ValueError:
            raise WrongSettings(f'--budget {budget}: a number of tokens, or "auto"') from None
    return ask_server(
        options.question,
        out=sys.stdout,
        err=sys.stderr,
        url=options.url or os.environ.get("PONDER_URL") or URL,
        api_key=os.environ.get("PONDER_API_KEY"),
        model=options.model,
        budget=budget,
        strategy=options.strategy,
    )


def new_key(options: argparse.Namespace) -> int:
    """`ponder keys new`: the key, once, and what goes into the configuration."""
    from server import keys

    key, digest = keys.make()
    scopes = [word.strip() for word in cast("str", options.scopes).split(",") if word.strip()]
    try:
        KeySettings(
            name=options.name,
            hash=digest,
            scopes=frozenset(cast("list[Scope]", scopes)),
            max_thinking_budget=options.max_thinking_budget,
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        flags = {"scopes": "--scopes", "max_thinking_budget": "--max-thinking-budget"}
        what = flags.get(str(wrong["loc"][0]), "NAME")
        raise WrongSettings(f"{what} {wrong['input']!r}: {wrong['msg'].removeprefix('Input ')}") from None
    listed = ", ".join(f'"{scope}"' for scope in scopes)
    sys.stdout.write(
        f"{key}\n\n# This key is shown once and kept nowhere. Put this into ponder.toml:\n"
        f'[[keys]]\nname = "{options.name}"\nhash = "{digest}"\nscopes = [{listed}]\n'
    )
    if options.max_thinking_budget is not None:
        sys.stdout.write(f"max_thinking_budget = {options.max_thinking_budget}\n")
    return 0


def examine(options: argparse.Namespace) -> int:
    """`ponder doctor`"""
    from server import doctor

    return doctor.tell(doctor.examine(_load(options, PLACES)), sys.stdout)


if __name__ == "__main__":
    main()
