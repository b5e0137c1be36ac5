"""`ponder export`: rollouts of a running server, or of recorded pools, as training data."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ponder.clients.ask import MISUSED, URL
from ponder.evaluation.flags import positive

if TYPE_CHECKING:
    from ponder.evaluation.exporting.formats import Reward, Row, Side
    from ponder.evaluation.exporting.rollouts import Asked

    Maker = Callable[[Asked, Side, int], Iterator[Row]]

KINDS = ("sft", "preferences", "prompts", "groups")


class CannotDo(Exception):
    """What was asked for cannot be done; the message says what to do."""


def add_to(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommand `export`, added to those of a command line."""
    flags = add_parser(
        "export",
        help="write rollouts as training data: SFT, preferences, prompts for GRPO, groups with advantages",
        description="Writes chains of a running server (of this API key's own requests, where their text is kept and "
        "the key has the scopes trace and reveal), or of recorded pools, as training data. docs/export.md has the "
        "formats.",
    )
    flags.add_argument("kind", choices=KINDS, help="what to write")
    flags.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help=".jsonl, or .parquet with pyarrow")
    where = flags.add_argument_group("where from")
    where.add_argument("--url", help=f"the server (default: $PONDER_URL, else {URL}); $PONDER_API_KEY is the key")
    where.add_argument("--pool", type=Path, nargs="+", metavar="FILE", help="in place of a server (docs/pools.md)")
    where.add_argument("--model", help="requests to this model alone (default: to all)")
    words = "questions and what is right, JSON lines as docs/evaluate.md has them; prompts can be written of it alone"
    where.add_argument("--truth", type=Path, metavar="QUESTIONS", help=words)
    which = flags.add_argument_group("which of them")
    which.add_argument("--right", action="store_true", help="right chains alone; wants --truth, or a pool with answers")
    which.add_argument("--min-score", type=float, metavar="S", help="a verifier's score, from 0 to 1")
    which.add_argument("--min-agreement", type=float, metavar="A", help="the share of the question's chains, 0 to 1")
    which.add_argument("--max-per-question", type=positive, metavar="N", help="rows of one question, the best first")
    which.add_argument("--every-chain", action="store_true", help="sft: also chains that were not answered with")
    which.add_argument("--forced", action="store_true", help="also chains whose thought was closed at its limit")
    how = flags.add_argument_group("how")
    words = "preferences and groups: what is good (default: right where that is known, else score)"
    how.add_argument("--reward", choices=("right", "score", "agreement"), help=words)
    words = "preferences: rewards of a pair are further apart than this (%(default)s)"
    how.add_argument("--margin", type=float, default=0.0, metavar="M", help=words)
    how.add_argument("--form", choices=("trl", "verl"), default="trl", help="of prompts (%(default)s)")
    how.add_argument("--data-source", default="ponder", metavar="NAME", help="verl: chooses its reward (%(default)s)")
    how.add_argument("--ability", default="reasoning", metavar="NAME", help="verl (%(default)s)")
    words = "put so many of 1 of the questions into FILE.test..., the others into FILE.train..."
    how.add_argument("--test-share", type=_share, metavar="SHARE", help=words)
    flags.set_defaults(command=partial(run, out=sys.stdout))


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return share


def run(options: argparse.Namespace, out: TextIO) -> int:
    """The exit status, and errors in words."""
    # So that no other command waits for them.
    from ponder.clients.answers import AskError
    from ponder.compute.errors import EngineError
    from ponder.evaluation.asking.questions import WrongQuestions
    from ponder.evaluation.exporting.files import NoParquet

    try:
        asyncio.run(_export(options, out))
    except CannotDo as error:
        return _failed(str(error), MISUSED)
    except (AskError, EngineError, WrongQuestions, NoParquet, OSError, ValueError) as error:
        return _failed(str(error))
    return 0


def _failed(words: str, status: int = 1) -> int:
    sys.stderr.write(f"ponder: {words}\n")
    return status


async def _export(options: argparse.Namespace, out: TextIO) -> None:
    from ponder.evaluation.asking.questions import read
    from ponder.evaluation.exporting import files, formats
    from ponder.evaluation.exporting.rollouts import Truths, judged

    files.check(options.out)
    known = () if options.truth is None else read(options.truth).all
    left_out = Counter[str]()
    truths = Truths(known)
    asked = [await judged(one, truths) for one in await _asked(options, left_out)]
    if options.right and all(one.right is None for question in asked for one in question.rollouts):
        raise CannotDo("--right: nobody knows what is right; --truth names a file of questions and answers")
    maker = _maker(options, asked, left_out)
    made: dict[Side, list[Row]] = {"train": [], "test": []}
    for question in asked:
        side = formats.side(question, options.test_share or 0.0)
        made[side] += maker(question, side, len(made[side]))
    if options.test_share is None:
        parts = {options.out: made["train"]}
    else:
        parts = {options.out.with_suffix(f".{side}{options.out.suffix}"): found for side, found in made.items()}
    for path, found in parts.items():
        files.write(path, found)
        out.write(f"{path}: {len(found)} rows\n")
    for reason, count in sorted(left_out.items()):
        if count:
            out.write(f"left out: {count} {reason}\n")


async def _asked(options: argparse.Namespace, left_out: Counter[str]) -> list[Asked]:
    """The questions with their rollouts."""
    from ponder.clients.sending import AsyncSender
    from ponder.evaluation.asking.questions import read
    from ponder.evaluation.exporting.pooled import from_pools
    from ponder.evaluation.exporting.rollouts import Asked
    from ponder.evaluation.exporting.traced import from_server

    if options.pool:
        if options.url or options.model:
            raise CannotDo("--pool stands in place of a server: leave --url and --model out")
        return from_pools(options.pool, left_out)
    if options.kind == "prompts" and options.truth and not options.url:
        return [Asked(one.messages, (), one) for one in read(options.truth).all]
    url = options.url or os.environ.get("PONDER_URL") or URL
    sender = AsyncSender(url, os.environ.get("PONDER_API_KEY"), None)
    try:
        found = await from_server(sender, model=options.model, forced=options.forced, left_out=left_out)
    finally:
        await sender.close()
    if not found:
        silent = left_out["traces without text"]
        why = "it has no traces of this key's requests"
        if silent:
            why = (
                f"it shows this key no text of its {silent} traces: that wants retain_text = true in the server's "
                "configuration before the requests, and a key with the scopes trace and reveal"
            )
        raise CannotDo(f"nothing to export from {sender.address}: {why}")
    return found


def _maker(options: argparse.Namespace, asked: list[Asked], left_out: Counter[str]) -> Maker:
    """Makes the rows of a question, from its side and how many rows that has. Raises `CannotDo`."""
    from ponder.evaluation.exporting import formats
    from ponder.evaluation.exporting.formats import Filter

    wanted = Filter(
        options.right,
        options.min_score,
        options.min_agreement,
        chosen=options.kind == "sft" and not options.every_chain,
        most=options.max_per_question,
    )
    if options.kind == "sft":
        return lambda one, _side, _number: formats.sft(one, wanted, left_out)
    if options.kind == "prompts" and options.form == "trl":
        return lambda one, _side, _number: formats.trl_prompt(one, left_out)
    if options.kind == "prompts":
        source, ability = options.data_source, options.ability
        return lambda one, side, number: formats.verl_prompt(one, number, side, source, ability, left_out)
    reward = options.reward or _reward(asked)
    if options.kind == "groups":
        return lambda one, _side, _number: formats.groups(one, wanted, reward, left_out)
    return lambda one, _side, _number: formats.preferences(one, wanted, reward, options.margin, left_out)


def _reward(asked: list[Asked]) -> Reward:
    """What is good where nobody says it. Raises `CannotDo` where nothing is known."""
    every = [one for question in asked for one in question.rollouts]
    if any(one.right is not None for one in every):
        return "right"
    if any(one.score is not None for one in every):
        return "score"
    raise CannotDo("nothing says which chains are good: name a file with --truth, or say --reward agreement")
