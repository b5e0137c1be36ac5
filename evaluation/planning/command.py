"""`ponder plan`: how many replicas and doors a load needs, how long it waits, what it costs, and what breaks first."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ponder.evaluation.flags import the_extra

EXAMPLE = """
  ponder plan --arrivals 5/s --model qwen2.5-7b-h100 --lengths 764,3674
  ponder plan --arrivals 200000/day --peak 3 --model 1:150,8:950,64:4900 --pool pool.jsonl --strategy auto --p95 120
  ponder plan --arrivals 20/s --model model.json --strategy direct@0.8 --strategy auto@0.2 --price 2.5 --json plan.json

--model is tokens a second of one replica by chains at once (all together), typed or in a JSON file:

  {"tokens_per_second": {"1": 150, "8": 950, "64": 4900}, "read_seconds": 0.00004, "context_seconds": 2e-8,
   "slots": 64, "lengths": {"p50": 800, "p90": 3700}, "price_per_hour": 2.5}

with step_seconds in place of tokens_per_second, if you like. context_seconds is what each token in the contexts of all
chains adds to a step; the rates are then those of short contexts. python -m bench.decode measures all of these.

How many replicas follows from formulas; how long requests
wait is simulated, on at most 16 replicas: more wait less. What a door and PostgreSQL carry was measured on two cores
and differs from machine to machine. auto is reckoned by votes alone; the likelihood of chains spares some of it.
docs/scaling.md has the formulas, what was measured, and which layout is for whom.
"""


def add_to(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommand `plan`, added to those of a command line."""
    flags = add_parser(
        "plan",
        help="how many replicas and doors a load needs, how long it waits, what it costs, what breaks first",
        description="Says how many replicas and doors a load needs, how long requests wait there, what it costs, and "
        "what breaks first when it grows.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = "requests: 5/s, 300/min, 200000/day; a number alone is a second's"
    flags.add_argument("--arrivals", required=True, metavar="N[/UNIT]", help=words)
    words = "the busiest time of the day over the mean (%(default)s: none is busier)"
    flags.add_argument("--peak", type=float, default=1.0, metavar="FACTOR", help=words)
    words = "a JSON file, tokens a second by chains at once, or a name that is known"
    flags.add_argument("--model", required=True, metavar="FILE|N:RATE,...|NAME", help=words)
    words = "chains that a replica works on at a time (default: the model's; the most that was measured)"
    flags.add_argument("--slots", type=int, metavar="N", help=words)
    words = "with its share of all requests, if there are several (default: auto)"
    flags.add_argument("--strategy", action="append", metavar="NAME[:K=V][@SHARE]", help=words)
    words = "thinking budget of a request, with its answer (default: none binds)"
    flags.add_argument("--budget", type=int, metavar="TOKENS", help=words)
    flags.add_argument("--judged", action="store_true", help="a verifier chooses among the answers of auto")
    chains = flags.add_mutually_exclusive_group()
    words = "of a chain in tokens, its answer included (default: the model's, else 3500,14000)"
    chains.add_argument("--lengths", metavar="P50,P90", help=words)
    chains.add_argument("--pool", type=Path, metavar="FILE", help="recorded samples in place of that (docs/pools.md)")
    flags.add_argument("--prompt", type=int, default=500, metavar="TOKENS", help="of a request (%(default)s)")
    words = "the part of a replica's time that may be used at the busiest time (%(default)s)"
    flags.add_argument("--load", type=float, default=0.8, metavar="PART", help=words)
    words = "so long may 95 of 100 requests take, at most; more replicas are added for that"
    flags.add_argument("--p95", type=float, metavar="SECONDS", help=words)
    flags.add_argument("--replicas", type=int, metavar="N", help="there are so many; how they do is told")
    flags.add_argument("--doors", type=int, metavar="N", help="there are so many")
    words = "milliseconds of its processor that a door takes for a request (%(default)s, as measured)"
    flags.add_argument("--door-request", type=float, default=REQUEST_MS, metavar="MS", help=words)
    words = "microseconds for a token of a chain, hidden ones too (%(default)s, as measured)"
    flags.add_argument("--door-token", type=float, default=TOKEN_US, metavar="US", help=words)
    flags.add_argument("--max-inflight", type=int, default=256, metavar="N", help="the server's setting (%(default)s)")
    flags.add_argument("--max-chains", type=int, default=4096, metavar="N", help="the server's setting (%(default)s)")
    words = "requests a second that PostgreSQL carries (%(default)s, as measured)"
    flags.add_argument("--database", type=float, default=6745.0, metavar="N", help=words)
    flags.add_argument("--price", type=float, metavar="AMOUNT", help="of a replica an hour (default: the model's)")
    words = "how many are simulated (%(default)s); 0: formulas alone"
    flags.add_argument("--requests", type=int, default=6000, metavar="N", help=words)
    flags.add_argument("--seed", type=int, default=0, metavar="N", help="what is drawn follows from it (%(default)s)")
    flags.add_argument("--json", type=Path, metavar="FILE", help='write the plan as JSON; "-" is standard output')
    flags.set_defaults(command=_command)


REQUEST_MS, TOKEN_US = 3.2, 6.2


def _command(options: argparse.Namespace) -> int:
    with the_extra():
        from ponder.evaluation.planning import report
    return report.tell(options)
