"""`ponder calibrate`: learns a policy for a model from its recorded samples."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ponder.evaluation.flags import positive, the_extra

EXAMPLE = """
  ponder record ... and then
  ponder calibrate qwen3-8b.jsonl --model Qwen/Qwen3-8B -o qwen3-8b.policy.json

All pools are to be of one model. Thresholds of auto, how answers scatter, and what the likelihood of chains tells are
learned; each is judged by folds, on questions it was not learned from, and what is not surely better than the server's
own rules is left as it is there. The file is for `policy` of a configuration; docs/policy.md says what is in it.
"""


def add_to(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommand `calibrate`, added to those of a command line."""
    flags = add_parser(
        "calibrate",
        help="learn a policy for a model from its recorded samples, and say what it gains",
        description="Learns the numbers that auto goes by for a model, and says what they gain on questions that they "
        "were not learned from, and how sure that is.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("pools", nargs="+", type=Path, metavar="POOL", help="a file of samples, or a folder of *.jsonl")
    flags.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="where the policy is written")
    flags.add_argument("--model", metavar="NAME", help="whose samples they are: its name, path or alias")
    flags.add_argument("--folds", type=_folds, default=5, metavar="N", help="parts of the questions (%(default)s)")
    words = "orders of the samples of each question (%(default)s)"
    flags.add_argument("--draws", type=positive, default=20, metavar="N", help=words)
    words = "points of accuracy that may be lost for fewer tokens (%(default)s)"
    flags.add_argument("--loss", type=_loss, default=0.3, metavar="POINTS", help=words)
    flags.add_argument("--questions", type=positive, metavar="N", help="of each pool at most, drawn by --seed")
    flags.add_argument("--seed", type=int, default=0, metavar="N", help="what all orders follow from (%(default)s)")
    flags.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    with the_extra():
        from ponder.evaluation.calibrating import report
    return report.tell(options)


def _folds(text: str) -> int:
    if positive(text) < 2:
        raise argparse.ArgumentTypeError("there are two folds at least: one is learned from, the other is not")
    return int(text)


def _loss(text: str) -> float:
    try:
        points = float(text)
    except ValueError:
        points = -1.0
    if not 0 <= points <= 100:
        raise argparse.ArgumentTypeError(f"{text} is no number of points from 0 to 100")
    return points
