"""Whether `confidence` is true as often as it says, over recorded samples of real models.

    python -m bench.calibration POOL... --strategies auto majority_vote:n=32 --caps 32768,0 --draws 4 --json FILE

Every strategy is run over each question several times on the real path, each time over the samples in another order.
The urns it goes by (`compute/full_vote.py`) are learned from the other pools. What it says is held against the vote of
all chains of the same order. The expected calibration error (Naeini et al. 2015) is the mean distance between what was
said and what was true, over ten bins. A cap of 0 is none.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.machine import describe, keep
from bench.reliability import Said, calibration_error, reliability
from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.policy import BUILT_IN, Policy
from ponder.compute.resources import Resources
from ponder.compute.run import Selection
from ponder.compute.text import Prompt
from ponder.engines.replay import RecordedRewards, ReplayEngine
from ponder.engines.samples import Question
from ponder.engines.virtual_time import VirtualTimeLoop
from ponder.evaluation.calibrating.scatter import learn
from ponder.evaluation.pools import Pool, files
from ponder.evaluation.replaying.replay import Setup
from ponder.verifiers import VERIFIERS

AMPLE = 1 << 30
"""A budget that binds nowhere."""


async def deaf(_: Delta) -> None:
    return


class Replay:
    """One pool, and what is known of its chains, as the requests come."""

    def __init__(self, questions: Sequence[Question], policy: Policy) -> None:
        self.engine = ReplayEngine(questions, typical_chain=(3500, 14000))
        rewards = RecordedRewards(self.engine) if any(s.steps for q in questions for s in q.samples) else None
        self.resources = Resources(self.engine, Lengths(3500, 14000), rewards, policy=policy)
        self.judge = "prm" if rewards else "agreement"

    async def ask(self, prompt: Prompt, setup: Setup, cap: int) -> Outcome:
        judge = Selection(self.judge, VERIFIERS[self.judge]())
        fallback = Selection("agreement", VERIFIERS["agreement"]())
        budget = Budget(cap or AMPLE, 1600)
        plan = Plan(prompt, setup.selection(), budget, Sampling(0, 0), judge, fallback)
        return await execute(plan, self.resources, Spending(budget), deaf)


def told(
    questions: Sequence[Question], policy: Policy, options: argparse.Namespace
) -> dict[tuple[str, int], list[Said]]:
    """What each setup said at each cap, and whether the vote in full came to the same."""
    full = Setup.of(f"majority_vote:n={policy.chains}:first={policy.chains}:confidence=1")
    found: dict[tuple[str, int], list[Said]] = {(s.name, cap): [] for s in options.strategies for cap in options.caps}
    requests = [(q, draw) for draw in range(options.draws) for q in range(len(questions))]
    random.Random(0).shuffle(requests)
    replays = {cap: Replay(questions, policy) for cap in options.caps}
    whole = Replay(questions, policy)

    async def all_of_them() -> None:
        for question, draw in requests:
            won = (await whole.ask(whole.engine.ask(question, draw), full, 0)).answer.text
            for cap, replay in replays.items():
                for setup in options.strategies:
                    out = await replay.ask(replay.engine.ask(question, draw), setup, cap)
                    if out.confidence is not None:
                        found[setup.name, cap].append((out.confidence, out.answer.text == won))

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(all_of_them())
    return found


def show(name: str, said: Sequence[Said], requests: int) -> dict[str, Any]:
    """Prints a line and gives its figures."""
    error = calibration_error(said)
    means = [sum(column) / len(said) for column in zip(*said, strict=True)] if said else [0.0, 0.0]
    print(f"{name:64} {error:6.3f} {means[0]:6.3f} {means[1]:6.3f} {len(said):7} of {requests}", flush=True)
    figures = {"error": error, "said": means[0], "true": means[1], "answers": len(said), "requests": requests}
    return {"name": name, **{key: round(value, 4) for key, value in figures.items()}}


def measure(options: argparse.Namespace) -> None:
    read_ = {file.stem: Pool(file).questions() for file in files(options.pools)}
    kept: list[dict[str, Any]] = []
    every: list[list[Said]] = []
    print(f"{'':64} {'ECE':>6} {'said':>6} {'true':>6} answers")
    for name, questions in read_.items():
        others = [other for key, other in read_.items() if key != name]
        urns = learn(others) if others else BUILT_IN.urns
        least = min(len(question.samples) for question in questions)
        policy = replace(BUILT_IN, chains=min(BUILT_IN.chains, least), urns=urns, model=name if options.alone else None)
        chosen = random.Random(1).sample(questions, min(options.questions or len(questions), len(questions)))
        found = told(chosen, policy, options)
        requests = options.draws * len(chosen)
        kept += [show(f"{name} {setup} {cap or 'no cap'}", said, requests) for (setup, cap), said in found.items()]
        whole = [one for said in found.values() for one in said]
        kept.append(show(name, whole, requests * len(found)))
        every.append(whole)
    # Each pool counts as much as each other.
    same = min(map(len, every))
    mixed = [one for whole in every for one in random.Random(2).sample(whole, same)]
    bins = [[round(figure, 4) for figure in one] for one in reliability(mixed)]
    kept.append(show(f"all {len(every)} pools", mixed, len(mixed)) | {"bins": bins})
    keep({**describe(), "rows": kept}, options.json)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="+", type=Path, metavar="POOL")
    parser.add_argument(
        "--strategies",
        nargs="+",
        type=Setup.of,
        default=[Setup.of("auto"), Setup.of("majority_vote:n=16"), Setup.of("majority_vote:n=4:first=4")],
        metavar="NAME[:K=V]",
    )
    parser.add_argument(
        "--caps", type=lambda text: [int(cap) for cap in text.split(",")], default=[0, 131072, 32768], metavar="TOKENS"
    )
    parser.add_argument("--draws", type=int, default=4, help="orders of the samples of each question")
    parser.add_argument("--questions", type=int, help="of each pool, at most")
    parser.add_argument(
        "--alone", action="store_true", help="chains that stand alone, too, as under a policy of the model"
    )
    parser.add_argument("--json")
    measure(parser.parse_args(sys.argv[1:]))


if __name__ == "__main__":
    main()
