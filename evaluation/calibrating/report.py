"""What `ponder calibrate` does and says."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ponder.compute.policy import BUILT_IN, written
from ponder.evaluation import pools
from ponder.evaluation.calibrating.folds import Learned, Terms, calibrate, work
from ponder.evaluation.intervals import Estimate
from ponder.evaluation.replaying.replay import CannotReplay


def tell(options: argparse.Namespace) -> int:
    """Learns, writes the file, and says what it is worth; 1 where that cannot be."""
    terms = Terms(options.folds, options.draws, options.loss, options.seed)
    folder = options.output.parent
    # Before anything is learned, which takes minutes.
    if options.output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        sys.stderr.write(f"ponder: {options.output} cannot be written to\n")
        return 1
    try:
        files = pools.files(options.pools)
        questions = [pools.Pool(file, options.questions, options.seed).questions() for file in files]
        whole = work(sum(map(len, questions)), terms)
        with tqdm(total=whole, file=sys.stderr, unit="vote", unit_scale=True, mininterval=0.5) as bar:
            learned = calibrate(questions, options.model, terms, bar.update)
        options.output.write_text(written(learned.policy, _how(learned, terms, files)))
    except (CannotReplay, ValueError) as error:
        sys.stderr.write(f"ponder: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"ponder: {options.output}: {error.strerror or error}\n")
        return 1
    sys.stdout.write(words(learned, terms, options.output))
    return 0


def words(learned: Learned, terms: Terms, file: Path) -> str:
    """What was found, for people."""
    candidate, gain = learned.candidate, learned.gain
    kept = "kept" if learned.thresholds else "not sure: the server's own stay"
    scattered = learned.policy.urns != BUILT_IN.urns
    lines = [
        f"{learned.questions} questions, {learned.samples} samples, {terms.folds} folds, {terms.draws} orders; "
        "intervals are 95 %, over questions that were not learned from",
        f"thresholds: lead {candidate.lead}, slope {candidate.slope}, start {candidate.start} "
        f"(the server's own: {BUILT_IN.lead}, {BUILT_IN.slope}, {BUILT_IN.start}): {kept}",
        f"  right answers {_of(gain.points, '+.2f', ' points')}",
        f"  tokens {_of(gain.tokens, '.3f')} of the server's own rules, latency {_of(gain.steps, '.3f')}",
        f"how answers scatter: votes of a question {_of(learned.urns, '+.2f')} in natural logarithms more likely: "
        + ("kept" if scattered else "not sure: the server's own stays"),
    ]
    if learned.likelihood is None:
        lines.append("likelihood: not recorded in these pools, or it tells nothing: left as it is")
    else:
        sure = "kept" if learned.policy.likelihood != BUILT_IN.likelihood else "not sure: votes stay even"
        lines.append(
            f"likelihood: a chain of the winning answer outranks another {_of(learned.likelihood, '.3f')}: {sure}"
        )
    return "\n".join([*lines, f"written: {file}"]) + "\n"


def _of(estimate: Estimate, form: str, unit: str = "") -> str:
    return f"{estimate.value:{form}}{unit} ({estimate.low:{form}} to {estimate.high:{form}})"


def _how(learned: Learned, terms: Terms, files: list[Path]) -> dict[str, Any]:
    """The same, for the file."""
    estimates = {
        "points": learned.gain.points,
        "tokens": learned.gain.tokens,
        "steps": learned.gain.steps,
        "votes": learned.urns,
        "likelihood": learned.likelihood,
    }
    told = {
        name: [round(value, 4) for value in (one.value, one.low, one.high)]
        for name, one in estimates.items()
        if one is not None
    }
    candidate = {name: getattr(learned.candidate, name) for name in ("lead", "slope", "start")}
    how = {"pools": [file.name for file in files], "questions": learned.questions, "samples": learned.samples}
    return how | asdict(terms) | {"thresholds": candidate | {"sure": learned.thresholds}, "gains": told}
