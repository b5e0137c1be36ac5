"""`ponder compare`: a question file through a running server, in every strategy and budget named."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TextIO

from ponder.evaluation.asking import flags as asking
from ponder.evaluation.flags import positive

ANSWERS, PLANNED = "answers.jsonl", "run.json"
"""The journal in the folder, and what was planned."""
TABLE, PICTURE, PAGE = "table.csv", "plot.png", "report.html"
"""What is written beside the journal when all is asked."""


def add_to(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommand `compare`, added to those of a command line."""
    flags = add_parser(
        "compare",
        help="ask a running server a file of questions in several strategies and budgets, and check the answers",
        description="Asks a running server every question in every strategy and budget, checks the answers, and tells "
        "accuracy, tokens, cost and latency with 95 % intervals. Called again, a run that was stopped goes on.",
    )
    asking.add_to(flags)
    words = "such as direct, auto, majority_vote:n=16:mode=rounds; differences are to the first"
    flags.add_argument("--strategies", nargs="+", required=True, metavar="NAME", help=words)
    words = 'hidden tokens at most, numbers or "auto", with commas or blanks between (default: the model\'s own)'
    flags.add_argument("--budgets", nargs="+", metavar="TOKENS", help=words)
    flags.add_argument("--verifier", metavar="NAME", help="of all plans, such as prm (default: the model's own)")
    words = "how often each question is asked in each plan (%(default)s)"
    flags.add_argument("--repeat", type=positive, default=1, metavar="N", help=words)
    words = "every request has a seed that follows from N, alike in all plans (default: none has one)"
    flags.add_argument("--seed", type=int, metavar="N", help=words)
    words = "where answers are kept and the report is written (default: QUESTIONS-compare, in this folder)"
    flags.add_argument("-o", "--out", type=Path, metavar="FOLDER", help=words)
    flags.set_defaults(command=partial(asking.run, _compare))


async def _compare(options: argparse.Namespace, out: TextIO) -> int:
    # So that no other command waits for them.
    from ponder.evaluation.asking import connecting
    from ponder.evaluation.asking.journal import Journal
    from ponder.evaluation.asking.progress import Progress
    from ponder.evaluation.comparing.compare import Answered, Comparison, answered, compare
    from ponder.evaluation.comparing.page import page
    from ponder.evaluation.comparing.plans import plans as plans_of
    from ponder.evaluation.comparing.plot import drawn
    from ponder.evaluation.comparing.summary import as_csv, as_text, rows

    asked = connecting.questions(options)
    plans = list(plans_of(options.strategies, options.budgets))
    verifier = None if options.verifier is None else connecting.wish(options.verifier, "--verifier")
    folder = options.out or Path(f"{options.questions.name.split('.')[0]}-compare")
    async with connecting.client(options) as client:
        model = await connecting.model(client, options.model)
        await connecting.offered(client, *(dict(plan.strategy) for plan in plans))
        comparison = Comparison(
            questions=asked,
            plans=plans,
            model=model,
            verifier=verifier,
            repeat=options.repeat,
            seed=options.seed,
            instruction=options.instruction,
            timeout=options.timeout,
        )
        with Journal(folder / ANSWERS, folder / PLANNED, comparison.planned) as journal:
            before = [one for one in answered(journal).values() if one.error is None]
            whole = len(asked.all) * len(plans) * options.repeat
            with Progress(whole, len(before)) as progress:
                right = sum(one.right for one in before)

                def on_answer(one: Answered) -> None:
                    nonlocal right
                    right += one.right
                    progress.advance(one.error)
                    progress.show(right=f"{right}/{progress.done}")

                known = await compare(
                    client,
                    comparison,
                    journal,
                    at_once=options.concurrency,
                    patience=options.patience,
                    on_answer=on_answer,
                    on_wait=progress.waits,
                )
    table = rows(comparison, known)
    out.write(as_text(table))
    (folder / TABLE).write_text(as_csv(table), encoding="utf-8")
    (folder / PICTURE).write_bytes(drawn(table, "png"))
    html = page(f"{options.questions.name} on {model}", comparison, known, table)
    (folder / PAGE).write_text(html, encoding="utf-8", errors="replace")
    out.write(f"\n{folder / TABLE}, {PICTURE}, {PAGE}\n")
    failed = [one for one in known.values() if one.error is not None]
    if failed:
        out.write(f"{len(failed)} of {len(known)} requests failed, the last with: {failed[-1].error}\n")
        out.write("they count as wrong answers; the same command asks them again\n")
    return 1 if failed else 0
