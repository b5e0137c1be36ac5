"""Stage three: which snapshot of the reasoner becomes `demo`.

A reasoner that is nearly always right shows nothing of what thinking longer is worth. So the latest snapshot is taken
that still leaves a verifier something to find: among 32 samples the right answer is there LEFT more often than it has
the majority. It is looked for by bisection, on questions that neither training nor evaluation sees.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from ponder.models import reasoner
from ponder.models import tokenizer as words
from ponder.models.chains import read
from ponder.models.evaluate import by_groups, questions

LEFT = 0.10
SAMPLES = 32
EACH = 20
DEMO = Path(__file__).parent / "demo"
CHOSEN = words.WORK / "chosen"


def left_to_find(folder: Path, seed: int = 80_001) -> float:
    """How much more often one of SAMPLES is right than their majority, in [0, 1]."""
    from ponder.models.sample import Ask, Writer, question

    tokenizer = words.load(folder)
    problems = questions(EACH, seed)
    writer = Writer(folder)
    flat = writer.write([Ask(question(problem.question)) for problem in problems for _ in range(SAMPLES)], seed=5)
    writer.close()
    one, voted, found = [], [], []
    for at, problem in enumerate(problems):
        chains = [read(tokenizer, ids) for ids in flat[at * SAMPLES : (at + 1) * SAMPLES]]
        right = [chain.right(problem) for chain in chains]
        one.append(np.mean(right))
        voted.append(by_groups(problem, chains, SAMPLES))
        found.append(any(right))
    left = float(np.mean(found) - np.mean(voted))
    print(
        f"{folder.name}: one sample {np.mean(one):.3f}, majority of {SAMPLES} {np.mean(voted):.3f}, "
        f"any {np.mean(found):.3f}, left {left:.3f}",
        flush=True,
    )
    return left


def build() -> None:
    """Copies the chosen snapshot to `models/demo`; chosen already is chosen."""
    if not CHOSEN.exists():
        snapshots = sorted(reasoner.SNAPSHOTS.iterdir())
        low, high = 0, len(snapshots)  # the first is taken where none leaves enough
        while high - low > 1:
            middle = (low + high) // 2
            if left_to_find(snapshots[middle]) >= LEFT:
                low = middle
            else:
                high = middle
        CHOSEN.write_text(snapshots[low].name)
    chosen = reasoner.SNAPSHOTS / CHOSEN.read_text()
    print(f"demo is the reasoner after {int(chosen.name)} steps")
    shutil.copytree(chosen, DEMO, dirs_exist_ok=True)
