"""Flags of the commands that ask a running server, and how such a command ends."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from ponder.clients.ask import MISUSED, URL
from ponder.evaluation.flags import EXTRA, positive, the_extra


def add_to(flags: argparse.ArgumentParser) -> None:
    """The flags that all of these commands have."""
    flags.add_argument("questions", type=Path, help="JSON lines, as docs/evaluate.md has them (.gz, too)")
    flags.add_argument("--url", help=f"the server (default: $PONDER_URL, else {URL}); $PONDER_API_KEY is the key")
    flags.add_argument("--model", help="a model the server lists (default: its first)")
    flags.add_argument("--max-questions", type=positive, metavar="N", help="the first N of the file (default: all)")
    flags.add_argument("--instruction", metavar="TEXT", help="put behind each question, as a paragraph of its own")
    flags.add_argument("--concurrency", type=positive, default=8, metavar="N", help="requests at once (%(default)s)")
    words = "after which the server answers with its best so far (default: its own)"
    flags.add_argument("--timeout", type=float, metavar="SECONDS", help=words)
    words = "how long a request waits in all for a server that is busy or away (%(default)s)"
    flags.add_argument("--patience", type=float, default=600.0, metavar="SECONDS", help=words)


def run(command: Callable[[argparse.Namespace, TextIO], Coroutine[Any, Any, int]], options: argparse.Namespace) -> int:
    """The exit status of a command, and its errors in words."""
    with the_extra():
        for name in EXTRA:
            import_module(name)
    # So that no other command waits for them.
    from ponder.clients.client import AskError
    from ponder.compute.errors import EngineError
    from ponder.evaluation.asking.ask import Stopped
    from ponder.evaluation.asking.connecting import CannotDo
    from ponder.evaluation.asking.journal import WrongJournal
    from ponder.evaluation.asking.questions import WrongQuestions

    try:
        return asyncio.run(command(options, sys.stdout))
    except CannotDo as error:
        return _failed(str(error), MISUSED)
    except (WrongQuestions, WrongJournal, EngineError, AskError) as error:
        return _failed(str(error))
    except OSError as error:
        # A disk that is full, or a place where nobody may write.
        return _failed(f"{error}\nponder: what is done is kept; the same command goes on with it")
    except Stopped as error:
        return _failed(f"stopped: {error}\nponder: what is done is kept; the same command goes on with it")
    except KeyboardInterrupt:
        sys.stderr.write("\nponder: stopped; the same command goes on with what is done\n")
        raise


def _failed(words: str, status: int = 1) -> int:
    sys.stderr.write(f"ponder: {words}\n")
    return status
