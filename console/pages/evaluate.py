"""Evaluate: a file of questions through strategies and budgets, and how right, how long and how dear each was. It is
`ponder compare`, looked at."""

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nicegui import events, ui

from ponder.clients.answers import AskError
from ponder.console import charts, units
from ponder.console.api import words
from ponder.console.page import Page, Visit
from ponder.console.parts import Text, button, empty, panel, problem, table, text

if TYPE_CHECKING:
    from ponder.evaluation.asking.questions import Questions
    from ponder.evaluation.comparing.compare import Answered, Comparison
    from ponder.evaluation.comparing.summary import Interval, Row

__all__ = ["PAGE"]

LARGEST = 4 << 20
"""Bytes of a file of questions."""
MOST = 20_000
"""Requests of a run."""
AT_ONCE = 16
PATIENCE = 600.0
"""Seconds that a request waits in all for a server that is busy or away."""
SHOWN = 0.5
"""Seconds between two times that the progress is shown."""


class CannotRun(Exception):
    """A run that cannot be meant; the message says what to do."""


@dataclass(eq=False)
class _Run:
    """One run while it goes on."""

    comparison: Comparison
    whole: int
    known: dict[tuple[str, str, int], Answered] = field(default_factory=dict[tuple[str, str, int], Any])
    began: float = field(default_factory=time.monotonic)
    waits: int = 0

    def said(self, *, over: bool = False) -> str:
        """How far it is, and how long it may yet take where it is not `over`."""
        done = len(self.known)
        passed = time.monotonic() - self.began
        told = f"{units.whole(done)} of {units.counted(self.whole, 'request')} answered"
        if 0 < done < self.whole and not over:
            told += f", about {units.seconds(passed / done * (self.whole - done))} left"
        failed = sum(one.error is not None for one in self.known.values())
        if failed:
            told += f", {units.whole(failed)} failed"
        if self.waits:
            told += f", asked again {units.counted(self.waits, 'time')}"
        return told


class _Form:
    """What a run is to be, as it was typed."""

    def __init__(self, models: Sequence[str]) -> None:
        self.questions: Questions | None = None
        self.named = ""
        with panel("Questions", 'JSON lines with "question" and "answer", or GSM8K or MATH-500 as they are published.'):
            # Quasar's own part has no labels, so it is not shown: a button stands for it.
            self.upload = ui.upload(auto_upload=True, max_file_size=LARGEST, on_rejected=self._rejected)
            self.upload.props("accept=.jsonl,.json,.txt").classes("file")
            pick = button("Choose a file, 4 MiB at most")
            field = f"getHtmlElement({self.upload.id}).querySelector('input[type=file]')"
            pick.on("click", js_handler=f"() => {field}.click()")
            self.about = text("No file yet.", "p").props('role="status"')
        with (
            panel("Plans", "Each strategy with each budget; differences are to the first."),
            ui.element("div").classes("grid"),
        ):
            self.model = ui.select(list(models), value=models[0] if models else None, label="Model")
            self.strategies = ui.input(
                "Strategies, with blanks between: direct majority_vote:n=8", value="direct majority_vote:n=4"
            )
            self.budgets = ui.input("Budgets in tokens, with blanks between; empty: the model's own", value="256 1024")
            self.first = ui.number("Questions at most; empty: all", min=1, precision=0)
            self.repeat = ui.number("Times each is asked", value=1, min=1, max=16, precision=0)
            self.at_once = ui.number("Requests at the same time", value=4, min=1, max=AT_ONCE, precision=0)
            self.seed = ui.number("Seed; empty: none", min=0, precision=0)
            for one in (self.model, self.strategies, self.budgets, self.first, self.repeat, self.at_once, self.seed):
                one.props("outlined dense")

    async def take(self, told: events.UploadEventArguments) -> None:
        """Reads the file that was given."""
        from ponder.evaluation.asking.questions import Program, WrongQuestions, read

        with TemporaryDirectory() as folder:
            path = Path(folder) / "questions.jsonl"
            path.write_bytes(await told.file.read())
            try:
                found = await asyncio.to_thread(read, path)
            except WrongQuestions as error:
                # Where it lay here tells nobody anything.
                self._none(str(error).replace(f"{path}", "the file"))
                return
        if any(isinstance(one.right, Program) for one in found.all):
            self._none("questions that are answered by programs are for `ponder compare`: this page runs no programs")
            return
        self.questions, self.named = found, re.sub(r"[^\w.-]", "_", told.file.name)[:80]
        self.about.set_text(f"{told.file.name[:80]}: {units.counted(len(found.all), 'question')}")

    def _rejected(self) -> None:
        self._none("it has more than 4 MiB, or no name that ends in .jsonl, .json or .txt")

    def _none(self, why: str) -> None:
        self.questions = None
        self.about.set_text(f"This file cannot be asked: {why}")

    def comparison(self) -> Comparison:
        """The run. Raises `CannotRun`."""
        from ponder.evaluation.asking.connecting import CannotDo
        from ponder.evaluation.comparing.compare import Comparison
        from ponder.evaluation.comparing.plans import plans

        if self.questions is None:
            raise CannotRun("Give a file of questions first.")
        strategies, budgets = (str(one.value or "").split() for one in (self.strategies, self.budgets))
        if not strategies or not self.model.value:
            raise CannotRun("Name a model and at least one strategy.")
        try:
            named = list(plans(strategies, budgets or None))
        except CannotDo as error:
            raise CannotRun(str(error).replace("--", "")) from None
        asked = self.questions.first(None if self.first.value is None else int(self.first.value))
        seed = None if self.seed.value is None else int(self.seed.value)
        repeat = int(self.repeat.value or 1)
        whole = len(asked.all) * len(named) * repeat
        if whole > MOST:
            raise CannotRun(f"That would be {units.counted(whole, 'request')}, and {units.whole(MOST)} are the most.")
        return Comparison(asked, named, str(self.model.value), repeat=repeat, seed=seed)


async def _evaluate(visit: Visit) -> None:
    models = [one.id for one in await visit.api.models() if ":" not in one.id]
    form = _Form(models)
    form.upload.on_upload(form.take)
    with ui.element("div").classes("line"):
        start = button("Run", main=True)
        stop = button("Stop").props("disable")
    with ui.element("div").classes("stack").props('aria-live="polite"') as place:
        empty("Nothing was run yet. Each answer costs what it costs: begin with a few questions.")
    task: asyncio.Task[Any] | None = None

    def hang_up() -> None:
        if task is not None:
            task.cancel()

    async def run() -> None:
        nonlocal task
        if task is not None:
            return
        place.clear()
        task = asyncio.current_task()
        start.props("disable")
        stop.props(remove="disable")
        try:
            await _carried_out(visit, form, place)
        finally:
            task = None
            start.props(remove="disable")
            stop.props("disable")

    ui.context.client.on_delete(hang_up)
    start.on_click(run)
    stop.on_click(hang_up)


async def _carried_out(visit: Visit, form: _Form, place: ui.element) -> None:
    """A run from its beginning to what came of it."""
    try:
        comparison = form.comparison()
    except CannotRun as error:
        with place:
            problem(str(error))
        return
    run = _Run(comparison, len(comparison.questions.all) * len(comparison.plans) * comparison.repeat)
    with place, panel("Run"):
        bar = ui.linear_progress(value=0, show_value=False, size="8px").props('aria-label="Answered, of all"')
        said = text(run.said(), "p")
        timer = ui.timer(SHOWN, lambda: _show(run, bar, said))
    why, stopped = None, False
    try:
        why = await _asked(visit, run, int(form.at_once.value or 1))
    except asyncio.CancelledError:
        stopped = True
    timer.deactivate()
    bar.set_value(len(run.known) / run.whole)
    said.set_text(run.said(over=True) + (". It was stopped: what was answered until then is below." if stopped else ""))
    with place:
        if why is not None:
            problem(why)
        if any(one.error is None for one in run.known.values()):
            from ponder.evaluation.comparing.summary import as_csv, rows

            # It resamples, which may take a second.
            found = await asyncio.to_thread(rows, comparison, run.known)
            _results(found, as_csv(found), form.named)


def _show(run: _Run, bar: ui.linear_progress, said: Text) -> None:
    bar.set_value(len(run.known) / run.whole)
    said.set_text(run.said())


async def _asked(visit: Visit, run: _Run, at_once: int) -> str | None:
    """Asks all of it; why it could not go on."""
    from ponder.evaluation.asking.ask import Stopped
    from ponder.evaluation.asking.journal import Journal
    from ponder.evaluation.comparing.compare import compare

    def on_answer(one: Answered) -> None:
        run.known[one.key] = one

    def on_wait(_: AskError, __: float) -> None:
        run.waits += 1

    with TemporaryDirectory() as folder:
        try:
            with Journal(Path(folder) / "answers.jsonl", Path(folder) / "run.json", run.comparison.planned) as journal:
                async with visit.api.client() as client:
                    await compare(
                        client,
                        run.comparison,
                        journal,
                        at_once=min(AT_ONCE, at_once),
                        patience=PATIENCE,
                        on_answer=on_answer,
                        on_wait=on_wait,
                    )
        except AskError as error:
            return words(error)
        except Stopped as error:
            return str(error)
    failed = next((one.error for one in run.known.values() if one.error is not None), None)
    return None if failed is None else f"Some failed, and count as wrong. One of them: {failed}"


# -- what came of it ---------------------------------------------------------------------------------------------------


def _results(found: Sequence[Row], saved: str, named: str) -> None:
    with panel("Right, by tokens and by money", "Lines are 95 % intervals over the questions."):
        with ui.element("div").classes("grid"):
            _plot(found, "tokens", "tokens an answer", 1.0)
            _plot(found, "cost", "USD for 1000 answers", 1000.0)
        table(
            (
                "Number",
                "Strategy",
                "Budget",
                "Right",
                "Beside the first",
                "Tokens",
                "USD for 1000",
                "Half took",
                "Failed",
            ),
            [
                [
                    str(number),
                    row.plan.called,
                    "the model's own" if row.plan.budget is None else f"{row.plan.budget} tokens",
                    _span(row.right if row.answers or row.errors else None, "%", 100),
                    _span(row.better, "points", 100, "+.1f"),
                    _span(row.tokens, "tokens", 1, ",.0f"),
                    _span(row.cost, "USD", 1000, ".4g"),
                    units.seconds(row.p50),
                    units.counted(row.errors, "request"),
                ]
                for number, row in enumerate(found, 1)
            ],
            says="Plans, with 95 % intervals",
            numbers=(3, 4, 5, 6, 7, 8),
        )
        save = button("Save as CSV", lambda: ui.download.content(saved.encode(), f"{named}.compared.csv"))
        save.props("icon=download")


def _plot(found: Sequence[Row], figure: str, says: str, times: float) -> None:
    points: list[charts.Point] = []
    for number, row in enumerate(found, 1):
        x: Interval | None = getattr(row, figure)
        if x is not None:
            spans = (x.low * times, x.high * times), (row.right.low, row.right.high)
            points.append(charts.Point(number, row.plan.name, x.mean * times, row.right.mean, *spans))
    if points:
        ui.html(charts.points(points, says, "Right answers"), sanitize=False)
    else:
        empty("What answers cost is not known: the server gives no price.")


def _span(of: Interval | None, unit: str, times: float, form: str = ".1f") -> str:
    if of is None:
        return units.NONE
    mean, low, high = (format(value * times, form) for value in (of.mean, of.low, of.high))
    return f"{mean} {unit} ({low} to {high})"


PAGE = Page(
    "/evaluate",
    "Evaluate",
    _evaluate,
    says="Which strategy, with which budget, is worth it for your questions.",
    icon="fact_check",
)
