"""`python -m tests.simulation --seed 7` replays a seed and prints all that happens; `--seeds 0:500` runs many."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.kinds import ENGINES
from tests.simulation.run import play, shrunk, simulate
from tests.simulation.world import EVERY, drawn


def main() -> int:
    """The command. 1 where a seed fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="one seed, with the log of all that happens")
    parser.add_argument("--seeds", default="0:100", metavar="FROM:TO", help="many, and of each that fails why")
    parser.add_argument("--without", action="append", default=[], choices=EVERY, help="a kind of faults left out")
    parser.add_argument("--engine", choices=list(ENGINES), help="in place of that which a seed has")
    parser.add_argument("--shrink", action="store_true", help="which kinds of faults the seed needs to fail")
    parser.add_argument("--undisturbed", action="store_true", help="what the seed's answers are held against")
    parser.add_argument("--hash", action="store_true", help="prints the hash of each seed's log")
    given = parser.parse_args()
    if given.seed is not None and given.shrink:
        print(f"seed {given.seed} fails with {shrunk(given.seed)}")
        return 0
    if given.seed is not None and given.undisturbed:
        play(drawn(given.seed, given.engine).undisturbed(), shows=True)
        return 0
    first, _, behind = given.seeds.partition(":")
    seeds = range(int(first), int(behind)) if given.seed is None else [given.seed]
    failed, began = 0, time.process_time()
    for seed in seeds:
        ran = simulate(seed, without=given.without, shows=given.seed is not None, kind=given.engine)
        if given.hash or given.seed is not None:
            print(seed, ran.hash, ran.ends, ran.struck, flush=True)
        if ran.problems:
            failed += 1
            print(f"seed {seed} fails; python -m tests.simulation --seed {seed} replays it", flush=True)
            for problem in ran.problems:
                print(f"    {problem}", flush=True)
    print(f"{len(seeds)} seeds, {failed} failed, {time.process_time() - began:.1f} s of processor time")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
