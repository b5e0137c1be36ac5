"""`ponder record`: samples of each question of a file, drawn from a running server and kept as a pool."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ponder.evaluation.asking import flags as asking
from ponder.evaluation.flags import positive

if TYPE_CHECKING:
    from ponder.evaluation.recording.record import Drawn


def add_to(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommand `record`, added to those of a command line."""
    flags = add_parser(
        "record",
        help="draw samples of each question of a file from a running server, as a pool for replays",
        description="Draws independent samples of each question from a running server and writes them down as a pool: "
        "answers, tokens, and where asked for likelihoods and probes. Called again, it goes on where it was stopped.",
    )
    asking.add_to(flags)
    flags.add_argument("-o", "--out", type=Path, required=True, metavar="POOL", help="the file that is written")
    flags.add_argument("--samples", type=positive, default=32, metavar="N", help="of each question (%(default)s)")
    words = "hidden tokens at which a chain is closed; better more than any takes (%(default)s)"
    flags.add_argument("--budget", type=positive, default=32768, metavar="TOKENS", help=words)
    words = "visible tokens of a sample at most (%(default)s)"
    flags.add_argument("--answer-tokens", type=positive, default=2048, metavar="TOKENS", help=words)
    words = "hidden tokens, with commas between, at which each longer chain is asked what it answers: it is drawn anew"
    flags.add_argument("--probes", type=_probes, default=(), metavar="TOKENS", help=f"{words} up to there")
    words = "keep how likely the model found its tokens: a key with the scopes trace and reveal, a server with"
    flags.add_argument("--likelihood", action="store_true", help=f"{words} retain_text = true")
    flags.add_argument("--seed", type=int, default=0, metavar="N", help="what all seeds follow from (%(default)s)")
    flags.set_defaults(command=partial(asking.run, _record))


def _probes(text: str) -> tuple[int, ...]:
    """Rising, each once."""
    return tuple(sorted({positive(one) for one in text.split(",")}))


async def _record(options: argparse.Namespace, out: TextIO) -> int:
    # So that no other command waits for them.
    from ponder.evaluation.asking import connecting
    from ponder.evaluation.asking.journal import Journal
    from ponder.evaluation.asking.progress import Progress
    from ponder.evaluation.recording.record import Recording, record, recorded

    asked = connecting.questions(options)
    path: Path = options.out
    drawn: list[Drawn] = []
    async with connecting.client(options) as client:
        recording = Recording(
            questions=asked,
            model=await connecting.model(client, options.model),
            samples=options.samples,
            budget=options.budget,
            answer_tokens=options.answer_tokens,
            probes=options.probes,
            seed=options.seed,
            likelihood=options.likelihood,
            instruction=options.instruction,
            timeout=options.timeout,
        )
        with Journal(path, path.with_name(path.name + ".run.json"), recording.planned) as journal:
            whole = sum(1 for _ in recording.tasks)
            known = recorded(journal)
            before = sum((question.id, draw) in known for question, draw in recording.tasks)
            missing = whole - before
            requests, tokens = missing * recording.requests_each, missing * recording.tokens_each
            sys.stderr.write(
                f"{missing:,} samples to draw: at most {requests:,} requests and {tokens:,} generated tokens\n"
            )
            with Progress(whole, before) as progress:

                def on_sample(one: Drawn) -> None:
                    if not any(other.cost_usd for other in drawn) and one.cost_usd and one.tokens:
                        most = one.cost_usd / one.tokens * tokens
                        progress.say(f"at what the first sample cost, at most about {most:.4g} USD")
                    drawn.append(one)
                    progress.advance(one.error)
                    usd = sum(other.cost_usd or 0.0 for other in drawn)
                    progress.show(**({"USD": f"{usd:.4g}"} if usd else {}))

                await record(
                    client,
                    recording,
                    journal,
                    at_once=options.concurrency,
                    patience=options.patience,
                    on_sample=on_sample,
                    on_wait=progress.waits,
                )
    return _told(drawn, path, out)


def _told(drawn: Sequence[Drawn], path: Path, out: TextIO) -> int:
    """Says what came of it; the exit status."""
    failed = [one.error for one in drawn if one.error is not None]
    closed, strayed = sum(one.closed for one in drawn), sum(one.strayed for one in drawn)
    out.write(f"{path}: {len(drawn) - len(failed)} samples more, {sum(one.tokens for one in drawn):,} tokens\n")
    if closed:
        out.write(
            f"{closed} of them were closed before they ended, and replays take them as they are: a larger --budget\n"
        )
    if strayed:
        out.write(f"{strayed} probes are left out: with the same seed the model did not write the same chain again\n")
    if failed:
        out.write(f"{len(failed)} samples failed, the last with: {failed[-1]}\n")
        out.write("the same command draws them again\n")
    return 1 if failed else 0
