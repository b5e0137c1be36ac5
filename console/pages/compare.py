"""Compare: the same question through two to four plans at the same time, and again with other seeds."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from nicegui import ui

from ponder.clients.exchange import Question
from ponder.console import units
from ponder.console.asking import Asked, Asking
from ponder.console.forms import FIELD, Wrong
from ponder.console.page import Page, Visit
from ponder.console.pages.playground import AREA, messages
from ponder.console.parts import button, empty, panel, problem, table, text
from ponder.console.plans import Menu, Plan, menu

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

__all__ = ["PAGE"]

FEWEST, MOST = 2, 4
FIRST = ("direct", "majority_vote", "best_of_n", "beam_search")
"""What the plans begin with, where the key may use it."""
SEEDS = 1 << 31
COLUMNS = ("Run", "Plan", "Answer", "Agreement", "Thought", "All tokens", "Cost", "Time", "Seed")
NUMBERS = (3, 4, 5, 6, 7, 8)
ANSWER = 80
"""Characters of an answer in the table."""


class _Column:
    """One plan and its answer."""

    def __init__(self, known: Menu, place: int) -> None:
        with panel(f"Plan {place + 1}") as self.whole:
            with ui.expansion("What it does", value=True).classes("more") as self.opened:
                strategy = FIRST[place] if FIRST[place] in known.strategies else ""
                self.plan = Plan(known, strategy, budget=512)
            self.asking = Asking("Its answer comes here.")


@dataclass(frozen=True)
class _Row:
    run: int
    plan: str
    seed: int
    asked: Asked | None

    @property
    def cells(self) -> tuple[str, ...]:
        if self.asked is None:
            return (str(self.run), self.plan, "no answer", *(units.NONE for _ in range(5)), str(self.seed))
        reply = self.asked.reply
        answer = " ".join(reply.text.split())
        return (
            str(self.run),
            self.plan,
            answer if len(answer) <= ANSWER else f"{answer[:ANSWER]} …",
            units.percent(reply.thinking.agreement),
            units.tokens(reply.usage.reasoning_tokens),
            units.tokens(reply.usage.prompt_tokens + reply.usage.completion_tokens + reply.thinking.verifier_tokens),
            "no price" if reply.thinking.cost_usd is None else units.usd(reply.thinking.cost_usd),
            units.seconds(self.asked.seconds),
            str(self.seed),
        )


class _Comparison:
    """The page."""

    def __init__(self, visit: Visit, known: Menu) -> None:
        self._visit, self._known = visit, known
        self._columns: list[_Column] = []
        self._rows: list[_Row] = []
        self._runs, self._busy = 0, False
        with panel("Question") as asked:
            self._question = ui.textarea("Question").props(AREA).classes("long")
            self._system = ui.textarea("System message").props(AREA)
            with ui.element("div").classes("line"):
                self._seed = ui.number("Seed", value=1, min=0, step=1).props(FIELD).classes("short")
                self._go = button("Ask all", self._ask, main=True)
                self._again = button("Again with another seed", self._other_seed)
                self._stop = button("Cancel", self._hang_up)
                self._more = button("Add a plan", self._add)
                self._less = button("Remove the last", self._remove)
            self._wrong = ui.element("div")
        asked.on("keydown.ctrl.enter", self._ask)
        self._place = ui.element("div").classes("columns")
        with panel("Runs"):
            self._table = ui.element("div")
        for _ in range(FEWEST):
            self._add()

    def _show(self) -> None:
        self._go.set_enabled(not self._busy)
        self._again.set_enabled(not self._busy and self._runs > 0)
        self._stop.set_visibility(self._busy)
        self._more.set_enabled(not self._busy and len(self._columns) < MOST)
        self._less.set_enabled(not self._busy and len(self._columns) > FEWEST)
        self._table.clear()
        with self._table:
            if self._rows:
                table(COLUMNS, [row.cells for row in self._rows], "Each plan in each run, the newest first", NUMBERS)
            else:
                empty("Nothing was asked yet. Each run adds a line for each plan: its answer, and what that took.")

    def _add(self) -> None:
        if len(self._columns) < MOST:
            with self._place:
                self._columns.append(_Column(self._known, len(self._columns)))
            self._show()

    def _remove(self) -> None:
        if len(self._columns) > FEWEST:
            self._columns.pop().whole.delete()
            self._show()

    def _hang_up(self) -> None:
        for column in self._columns:
            column.asking.hang_up()

    async def _other_seed(self) -> None:
        self._seed.value = secrets.randbelow(SEEDS)
        await self._ask()

    async def _ask(self) -> None:
        if self._busy:
            return
        self._wrong.clear()
        try:
            talk = messages(self._system.value or "", self._question.value or "")
            seed = int(self._seed.value or 0)
            wanted = [column.plan.question(talk, {"seed": seed}) for column in self._columns]
            names = [column.plan.name for column in self._columns]
        except Wrong as error:
            with self._wrong:
                problem(f"{str(error)[0].upper()}{str(error)[1:]}.")
            return
        self._busy = True
        self._runs += 1
        self._show()
        for column in self._columns:
            column.opened.set_value(False)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._one(column, question))
                    for column, question in zip(self._columns, wanted, strict=True)
                ]
        finally:
            self._busy = False
        found = [_Row(self._runs, name, seed, task.result()) for name, task in zip(names, tasks, strict=True)]
        self._rows = [*found, *self._rows][:200]
        self._show()

    async def _one(self, column: _Column, question: Question) -> Asked | None:
        with column.whole:
            return await column.asking.ask(self._visit.api, question)


async def _build(visit: Visit) -> None:
    known = await menu(visit.api)
    _Comparison(visit, known)
    text("Answers of different seeds differ; those of one seed and one plan are the same.", "p").classes("hint")


PAGE = Page(
    "/compare",
    "Compare",
    _build,
    "The same question through two to four plans at the same time: answers, agreement, tokens, money, seconds.",
    icon="view_column",
)
