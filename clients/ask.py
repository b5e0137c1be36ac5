"""`ponder ask`: a question from a shell. The answer goes to standard output as it is written, all else to standard
error, so that a pipe gets the answer alone."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, TextIO, cast

from ponder.clients.answers import Thinking
from ponder.clients.client import AskError, Client, Refused, Reply

URL = "http://127.0.0.1:8000"
MISUSED = 2
"""The exit status for a command line that cannot be meant."""
HUNG_UP = 130
"""The exit status of a program that Ctrl-C ended."""


def add_to(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommand `ask`, added to those of a command line."""
    flags = add_parser("ask", help="ask a running server, streamed")
    flags.add_argument("question", help="the question")
    flags.add_argument("--budget", metavar="TOKENS", help='hidden tokens at most, 0 for none; "auto": its own choice')
    flags.add_argument("--max-cost", type=float, metavar="USD", help="what all of it may cost at most")
    flags.add_argument("--model", help="a model the server lists (default: its first)")
    flags.add_argument("--strategy", help="what spends the budget, such as majority_vote")
    flags.add_argument("--url", help=f"the server (default: $PONDER_URL, else {URL}); $PONDER_API_KEY is the key")
    flags.set_defaults(command=command)


def command(options: argparse.Namespace) -> int:
    """`ponder ask`: its exit status."""
    budget = cast("str | int | None", options.budget)
    if budget is not None and budget != "auto":
        try:
            budget = int(budget)
        except ValueError:
            return _failed(f'--budget {budget}: a number of tokens, or "auto"', MISUSED, False, sys.stderr)
    return ask(
        options.question,
        out=sys.stdout,
        err=sys.stderr,
        url=options.url or os.environ.get("PONDER_URL") or URL,
        api_key=os.environ.get("PONDER_API_KEY"),
        model=options.model,
        budget=budget,
        max_cost=options.max_cost,
        strategy=options.strategy,
    )


def ask(
    question: str,
    *,
    out: TextIO,
    err: TextIO,
    url: str,
    api_key: str | None = None,
    model: str | None = None,
    budget: int | str | None = None,
    max_cost: float | None = None,
    strategy: str | Mapping[str, Any] | None = None,
) -> int:
    """Asks, prints, and returns the exit status: 0, 1 with the server's words on `err`, or 130 after Ctrl-C, which
    hangs up, so the server stops thinking too."""
    begun = False
    try:
        with (
            Client(url, api_key) as client,
            closing(
                client.stream(question, model=model, thinking_budget=budget, max_cost_usd=max_cost, strategy=strategy)
            ) as stream,
        ):
            for part in stream:
                if isinstance(part, Reply):
                    out.write("\n")
                    out.flush()
                    err.write(_dim(_summary(part), err) + "\n")
                else:
                    begun = True
                    out.write(part.text)
                    out.flush()
    except Refused as error:
        where = f" ({error.param})" if error.param else ""
        return _failed(f"{error.message}{where}", 1, begun, err)
    except AskError as error:
        return _failed(str(error), 1, begun, err)
    except KeyboardInterrupt:
        return _failed("hung up", HUNG_UP, begun, err)
    return 0


def _failed(words: str, status: int, begun: bool, err: TextIO) -> int:
    err.write("\n" * begun + f"ponder: {words}\n")
    return status


def _summary(reply: Reply) -> str:
    """`thought 57 of 256 tokens, answered 4; direct, finished; 0.0000244 of 0.001 USD`"""
    usage, thinking = reply.usage, reply.thinking
    of = "" if thinking.budget is None else f" of {thinking.budget}"
    clamped = "" if thinking.budget_clamped_from is None else f" (asked {thinking.budget_clamped_from})"
    samples = f" x{thinking.samples}" if thinking.samples > 1 else ""
    unseen = f" (the least: ends of {thinking.unseen_calls} not seen)" if thinking.unseen_calls else ""
    return (
        f"thought {usage.reasoning_tokens}{of} tokens{clamped}, answered {usage.visible_tokens}{unseen}; "
        f"{thinking.strategy}{samples}, {thinking.stopped_by}{_cost(thinking)}"
    )


def _cost(thinking: Thinking) -> str:
    """Where the model has a price."""
    if thinking.cost_usd is None:
        return ""
    most = "" if thinking.max_cost_usd is None else f" of {_digits(thinking.max_cost_usd)}"
    return f"; {_digits(thinking.cost_usd)}{most} USD"


def _digits(usd: float) -> str:
    """Without an exponent, to the nano-USD."""
    return f"{usd:.9f}".rstrip("0").rstrip(".")


def _dim(text: str, to: TextIO) -> str:
    return f"\x1b[2m{text}\x1b[0m" if to.isatty() and not os.environ.get("NO_COLOR") else text
