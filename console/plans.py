"""A plan as a person makes one: which model, how the budget is spent, who judges, how much it may think and cost."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nicegui import ui

from ponder.clients.answers import AskError
from ponder.clients.exchange import Messages, Question
from ponder.console import units
from ponder.console.api import Api
from ponder.console.forms import FIELD, Form, Wrong
from ponder.console.parts import text

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

__all__ = ["Menu", "Plan", "menu"]

MILLION = 1_000_000
SILENT = ""
"""What a select has where the request says nothing."""
BUDGETS = {"default": "as the server has it", "auto": "its own choice", "most": "at most"}


@dataclass(frozen=True)
class Menu:
    """What a key may choose from."""

    models: Mapping[str, Mapping[str, Any]]
    """Without those that name a strategy."""
    strategies: Mapping[str, Mapping[str, Any]]
    verifiers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])


async def menu(api: Api) -> Menu:
    """Asks the server for it. Raises `AskError`."""
    models = (await api.get("/v1/models"))["data"]
    told = await api.get("/v1/strategies")
    strategies = {one["name"]: one for one in told["data"]}
    ids = {one["id"] for one in models}
    alone = {one["id"]: one for one in models if one["id"].rpartition(":")[0] not in ids}
    if not alone:
        raise AskError("this key may ask no model of this server")
    return Menu(alone, strategies, {one["name"]: one for one in told.get("verifiers", ())})


def steps(most: int) -> Sequence[int]:
    """Budgets that a slider stops at: 0, powers of two and the halves between them, and the most."""
    powers = itertools.takewhile(lambda n: n < most, (1 << n for n in range(4, 40)))
    between = sorted({n for power in powers for n in (power, power * 3 // 2) if n < most})
    return (0, *between, most)


class Plan:
    """The fields of one, made where it is created."""

    def __init__(self, menu: Menu, strategy: str = SILENT, budget: int = 1024) -> None:
        self._menu = menu
        first = next(iter(menu.models))
        models = list(menu.models)
        self._model = ui.select(models, label="Model", value=first, on_change=self._other_model).props(FIELD)
        names = {SILENT: "as the server has it"}
        strategies = names | {name: name for name in menu.strategies}
        self._strategy = ui.select(
            strategies, label="Strategy", value=strategy if strategy in strategies else SILENT, on_change=self._fields
        ).props(FIELD)
        self._parameters = ui.element("div").classes("parameters")
        self._form = Form({})
        verifiers = names | {name: name for name in menu.verifiers}
        self._verifier = ui.select(verifiers, label="Verifier", value=SILENT, on_change=self._fields).props(FIELD)
        self._judging = ui.element("div").classes("parameters")
        self._judges = Form({})
        with ui.element("div").classes("budget"):
            self._kind = ui.select(BUDGETS, label="Thinking budget", value="most", on_change=self._told).props(FIELD)
            self._steps = steps(int(menu.models[first].get("max_thinking_budget") or 1 << 16))
            nearest = min(range(len(self._steps)), key=lambda n: abs(self._steps[n] - budget))
            self._slider = ui.slider(
                min=0, max=len(self._steps) - 1, step=1, value=nearest, on_change=self._slid
            ).props('aria-label="Thinking budget in steps" color="primary"')
            self._tokens = ui.number("Tokens", value=self._steps[nearest], min=0, step=1, on_change=self._told).props(
                f'{FIELD} suffix="tokens"'
            )
        self._says = text("", "p")
        self._says.classes("cost").props('aria-live="polite"')
        self._money = ui.number("Money at most", min=0, step=0.0001, format="%g", on_change=self._told).props(
            f'{FIELD} suffix="USD" placeholder="no bound"'
        )
        self._fields()
        self._told()

    @property
    def name(self) -> str:
        """What it is called beside others: strategy, and budget."""
        strategy = self._strategy.value or "as the server has it"
        budget = units.tokens(self._budget()) if self._kind.value == "most" else BUDGETS[str(self._kind.value)]
        return f"{strategy}, {budget}"

    def question(self, messages: Messages, more: Mapping[str, Any]) -> Question:
        """The question, with this plan. Raises `Wrong`."""
        strategy = _chosen(self._strategy.value, self._form)
        fields = dict(more)
        if (verifier := _chosen(self._verifier.value, self._judges)) is not None:
            fields["verifier"] = verifier
        money = self._money.value
        return Question(
            messages,
            str(self._model.value),
            {"default": None, "auto": "auto", "most": self._budget()}[str(self._kind.value)],
            float(money) if money else None,
            strategy,
            fields,
        )

    def _budget(self) -> int:
        value = self._tokens.value
        if value is None or value != int(value) or value < 0:
            raise Wrong(f"a thinking budget is a whole number of tokens, and {value} is none")
        return int(value)

    def _fields(self) -> None:
        """The fields of what is chosen."""
        for place, chosen, known in (
            (self._parameters, self._strategy.value, self._menu.strategies),
            (self._judging, self._verifier.value, self._menu.verifiers),
        ):
            place.clear()
            entry = known.get(str(chosen), {})
            with place:
                if entry.get("description"):
                    text(str(entry["description"]), "p").classes("hint")
                form = Form(entry.get("parameters", {}))
            if place is self._parameters:
                self._form = form
            else:
                self._judges = form

    def _slid(self) -> None:
        self._tokens.value = self._steps[_at(self._slider)]

    def _other_model(self) -> None:
        self._steps = steps(int(self._facts.get("max_thinking_budget") or 1 << 16))
        self._slider.props["max"] = len(self._steps) - 1
        self._slider.value = min(_at(self._slider), len(self._steps) - 1)
        self._told()

    @property
    def _facts(self) -> Mapping[str, Any]:
        return self._menu.models[str(self._model.value)]

    def _told(self) -> None:
        """What it costs at most, beside the budget."""
        chosen = self._kind.value == "most"
        self._slider.set_visibility(chosen)
        self._tokens.set_visibility(chosen)
        self._says.set_text(self._most(chosen))

    def _most(self, chosen: bool) -> str:
        facts = self._facts
        prices: Mapping[str, float] | None = facts.get("prices")
        if not prices:
            return "This model has no price, so nothing here costs money."
        most = int(facts.get("max_thinking_budget") or 0)
        try:
            budget = min(self._budget(), most) if chosen else most
        except Wrong as error:
            return f"{error}."
        answer = int(facts.get("answer_tokens") or 0)
        thought, said = budget * prices["thinking"] / MILLION, answer * prices["answer"] / MILLION
        bound = self._money.value
        if bound and bound < thought + said:
            return f"At most {units.usd(bound)}, all of it together: fewer tokens than the budget allows."
        return (
            f"At most {units.usd(thought + said)}: {units.tokens(budget)} of thought {units.usd(thought)}, "
            f"{units.tokens(answer)} of answer {units.usd(said)}. On top the prompt, {units.usd(prices['input'])} "
            f"for a million tokens, and what a reward model reads, {units.usd(prices['verifier'])} for a million."
        )


def _at(slider: ui.slider) -> int:
    return int(slider.value or 0)


def _chosen(name: object, form: Form) -> Mapping[str, Any] | str | None:
    """A name, or one with its parameters; None where the server is to choose."""
    if not name:
        return None
    parameters = form.value
    return {"name": str(name), **parameters} if parameters else str(name)
