"""`ponder ask`: a question from a shell. The answer goes to standard output as it is written, all else to standard
error, so that a pipe gets the answer alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from typing import Any, TextIO

from clients.client import AskError, Client, Refused, Reply

HUNG_UP = 130
"""The exit status of a program that Ctrl-C ended."""


def ask(
    question: str,
    *,
    out: TextIO,
    err: TextIO,
    url: str,
    api_key: str | None = None,
    model: str | None = None,
    budget: int | str | None = None,
    strategy: str | Mapping[str, Any] | None = None,
) -> int:
    """Asks, prints, and returns the exit status: 0, 1 with the server's words on `err`, or 130 after Ctrl-C, which
    hangs up, so the server stops thinking too."""
    begun = False
    try:
        with (
            Client(url, api_key) as client,
            closing(client.stream(question, model=model, thinking_budget=budget, strategy=strategy)) as stream,
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
    """`thought 57 of 256 tokens, answered 4; direct, finished`"""
    usage, thinking = reply.usage, reply.thinking
    of = "" if thinking.budget is None else f" of {thinking.budget}"
    clamped = "" if thinking.budget_clamped_from is None else f" (asked {thinking.budget_clamped_from})"
    samples = f" x{thinking.samples}" if thinking.samples > 1 else ""
    return (
        f"thought {usage.reasoning_tokens}{of} tokens{clamped}, answered {usage.visible_tokens}; "
        f"{thinking.strategy}{samples}, {thinking.stopped_by}"
    )


def _dim(text: str, to: TextIO) -> str:
    return f"\x1b[2m{text}\x1b[0m" if to.isatty() and not os.environ.get("NO_COLOR") else text
