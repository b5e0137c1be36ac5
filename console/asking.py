"""A question on its way: the answer as it is written, how far it is, what was spent on what; and hanging up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from ponder.clients.answers import AskError, Reply
from ponder.clients.exchange import Question
from ponder.console import units
from ponder.console.api import Api, words
from ponder.console.parts import empty, figure, figures, problem, text
from ponder.console.rendered import Answer

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

__all__ = ["Asked", "Asking"]

SHOWN = 0.1
"""Seconds between two times that an answer which is being written is shown, at least."""
SLOWER = 10
"""Showing it takes one part in so many of the time at most."""
STOPPED = {
    "finished": "it finished",
    "early_agreement": "the vote was settled early",
    "budget": "the thinking budget was used up",
    "cost": "the money bound was reached",
    "quota": "a limit of the key was used up",
    "deadline": "its time was over",
    "draining": "the server is going down",
    "engine_error": "the model failed",
    "repetition": "it went in circles",
}


@dataclass(frozen=True)
class Asked:
    """A whole answer, and the seconds until it was there."""

    reply: Reply
    seconds: float


class Asking:
    """A place for one answer at a time, made where it is created."""

    def __init__(self, nothing: str) -> None:
        self._place = ui.element("div").classes("stack")
        with self._place:
            empty(nothing)
        self._task: asyncio.Task[Any] | None = None
        self._hung_up = False
        ui.context.client.on_delete(self.hang_up)

    @property
    def running(self) -> bool:
        return self._task is not None

    def hang_up(self) -> None:
        """Ends what runs: the server notices and stops its model. Idempotent."""
        if self._task is not None:
            self._hung_up = True
            self._task.cancel()

    def say(self, problem_: str) -> None:
        """A sentence in place of an answer."""
        self._place.clear()
        with self._place:
            problem(problem_)

    async def ask(self, api: Api, question: Question) -> Asked | None:
        """Asks and shows all that comes, and what goes wrong. The whole answer, or None where there is none."""
        self._task, self._hung_up = asyncio.current_task(), False
        self._place.clear()
        with self._place:
            far = text("Sent. Waiting for the server …", "p")
            far.classes("far").props('role="status"')
            answer = Answer()
            after = ui.element("div").classes("stack")
        written, begun, first = "", time.monotonic(), None
        shown, took = 0.0, 0.0

        def watch(told: Mapping[str, Any]) -> None:
            far.set_text(_so_far(told, time.monotonic() - begun))

        try:
            async with aclosing(api.ask(question, watch)) as stream:
                async for part in stream:
                    now = time.monotonic()
                    if isinstance(part, Reply):
                        answer.show(part.text)
                        far.set_text("")
                        with after:
                            _spent(part, now - begun, None if first is None else first - begun)
                        return Asked(part, now - begun)
                    first = first or now
                    written += part.text
                    if now - shown > max(SHOWN, SLOWER * took):
                        answer.show(written)
                        shown = time.monotonic()
                        took = shown - now
        except AskError as error:
            far.set_text("")
            answer.show(written)
            with after:
                problem(words(error))
        except asyncio.CancelledError:
            if not self._hung_up:
                raise
            answer.show(written)
            lasted = units.seconds(time.monotonic() - begun)
            far.set_text(f"Hung up after {lasted}. The server stops, and bills what was made by then.")
        finally:
            self._task = None
        return None


def _so_far(told: Mapping[str, Any], seconds: float) -> str:
    parts = [str(told.get("phase", "")).replace("_", " ").capitalize() or "Running"]
    if told.get("samples_planned"):
        parts.append(f"{told.get('samples', 0)} of {told['samples_planned']} chains finished")
    if told.get("tokens_left") is not None:
        parts.append(f"{units.tokens(told['tokens_left'])} left")
    if told.get("cost_left_usd") is not None:
        parts.append(f"{units.usd(told['cost_left_usd'])} left")
    return ", ".join([*parts, units.seconds(seconds)])


def _spent(reply: Reply, seconds: float, first: float | None) -> None:
    """What the answer came to."""
    usage, thinking = reply.usage, reply.thinking
    discarded = min(thinking.discarded_tokens, usage.reasoning_tokens)
    parts = (
        ("thinking", usage.reasoning_tokens - discarded),
        ("discarded", discarded),
        ("answer", usage.visible_tokens),
        ("verifier", thinking.verifier_tokens),
    )
    bar(parts)
    with figures():
        figure("Cost", units.usd(thinking.cost_usd) if thinking.cost_usd is not None else "no price")
        figure("Time", units.seconds(seconds))
        if first is not None:
            figure("First text after", units.seconds(first))
        figure("Prompt", units.tokens(usage.prompt_tokens))
        if thinking.unseen_calls:
            figure("Ends not seen", f"of {units.counted(thinking.unseen_calls, 'call')}; billed is what came")
        if thinking.budget is not None:
            figure("Thought", f"{units.whole(thinking.spent)} of {units.tokens(thinking.budget)}")
        if thinking.samples_requested > 1:
            figure("Chains", f"{thinking.samples} of {thinking.samples_requested}")
        if thinking.agreement is not None:
            figure("Agreement", units.percent(thinking.agreement))
        if thinking.confidence is not None:
            figure("Confidence", units.percent(thinking.confidence))
        if thinking.score is not None:
            figure(f"Score by {thinking.verifier or 'the verifier'}", f"{thinking.score:.3f} of 1")
    why = STOPPED.get(thinking.stopped_by, thinking.stopped_by)
    clamped = thinking.budget_clamped_from
    lowered = "" if clamped is None else f" The budget was lowered from {units.tokens(clamped)}."
    with ui.element("p").classes("hint"):
        text(f"{thinking.strategy}: {why}.{lowered} Its calls, as a tree: ")
        link = ui.element("a").classes("id")
        link.props["href"] = f"/requests/{reply.request_id}"
        with link:
            text(str(reply.request_id))


def bar(parts: tuple[tuple[str, int], ...]) -> None:
    """Tokens by what they were for, as lengths beside one another, and as a legend with numbers."""
    whole = sum(tokens for _, tokens in parts)
    said = ", ".join(f"{name} {units.tokens(tokens)}" for name, tokens in parts)
    with ui.element("div").classes("spent").props('role="img"') as drawn:
        drawn.props["aria-label"] = f"Tokens: {said}"
        for name, tokens in parts:
            if tokens:
                ui.element("span").classes(f"part {name}").style(f"flex-grow: {tokens / whole:.6f}")
    with ui.element("ul").classes("amounts"):
        for name, tokens in parts:
            with ui.element("li"):
                ui.element("span").classes(f"dot {name}")
                text(f"{name} ")
                text(units.tokens(tokens), "b")
