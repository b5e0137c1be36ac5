"""`ponder replay`: the strategies over recorded samples, without a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ponder.evaluation.flags import positive, the_extra

EXAMPLE = """
  ponder replay aime.jsonl --strategies majority_vote:n=32 auto auto:prefer=latency
  ponder replay pools/ --strategies direct auto majority_vote:n=16 --caps 8192,32768 --plot curve.svg --jobs 2

Every setup is run on each question several times, each time over the samples in another order, which is the same for
all setups. Of a figure the first half-width is that of the 95 % interval over questions and resamplings, the second
that over resamplings of these questions; differences are by pairs. Latency is in decode steps of the model. Requests
come one after the other and learn chain lengths from those before, beginning with --prior. docs/pools.md says what a
pool is.
"""


def add_to(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommand `replay`, added to those of a command line."""
    flags = add_parser(
        "replay",
        help="run strategies over recorded samples, without a model: accuracy, tokens, latency, cost",
        description="Runs the real strategies over recorded samples in virtual decode steps, without a model, and "
        "tells accuracy, tokens, latency and cost with 95 % intervals.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("pools", nargs="+", type=Path, metavar="POOL", help="a file of samples, or a folder of *.jsonl")
    words = "setups, such as direct, auto, majority_vote:n=16:mode=rounds (default: direct auto)"
    flags.add_argument("--strategies", nargs="+", default=["direct", "auto"], metavar="NAME[:K=V]", help=words)
    words = "the setup that all are held against (default: the first)"
    flags.add_argument("--against", metavar="NAME[:K=V]", help=words)
    words = 'thinking budgets, with commas between; "none" binds nowhere (default: none)'
    flags.add_argument("--caps", type=_caps, default=[None], metavar="TOKENS", help=words)
    flags.add_argument(
        "--verifier", metavar="NAME[:K=V]", help="(default: prm where steps have scores, else agreement)"
    )
    words = "orders of the samples of each question (%(default)s)"
    flags.add_argument("--draws", type=positive, default=20, metavar="N", help=words)
    flags.add_argument("--questions", type=positive, metavar="N", help="of each pool at most, drawn by --seed")
    flags.add_argument("--seed", type=int, default=0, metavar="N", help="what all orders follow from (%(default)s)")
    flags.add_argument("--seeded", action="store_true", help="every request carries a seed of its own")
    words = "p50,p90 of a chain, as far as known before the first (3500,14000)"
    flags.add_argument("--prior", type=_prior, default=(3500, 14000), metavar="P50,P90", help=words)
    words = "visible part of a sample of which that was not recorded (%(default)s)"
    flags.add_argument("--answer-tokens", type=positive, default=400, metavar="N", help=words)
    words = "the numbers that auto goes by, as ponder calibrate writes them (default: those built in)"
    flags.add_argument("--policy", type=Path, metavar="FILE", help=words)
    words = "tokens of a question of which that was not recorded (%(default)s)"
    flags.add_argument("--prompt-tokens", type=positive, default=64, metavar="N", help=words)
    words = (
        "USD for a million tokens: input=0.1,output=0.4,verifier=0.05 (or thinking= and answer=), or a configuration"
    )
    flags.add_argument("--prices", metavar="PRICES|FILE", help=f"{words} with a table prices")
    flags.add_argument("--model", metavar="NAME", help="whose prices of that configuration (default: prices.default)")
    flags.add_argument("--jobs", type=positive, default=1, metavar="N", help="setups at a time (%(default)s)")
    words = "keep what is replayed in FILE, and take from it what is there already"
    flags.add_argument("--resume", type=Path, metavar="FILE", help=words)
    flags.add_argument("--json", type=Path, metavar="FILE", help='write all figures as JSON; "-" is standard output')
    flags.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy against tokens, .png or .svg")
    flags.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    with the_extra():
        from ponder.evaluation.replaying import report
    return report.tell(options)


def _caps(text: str) -> list[int | None]:
    return [None if cap.strip() == "none" else positive(cap) for cap in text.split(",")]


def _prior(text: str) -> tuple[int, int]:
    p50, comma, p90 = text.partition(",")
    if not comma or positive(p50) > positive(p90):
        raise argparse.ArgumentTypeError(f"{text} is no P50,P90, two numbers in rising order")
    return int(p50), int(p90)
