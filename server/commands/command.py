"""The subcommands of `ponder` that want the server: serve a model, make keys, find out what a machine lacks,
look after the ledger, check receipts, see how answers are compared.

Each imports what it needs when it runs, so that a key does not wait for a server's libraries.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast, get_args

from pydantic import ValidationError

from ponder.compute.errors import PonderError
from ponder.server.load_settings import load
from ponder.server.settings import KeySettings, Scope, Settings, WrongSettings, nearest
from ponder.server.settings.ledger import MOST_DAYS

FLAGS = (
    "host",
    "port",
    "tls_cert",
    "tls_key",
    "prm",
    "prm_model",
    "profile",
    "strategy",
    "verifier",
    "thinking_budget",
    "max_thinking_budget",
    "max_cost_usd",
    "answer_tokens",
    "timeout",
    "drain_timeout",
    "log_level",
)
"""Settings that are flags of `serve` too."""
PLACES = ("host", "port", "prm", "prm_model")
"""Those that `doctor` takes."""
SCOPES = f"of {', '.join(get_args(Scope))} (%(default)s)"
LONGEST_GRACE = 30 * 86_400
"""Seconds."""
MISUSED = 2
"""Exit status for a command line or configuration that cannot be meant."""


def add_to(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """The server's subcommands, added to a command line. What a flag means is read off the setting of that name."""
    serve_ = add_parser("serve", help="serve a model over the OpenAI API")
    _settings_of(serve_, FLAGS)
    words = "a vLLM server that serves the model, in the place of an engine here; as often as there are some"
    serve_.add_argument("--replica", dest="replica", action="append", metavar="URL", help=words)
    serve_.add_argument(
        "--with-parent", action="store_true", help="end at once when the process that has started this one ends"
    )
    serve_.set_defaults(command=partial(_told, serve))

    keys_ = add_parser("keys", help="make API keys, list and revoke them").add_subparsers(
        required=True, metavar="COMMAND"
    )
    new = keys_.add_parser("new", help="make a key, show it once, and print its table for ponder.toml")
    new.add_argument("name", help="what it is called")
    new.add_argument("--scopes", default="infer,usage", help=SCOPES)
    words = KeySettings.model_fields["max_thinking_budget"].description
    new.add_argument("--max-thinking-budget", type=int, metavar="TOKENS", help=f"{words} (left out: the server's)")
    new.set_defaults(command=partial(_told, new_key))
    _keys(keys_.add_parser)

    doctor_ = add_parser("doctor", help="tell what is missing to serve, and the line that mends it")
    _settings_of(doctor_, PLACES)
    doctor_.add_argument("--json", action="store_true", help="one JSON object, with all that is known of each model")
    doctor_.set_defaults(command=partial(_told, examine))

    _ledger(add_parser("ledger", help="the durable account of all requests: status, copies, rows that go"))

    reload_ = add_parser("reload", help="have a running server read its keys, prices, limits and policies again")
    words = "the server (default: $PONDER_URL, else as configured); $PONDER_API_KEY is a key with the scope admin"
    reload_.add_argument("--url", help=words)
    _config_of(reload_)
    reload_.set_defaults(command=partial(_told, read_again))

    usage_ = add_parser("usage", help="what was used and what it cost, from the ledger")
    _config_of(usage_)
    _span_of(usage_)
    words = "with commas: key, model, strategy, verifier, day, hour, user, metadata.NAME (%(default)s)"
    usage_.add_argument("--by", default="day,key,model", metavar="GROUPS", help=words)
    formats = "table, csv, json or focus: the FinOps FOCUS format 1.2 (%(default)s)"
    kinds = _one_of("table", "csv", "json", "focus")
    usage_.add_argument("--format", type=kinds, default="table", metavar="FORMAT", help=formats)
    usage_.set_defaults(command=partial(_told, show_usage))

    receipt_ = add_parser("receipt", help="check signed receipts").add_subparsers(required=True, metavar="COMMAND")
    verify = receipt_.add_parser("verify", help="check a receipt, and tell what it covers")
    words = "the receipt, or an answer, a stream or a row of usage with one in it; - is standard input"
    verify.add_argument("file", metavar="FILE", help=words)
    words = "file of public keys (PEM or JWK), or address of a server (default: $PONDER_URL, else this machine's)"
    verify.add_argument("--key", metavar="KEY", help=words)
    words = "compare the tokens, too: of a trace with text, as a key with the scope reveal is given it"
    verify.add_argument("--trace", metavar="FILE", help=words)
    verify.set_defaults(command=partial(_told, check_receipt))

    answers_ = add_parser("answers", help="tell what texts answer, and which of them answer the same")
    answers_.add_argument(
        "file", nargs="?", metavar="FILE", help='lines of JSON, {"texts": [...]} (left out: standard input)'
    )
    answers_.set_defaults(command=partial(_told, compare))


def _told(subcommand: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Its exit status; what went wrong is said on standard error."""
    try:
        return subcommand(options)
    except WrongSettings as error:
        for line in error.message.splitlines():
            sys.stderr.write(f"ponder: {line}\n")
        return MISUSED
    except PonderError as error:
        sys.stderr.write(f"ponder: {error.message}\n")
        return 1


def _keys(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommands of `ponder keys` about keys of the ledger's database."""

    def add(name: str, words: str) -> argparse.ArgumentParser:
        one = add_parser(name, help=words)
        _config_of(one)
        one.set_defaults(command=partial(_told, partial(keep_keys, name)))
        return one

    create = add("create", "make a key in the ledger's database and show it once; servers know it within a second")
    create.add_argument("name", help="what it is called; no other key of the ledger ever is")
    create.add_argument("--scopes", default="infer,usage", help=SCOPES)
    create.add_argument("--owner", help="who answers for it: a person, a team")
    words = "when it ends: a span (30d, 12h), a day (2030-01-31) or a moment (left out: never)"
    create.add_argument("--expires", metavar="TIME", help=words)
    words = "a JSON object of what [[keys]] takes beside these: max_thinking_budget, models, weight, ..."
    create.add_argument("--limits", metavar="JSON", help=words)
    words = "one JSON object for each key"
    add("list", "all keys, those of the configuration too").add_argument("--json", action="store_true", help=words)
    add("revoke", "end a key for ever, within a second").add_argument("key", help="its name or id")
    rotate = add("rotate", "give a key another secret, and show it once")
    rotate.add_argument("key", help="its name or id")
    words = "how long the secret before is good yet (%(default)s)"
    rotate.add_argument("--grace", type=_grace, default=0.0, metavar="SECONDS", help=words)


def _grace(given: str) -> float:
    if not (given.isascii() and given.isdecimal() and len(given) < 8 and int(given) <= LONGEST_GRACE):
        raise argparse.ArgumentTypeError(f"a number of seconds from 0 to {LONGEST_GRACE}")
    return float(given)


def _ledger(parser: argparse.ArgumentParser) -> None:
    """The subcommands of `ponder ledger`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, words: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=words)
        _config_of(one)
        one.set_defaults(command=partial(_told, partial(look_after, name)))
        return one

    add("status", "where it is, its version, how many rows it has")
    add("migrate", "bring its tables to the version of this server")
    add("backup", "copy it as it is now into a new SQLite file").add_argument("file", metavar="FILE")
    add("restore", "put the rows of such a copy into it").add_argument("file", metavar="FILE")
    export = add("export", "write its rows to standard output, one for each request")
    words = "csv, or lines of json (%(default)s)"
    export.add_argument("--format", type=_one_of("csv", "json"), default="csv", metavar="FORMAT", help=words)
    _span_of(export)
    audit = add("audit", "what administrators did: keys, limits, prices, rows that went")
    words = "lines of json instead of a table"
    audit.add_argument("--json", action="store_true", help=words)
    _span_of(audit)
    erase = add("erase", "delete the rows of a user")
    erase.add_argument("user", metavar="USER", help="the value of `user` in the requests")
    words = "keep the rows, without user and metadata, so that no sum changes"
    erase.add_argument("--keep-counts", action="store_true", help=words)
    expire = add("expire", "delete rows that are too old")
    expire.add_argument("--days", type=_days, required=True, metavar="N", help="those of requests that came earlier")


def _one_of(*words: str) -> Callable[[str], str]:
    """One of these words."""

    def word(given: str) -> str:
        if given not in words:
            raise argparse.ArgumentTypeError(f"it is one of {', '.join(words)}{nearest(given, words)}")
        return given

    return word


def _days(given: str) -> int:
    """As `[ledger] retention_days` takes them: a slip of the sign deletes nothing."""
    if not (given.isascii() and given.isdecimal() and len(given) < 6 and 1 <= int(given) <= MOST_DAYS):
        raise argparse.ArgumentTypeError(f"a number of days from 1 to {MOST_DAYS}")
    return int(given)


def _span_of(command: argparse.ArgumentParser) -> None:
    words = "a day (2026-01-31), a moment (2026-01-31T12:00:00Z) or seconds since 1970"
    command.add_argument("--start", metavar="TIME", help=f"requests that came then or later: {words}")
    command.add_argument("--end", metavar="TIME", help="requests that came before then")


def _config_of(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", help="settings (default: $PONDER_CONFIG, else ponder.toml if any)")


def _settings_of(command: argparse.ArgumentParser, flags: Sequence[str]) -> None:
    command.add_argument("model", nargs="?", metavar="MODEL", help=Settings.model_fields["model"].description)
    _config_of(command)
    for name in flags:
        words = (Settings.model_fields[name].description or "").replace("%", "%%")
        command.add_argument("--" + name.replace("_", "-"), dest=name, metavar="X", help=words)


def _load(options: argparse.Namespace, flags: Sequence[str]) -> Settings:
    given = {name: getattr(options, name) for name in ("model", *flags)}
    if urls := getattr(options, "replica", None):
        given["replicas"] = {"urls": urls}
    return load(options.config, **given)


# -- the subcommands --------------------------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> int:
    """`ponder serve`"""
    from ponder.engines.lifeline import end_with_parent
    from ponder.server.serve import serve as serve_models

    if options.with_parent:
        end_with_parent()
    serve_models(_load(options, FLAGS), partial(_load, options, FLAGS), bound=options.with_parent)
    return 0


def new_key(options: argparse.Namespace) -> int:
    """`ponder keys new`: the key, once, and what goes into the configuration."""
    from ponder.server.auth import keys

    key, digest = keys.make()
    id = keys.new_id()
    scopes = [word.strip() for word in cast("str", options.scopes).split(",") if word.strip()]
    try:
        KeySettings(
            name=options.name,
            id=id,
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
        f'[[keys]]\nname = "{options.name}"\nid = "{id}"\nhash = "{digest}"\nscopes = [{listed}]\n'
    )
    if options.max_thinking_budget is not None:
        sys.stdout.write(f"max_thinking_budget = {options.max_thinking_budget}\n")
    return 0


def keep_keys(name: str, options: argparse.Namespace) -> int:
    """`ponder keys create`, `list`, `revoke` and `rotate`"""
    from ponder.server.commands import keys as keys_command

    return keys_command.run(name, options, sys.stdout)


def read_again(options: argparse.Namespace) -> int:
    """`ponder reload`"""
    from ponder.server.commands import reload as reload_command

    return reload_command.run(options.url, options.config, sys.stdout)


def look_after(name: str, options: argparse.Namespace) -> int:
    """`ponder ledger`"""
    from ponder.server.commands import ledger as ledger_command

    return ledger_command.run(name, options, sys.stdout)


def show_usage(options: argparse.Namespace) -> int:
    """`ponder usage`"""
    from ponder.server.commands import usage as usage_command

    return usage_command.run(options, sys.stdout)


def check_receipt(options: argparse.Namespace) -> int:
    """`ponder receipt verify`"""
    from ponder.server.commands import receipt as receipt_command

    return receipt_command.run(options, sys.stdout, sys.stderr)


def compare(options: argparse.Namespace) -> int:
    """`ponder answers`"""
    from ponder.server.commands import answers as answers_command

    if options.file is None:
        return answers_command.tell(sys.stdin, sys.stdout, sys.stderr)
    try:
        with open(options.file, encoding="utf-8") as lines:
            return answers_command.tell(lines, sys.stdout, sys.stderr)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise WrongSettings(f"{options.file}: cannot be read: {reason}") from None


def examine(options: argparse.Namespace) -> int:
    """`ponder doctor`"""
    from ponder.server.commands import doctor

    told = doctor.tell_json if options.json else doctor.tell
    return told(doctor.examine(_load(options, PLACES)), sys.stdout)
