"""The playground: one question with one plan, and all that comes of it."""

from __future__ import annotations

import json
from typing import Any

from nicegui import ui

from ponder.console.asking import Asking
from ponder.console.forms import FIELD, Wrong
from ponder.console.page import Page, Visit
from ponder.console.parts import button, panel, text
from ponder.console.plans import Plan, menu

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

__all__ = ["PAGE", "messages"]

AREA = f"{FIELD} autogrow"


def messages(system: str, question: str) -> list[dict[str, str]]:
    """A conversation of one question. Raises `Wrong` where there is none."""
    if not question.strip():
        raise Wrong("write a question first")
    before = [{"role": "system", "content": system}] if system.strip() else []
    return [*before, {"role": "user", "content": question}]


def _fields(seed: float | None, longest: float | None, schema: str) -> dict[str, Any]:
    """The other fields of the request. Raises `Wrong`."""
    found: dict[str, Any] = {}
    if seed is not None:
        found["seed"] = int(seed)
    if longest is not None:
        found["max_answer_tokens"] = int(longest)
    if schema.strip():
        try:
            read = json.loads(schema)
        except ValueError as error:
            raise Wrong(f"the JSON schema is no JSON: {error}") from None
        found["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": read}}
    return found


async def _build(visit: Visit) -> None:
    known = await menu(visit.api)
    with ui.element("div").classes("sides"):
        with panel("Question") as asked:
            question = ui.textarea("Question").props(AREA).classes("long")
            system = ui.textarea("System message").props(AREA)
            plan = Plan(known)
            with ui.expansion("More: seed, length, JSON schema").classes("more"):
                seed = ui.number("Seed", step=1).props(f'{FIELD} placeholder="none: drawn anew each time"')
                longest = ui.number("Answer at most", min=1, step=1).props(f'{FIELD} suffix="tokens"')
                schema = ui.textarea("JSON schema of the answer").props(AREA).classes("code")
            with ui.element("div").classes("line"):
                go = button("Ask", main=True)
                stop = button("Cancel")
                text("Ctrl + Enter asks, too").classes("hint")
        with panel("Answer"):
            asking = Asking("The answer comes here as it is written, and then what was spent on what.")

    def show() -> None:
        go.set_enabled(not asking.running)
        stop.set_visibility(asking.running)

    async def ask() -> None:
        if asking.running:
            return
        try:
            fields = _fields(seed.value, longest.value, schema.value or "")
            wanted = plan.question(messages(system.value or "", question.value or ""), fields)
        except Wrong as error:
            asking.say(f"{str(error)[0].upper()}{str(error)[1:]}.")
            return
        go.disable()
        stop.set_visibility(True)
        try:
            await asking.ask(visit.api, wanted)
        finally:
            show()

    go.on_click(ask)
    stop.on_click(asking.hang_up)
    asked.on("keydown.ctrl.enter", ask)
    show()


PAGE = Page("/", "Playground", _build, "One question with one plan, and all that comes of it.", icon="forum")
