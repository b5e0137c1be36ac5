"""Requests: which run now and which are over, and the tree of each."""

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from nicegui import ui

from ponder.clients.answers import AskError, Refused
from ponder.console import trees, units
from ponder.console.api import passes, words
from ponder.console.links import linked
from ponder.console.page import Page, Visit
from ponder.console.parts import empty, figure, figures, panel, problem, text

__all__ = ["PAGE", "TREE"]

EVERY = 2.0
"""Seconds between two looks at what runs."""
LIVE = 0.3
"""Seconds between two drawings of a tree that grows."""
MOST = 50
"""Requests that are over and listed."""


# -- the list ----------------------------------------------------------------------------------------------------------


async def _requests(visit: Visit) -> None:
    with panel("Running now", "On the server that was asked; looked at every two seconds."):
        running = ui.element("div").classes("stack")
    with panel("Over", "The latest that the server keeps traces of, the newest first."):
        over = ui.element("div").classes("stack")
    shown: dict[str, Any] = {}

    async def look() -> None:
        try:
            now = (await visit.api.get("/v1/requests"))["data"]
            ended = (await visit.api.get("/v1/traces", limit=MOST))["data"]
        except AskError as error:
            timer.active = passes(error)
            if shown.get("wrong") != words(error):
                shown.clear()
                shown["wrong"] = words(error)
                running.clear()
                over.clear()
                with running:
                    problem(words(error))
            return
        shown.pop("wrong", None)
        if shown.get("now") != now:
            shown["now"] = now
            running.clear()
            with running:
                _running(now)
        if shown.get("ended") != ended:
            shown["ended"] = ended
            over.clear()
            with over:
                _over(ended)

    timer = ui.timer(EVERY, look, immediate=False)
    await look()


def _running(requests: Sequence[Mapping[str, Any]]) -> None:
    if not requests:
        empty("Nothing runs. A request that is asked now shows here while it runs.")
        return
    lines = [
        (
            f"/requests/{one['id']}",
            [
                one["id"],
                one["key"],
                f"{one['model']}, {one['strategy']}",
                one["state"],
                units.seconds(one["seconds"]),
                f"{units.whole(one['tokens']['hidden'])} of {units.tokens(one['budget'])}",
                f"{units.whole(one['samples'])} ended, {units.whole(one['open'])} open",
            ],
        )
        for one in requests
    ]
    linked("Requests that run", ("Request", "Key", "Model, strategy", "State", "Since", "Hidden", "Calls"), lines)


def _over(requests: Sequence[Mapping[str, Any]]) -> None:
    if not requests:
        empty("There are no traces yet: ask something in the playground, and it shows here.")
        return
    lines = [
        (
            f"/requests/{one['id']}",
            [
                one["id"],
                _moment(one.get("ended_at")),
                f"{one['model']}, {one['strategy']}",
                one["ended"].replace("_", " "),
                units.seconds(one["seconds"]),
                units.tokens(one["budget"]),
                "kept" if one["text"] else "",
            ],
        )
        for one in requests
    ]
    linked("Requests that are over", ("Request", "Ended", "Model, strategy", "How", "Took", "Budget", "Text"), lines)


def _moment(at: int | None) -> str:
    return units.NONE if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


# -- the tree ----------------------------------------------------------------------------------------------------------


class _Tree:
    """One request on its page: what is known of it, and where that is shown."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.choices: list[dict[int, Mapping[str, Any]]] = []
        """The calls of each answer, by their numbers."""
        self.over = False
        self.head = ui.element("div").classes("stack")
        self.answers = ui.element("div").classes("stack")
        self._trees: list[ui.html] = []
        self._drawn = False

    def calls(self, choice: int) -> dict[int, Mapping[str, Any]]:
        """Those of an answer."""
        while len(self.choices) <= choice:
            self.choices.append({})
        return self.choices[choice]

    def draw(self) -> None:
        """Shows the calls as they are."""
        while len(self._trees) < len(self.choices):
            number = len(self._trees)
            with self.answers, panel(f"Answer {number + 1}" if number or len(self.choices) > 1 else "Calls"):
                # Whatever is in it was escaped where it was made.
                self._trees.append(ui.html("", sanitize=False))
        for tree, calls in zip(self._trees, self.choices, strict=True):
            tree.set_content(trees.markup(list(calls.values()), over=self.over))


async def _tree(visit: Visit) -> None:
    id = visit.path["id"]
    with ui.element("p"), ui.element("a").props('href="/requests"'):
        text("All requests")
    tree = _Tree(id)
    try:
        trace = await visit.api.get(f"/v1/traces/{quote(id, safe='')}")
    except Refused as error:
        if error.code != "trace_not_found":
            raise
        await _follow(visit, tree)
        return
    _whole(tree, trace)


async def _follow(visit: Visit, tree: _Tree) -> None:
    """A request that runs: what is told of it is drawn as it comes, and its trace in the end."""
    with tree.head:
        said = text("Looking for it", "p").props('role="status"')
        with figures():
            state, model, spent, open_ = (figure(name, units.NONE) for name in ("State", "Asked", "Hidden", "Calls"))
    changed = False
    task: asyncio.Task[Any] | None = None

    def left() -> None:
        if task is not None:
            task.cancel()

    ui.context.client.on_delete(left)

    async def watch() -> None:
        nonlocal changed
        async with aclosing(visit.api.events(f"/v1/requests/{quote(tree.id, safe='')}/events")) as events:
            async for name, told in events:
                if name == "request":
                    one = told["request"]
                    said.set_text("It runs, and this page fills while it does.")
                    state.set_text(f"{one['state']}, {units.seconds(one['seconds'])}")
                    model.set_text(f"{one['model']}, {one['strategy']}")
                    hidden = units.whole(one["tokens"]["hidden"])
                    spent.set_text(f"{hidden} of {units.tokens(one['budget'])}")
                    open_.set_text(f"{units.whole(one['samples'])} ended, {units.whole(one['open'])} open")
                elif name == "call":
                    tree.calls(told["choice"])[told["call"]["number"]] = told["call"]
                    changed = True

    async def look() -> None:
        nonlocal task
        task = asyncio.current_task()
        try:
            try:
                await watch()
            except Refused as error:
                # It may have ended just now.
                if error.code != "request_not_found":
                    raise
            trace = await visit.api.get(f"/v1/traces/{quote(tree.id, safe='')}")
        except AskError as error:
            timer.active = False
            tree.head.clear()
            with tree.head:
                problem(words(error))
            return
        timer.active = False
        _whole(tree, trace)

    def draw() -> None:
        nonlocal changed
        if changed and not tree.over:
            changed = False
            tree.draw()

    timer = ui.timer(LIVE, draw)
    ui.timer(0, look, once=True)


def _whole(tree: _Tree, trace: Mapping[str, Any]) -> None:
    """A request that is over."""
    tree.over = True
    tree.head.clear()
    choices = trace["choices"]
    tree.choices = [{call["number"]: call for call in choice["calls"]} for choice in choices]
    with tree.head, panel():
        text(tree.id, "code")
        with figures():
            figure("Model, strategy", f"{trace['model']}, {trace['strategy']}")
            figure("Budget", units.tokens(trace["budget"]))
            for name, key in (("Hidden", "hidden"), ("Visible", "visible"), ("Read by verifiers", "verifier")):
                figure(name, units.tokens(sum(choice["tokens"][key] for choice in choices)))
            if unseen := sum(bool(call.get("unseen")) for choice in choices for call in choice["calls"]):
                figure("Ends not seen", f"of {units.counted(unseen, 'call')}; billed is what came")
            figure("Took", units.seconds(trace["seconds"]))
            figure("Ended", f"{trace['ended'].replace('_', ' ')}, {_moment(trace.get('ended_at'))}")
        for choice in choices:
            text(_said(choice, alone=len(choices) == 1), "p").classes("says")
    if not any(tree.choices):
        with tree.answers:
            empty("No call was made to the model: the request ended before its turn came.")
        return
    tree.draw()
    for number, choice in enumerate(choices):
        _texts(number, choice, alone=len(choices) == 1)


def _said(choice: Mapping[str, Any], *, alone: bool) -> str:
    """Why an answer ended, and how its votes went."""
    whose = "The answer" if alone else f"Answer {choice['index'] + 1}"
    why = choice.get("stopped_by")
    said = f"{whose} ended: {str(why).replace('_', ' ')}." if why else f"{whose} did not come."
    if choice.get("agreement") is not None:
        said += f" Agreement of its votes: {units.percent(choice['agreement'])}."
    return f"{said} Time without a call to the model: {units.seconds(choice['orchestration_seconds'])}."


def _texts(number: int, choice: Mapping[str, Any], *, alone: bool) -> None:
    """What the calls have written, one at a time, where this key is shown it."""
    found = dict(trees.texts(choice["calls"]))
    if not found:
        return
    with panel("Text" if alone else f"Text of answer {number + 1}", "Of one call; kept by the server's operator."):
        place = ui.element("div").classes("stack")

        def show(call: int) -> None:
            place.clear()
            written = found[call]
            with place:
                for title, words_ in (("Thought", written["thought"]), ("Answer", written["answer"])):
                    text(title, "h3")
                    text(words_ or "Nothing was written.", "pre").classes("written").props('tabindex="0"')

        chosen = next((call["number"] for call in reversed(choice["calls"]) if call["chosen"]), min(found))
        first = chosen if chosen in found else min(found)
        options = {call: f"Call {call}" for call in found}
        ui.select(options, value=first, label="Call", on_change=lambda told: show(told.value)).props("outlined dense")
        place.move(target_index=-1)
        show(first)


PAGE = Page(
    "/requests", "Requests", _requests, says="What runs now, and what became of what was asked.", icon="account_tree"
)
TREE = Page(
    "/requests/{id}",
    "Tree of a request",
    _tree,
    says="Every call to the model: when, for how much, how it was judged, and why it ended.",
    listed=False,
)
