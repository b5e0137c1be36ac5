"""The recipe: `python -m ponder.models.build` makes both demo models from nothing; `--only STAGE` runs one stage.

Every stage picks up where it was stopped; what it has finished is under `models/work/`, and removing that folder starts
anew. On two CPU cores the whole takes about an hour; a GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from ponder.models import tokenizer as words

REASONER_STEPS = 2600
PRM_STEPS = 900


def data() -> None:
    from ponder.models import data

    data.build()


def reasoner() -> None:
    from ponder.models import reasoner

    reasoner.build(REASONER_STEPS)


def choose() -> None:
    from ponder.models import choose

    choose.build()


def rollouts() -> None:
    from ponder.models import choose, rollouts

    rollouts.build(choose.DEMO)


def prm() -> None:
    from ponder.models import prm, reasoner

    finished = reasoner.snapshot(REASONER_STEPS)
    prm.build(finished, PRM_STEPS)
    prm.write(finished)


def evaluate() -> None:
    from ponder.models import choose, evaluate, prm

    evaluate.build(choose.DEMO, prm.DEMO)


STAGES = {
    "data": data,
    "reasoner": reasoner,
    "choose": choose,
    "rollouts": rollouts,
    "prm": prm,
    "evaluate": evaluate,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ponder.models.build", description=__doc__)
    parser.add_argument("--only", choices=STAGES, help="run this stage alone")
    only = parser.parse_args().only
    if only:
        STAGES[only]()
        return
    words.WORK.mkdir(exist_ok=True)
    for stage in STAGES:  # a process each: vLLM and training want different thread settings
        began = time.monotonic()
        print(f"== {stage}", flush=True)
        subprocess.run([sys.executable, "-m", "ponder.models.build", "--only", stage], check=True)
        print(f"== {stage} took {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
