"""Stage six: how much thinking pays, on questions nobody trained on.

`python -m ponder.models.evaluate` prints and draws it.

Every share is over fresh test questions of 2 to 10 steps, sampled at temperature 1.0, with a 95 % interval from a
bootstrap over questions.
"""

from __future__ import annotations

import hashlib
import pickle
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from ponder.models import tokenizer as words
from ponder.models.chains import Chain, read, read_at_once, thought_length, vote
from ponder.models.task import Problem, make

if TYPE_CHECKING:
    from ponder.models.sample import Writer

STEPS = range(2, 11)
EACH = 67
BUDGETS = (0, 16, 32, 64, 128, 256)
VOTES = (1, 2, 4, 8, 16, 32)
PICTURE = Path(__file__).resolve().parents[1] / "bench" / "results" / "demo.png"


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def share(values: Sequence[float] | np.ndarray) -> Share:
    """Mean of one value per question, with a bootstrap over questions."""
    array = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).choice(array, (2000, len(array))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Share(float(array.mean()), float(low), float(high))


def questions(each: int, seed: int = 90_001) -> list[Problem]:
    """`each` test problems of every number of steps in STEPS."""
    rng = random.Random(seed)
    return [make(rng, "test", steps) for steps in STEPS for _ in range(each)]


def auc(scores: Sequence[float], good: Sequence[bool]) -> float:
    """Area under the ROC curve: how often a good step scores above a bad one, ties counting half."""
    truth = np.asarray(good, dtype=bool)
    _, place, count = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    n = int(truth.sum())
    return float((ranks[truth].sum() - n * (n + 1) / 2) / (n * (len(truth) - n)))


# How the step scores of a chain become one weight.
FOLDS: dict[str, Callable[[Sequence[float]], float]] = {
    "product": lambda scores: float(np.prod(scores)) if len(scores) else 0.0,
    "lowest": lambda scores: float(min(scores, default=0.0)),
    "last": lambda scores: float(scores[-1]) if len(scores) else 0.0,
}


def by_groups(problem: Problem, chains: Sequence[Chain], size: int, weights: Sequence[float] | None = None) -> float:
    """How often a vote of `size` is right, over all disjoint groups of that size."""
    hits = []
    for at in range(0, len(chains) - size + 1, size):
        here = weights[at : at + size] if weights else None
        hits.append(vote([chain.answer for chain in chains[at : at + size]], here) == problem.answer)
    return float(np.mean(hits))


def best_by_groups(problem: Problem, chains: Sequence[Chain], size: int, weights: Sequence[float]) -> float:
    """How often the chain of highest weight in a group of `size` is right."""
    hits = []
    for at in range(0, len(chains) - size + 1, size):
        best = max(range(at, at + size), key=lambda i: weights[i])
        hits.append(chains[best].right(problem))
    return float(np.mean(hits))


@dataclass(frozen=True)
class Figures:
    """What was measured: named figures, points (way of thinking, tokens a question, accuracy) and, of the reasoner,
    the samples [question][sample][token] they were read from."""

    named: dict[str, object]
    points: list[tuple[str, float, float]]
    samples: list[list[list[int]]]


def measure_reasoner(reasoner: Path, each: int = EACH, samples: int = 32) -> Figures:
    """The figures of the reasoner alone; kept in `work/`, and read from there while its weights are the same."""
    kept = words.WORK / f"evaluation-{_fingerprint(reasoner)}-{each}x{samples}.pickle"
    if kept.exists():
        return pickle.loads(kept.read_bytes())
    from ponder.models.sample import Writer

    tokenizer = words.load(reasoner)
    problems = questions(each)
    writer = Writer(reasoner)
    raw = _samples(writer, problems, samples, kept.with_suffix(".samples"))
    chains = [[read(tokenizer, ids) for ids in group] for group in raw]
    pairs = list(zip(problems, chains, strict=True))
    tokens = float(np.mean([chain.tokens for group in chains for chain in group]))

    figures = Figures({"questions": len(problems), "samples": samples, "tokens a sample": tokens}, [], raw)
    named = figures.named
    named["one sample"] = share([np.mean([c.right(p) for c in group]) for p, group in pairs])
    by_steps: dict[int, list[float]] = defaultdict(list)
    for problem, group in pairs:
        by_steps[len(problem.steps)].append(float(np.mean([c.right(problem) for c in group])))
    named["one sample by steps"] = {steps: float(np.mean(values)) for steps, values in by_steps.items()}
    for size in (n for n in VOTES if n <= samples):
        voted = share([by_groups(p, group, size) for p, group in pairs])
        named[f"majority of {size}"] = voted
        named[f"any of {size}"] = share(
            [np.mean([any(c.right(p) for c in g[at : at + size]) for at in range(0, samples, size)]) for p, g in pairs]
        )
        figures.points.append(("majority vote", size * tokens, voted.value))
    _budgets(writer, tokenizer, problems, figures)
    _second_turn(writer, tokenizer, problems, chains, figures)
    _irrelevant(writer, tokenizer, each, figures)
    writer.close()
    words.WORK.mkdir(exist_ok=True)
    kept.write_bytes(pickle.dumps(figures))
    return figures


def _samples(writer: Writer, problems: list[Problem], samples: int, kept: Path) -> list[list[list[int]]]:
    """`samples` chains of every problem, [problem][sample][token]; kept, because they take most of the time."""
    from ponder.models.sample import Ask, question

    if not kept.exists():
        flat = writer.write([Ask(question(p.question)) for p in problems for _ in range(samples)], seed=1)
        raw = [flat[i * samples : (i + 1) * samples] for i in range(len(problems))]
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(pickle.dumps(raw))
    return pickle.loads(kept.read_bytes())


def _fingerprint(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]


def _budgets(writer: Writer, tokenizer: Tokenizer, problems: list[Problem], figures: Figures) -> None:
    """Accuracy when the thought is closed by force after so many tokens; a shorter thought ends by itself.

    The thoughts are those of the samples, cut, so that budgets differ in nothing else; without any thinking is asked
    anew.
    """
    from ponder.models.sample import Ask, question

    each, raw = 2, figures.samples
    for budget in BUDGETS:
        asked, whole = [], []
        for problem, group in zip(problems, raw, strict=True):
            for ids in group[:each]:
                fits = thought_length(ids) < min(len(ids), budget + 1)
                whole.append(ids if fits and budget else None)
                asked.append(Ask(question(problem.question), tuple(ids[:budget]), thinking=0))
        cut = [ask for ask, ids in zip(asked, whole, strict=True) if ids is None]
        written = iter(writer.write(cut, seed=2))
        right, used = [], []
        for at, ids in enumerate(whole):
            ids = next(written) if ids is None else ids
            chain = read(tokenizer, ids) if budget else read_at_once(tokenizer, ids)
            right.append(chain.right(problems[at // each]))
            used.append(chain.tokens)
        figures.named[f"budget {budget}"] = share(np.array(right, dtype=float).reshape(-1, each).mean(1))
        figures.points.append(("thinking budget", float(np.mean(used)), float(np.mean(right))))


def _second_turn(
    writer: Writer, tokenizer: Tokenizer, problems: list[Problem], chains: list[list[Chain]], figures: Figures
) -> None:
    """The reasoner sees its own first attempt and is asked to check it."""
    from ponder.models.sample import Ask, check

    each = 2
    asked = [
        Ask(check(problem.question, first, "\n".join(first.lines) + "\n"))
        for problem, group in zip(problems, chains, strict=True)
        for first in group[:each]
    ]
    second = [read(tokenizer, ids) for ids in writer.write(asked, seed=3)]
    mended, spoiled = [], []
    for at, chain in enumerate(second):
        problem, first = problems[at // each], chains[at // each][at % each]
        (spoiled if first.right(problem) else mended).append(first.right(problem) != chain.right(problem))
    figures.named["wrong mended by a second turn"] = share(mended)
    figures.named["right spoiled by a second turn"] = share(spoiled)
    figures.named["mended, of all"] = sum(mended) / len(second)
    figures.named["spoiled, of all"] = sum(spoiled) / len(second)
    figures.named["second turn"] = share([c.right(problems[i // each]) for i, c in enumerate(second)])


def _irrelevant(writer: Writer, tokenizer: Tokenizer, each: int, figures: Figures) -> None:
    """The same chains of operations as stories with and without irrelevant sentences."""
    from ponder.models.sample import Ask, question

    repeats = 4
    for name, wanted in (("without", False), ("with", True)):
        problems = [
            make(random.Random(90_002 + 1000 * steps + i), "test", steps, irrelevant=wanted)
            for steps in STEPS
            for i in range(each)
        ]
        asked = [Ask(question(problem.question)) for problem in problems for _ in range(repeats)]
        found = [read(tokenizer, ids) for ids in writer.write(asked, seed=4)]
        right = [found[i].right(problems[i // repeats]) for i in range(len(found))]
        figures.named[f"{name} irrelevant sentences"] = share(np.array(right, dtype=float).reshape(-1, repeats).mean(1))


def measure_prm(prm: Path, tokenizer: Tokenizer, reasoner: Figures, each: int = EACH, judged: int = 16) -> None:
    """Adds the figures of the PRM: AUC of its verdicts on lines against the generator's truth, and what its votes and
    choices are worth."""
    from ponder.models.sample import Judge

    pairs = [
        (problem, [read(tokenizer, ids) for ids in group[:judged]])
        for problem, group in zip(questions(each), reasoner.samples, strict=True)
    ]
    flat = [(p, c) for p, group in pairs for c in group]
    judge = Judge(prm)
    scores = judge.judge([(p.question, c) for p, c in flat])
    judge.close()
    good = [verdict for p, c in flat for verdict in c.verdicts(p)]
    named, tokens = reasoner.named, float(reasoner.named["tokens a sample"])  # type: ignore[arg-type]
    steps = [row[: len(c.lines)] for row, (_, c) in zip(scores, flat, strict=True)]
    named["step AUC"] = auc([score for row in steps for score in row], good)
    named["step AUC, running lowest"] = auc([min(row[: i + 1]) for row in steps for i in range(len(row))], good)
    rows = [scores[i * judged : (i + 1) * judged] for i in range(len(pairs))]
    for name, fold in FOLDS.items():
        weights = [[fold(row) for row in group] for group in rows]
        for size in (n for n in VOTES if 1 < n <= judged):
            voted = share([by_groups(p, g, size, w) for (p, g), w in zip(pairs, weights, strict=True)])
            chosen = share([best_by_groups(p, g, size, w) for (p, g), w in zip(pairs, weights, strict=True)])
            named[f"PRM vote of {size}, {name}"] = voted
            named[f"PRM best of {size}, {name}"] = chosen
            if name == "lowest":
                reasoner.points.append(("PRM-weighted vote", size * tokens, voted.value))
                reasoner.points.append(("PRM best of N", size * tokens, chosen.value))


def table(figures: Figures) -> str:
    """The figures as a Markdown table."""
    rows = ["| figure | value [95 % interval] |", "|---|---|"]
    for name, value in figures.named.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {item:.2f}" for key, item in value.items())
        elif isinstance(value, float):
            value = f"{value:.3f}"
        rows.append(f"| {name} | {value} |")
    return "\n".join(rows)


def draw(figures: Figures, picture: Path = PICTURE) -> None:
    """Accuracy against generated tokens, one line a way of thinking."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for label, tokens, accuracy in figures.points:
        lines[label].append((tokens, accuracy))
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for label, dots in lines.items():
        axes.plot(*zip(*sorted(dots), strict=True), marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("generated tokens a question")
    axes.set_ylabel("share of right answers")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(picture, dpi=130)


def build(reasoner: Path, prm: Path) -> None:
    """Measures both, prints the table and draws the picture."""
    figures = measure_reasoner(reasoner)
    measure_prm(prm, words.load(reasoner), figures)
    print(table(figures))
    draw(figures)


if __name__ == "__main__":
    here = Path(__file__).parent
    build(here / "demo", here / "demo-prm")
