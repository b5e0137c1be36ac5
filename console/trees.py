"""The calls of an answer as a tree on an axis of time: which went on from which, when, with how many tokens, and how
each ended. One table, so that who hears it hears what others see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ponder.console import units

__all__ = ["MOST", "Row", "fate", "markup", "rows"]

MOST = 400
"""Calls that are shown: more are neither read nor drawn at once."""
DEEPEST = 12
"""Steps by which a call is set to the right of the one it goes on from."""

Call = Mapping[str, Any]
"""A call as a trace has it."""

_KINDS = {
    "sample": "sample",
    "stream": "answer, streamed",
    "extend": "step",
    "answer": "answer written",
    "revise": "revision",
    "probe": "probe",
    "summary": "summary",
}
"""Purposes in words; others are shown as they are."""
_ENDINGS = {
    "finished": "finished",
    "stop": "met a stop string",
    "full": "answer cut: all its tokens used up",
    "length": "its share of tokens used up",
    "step": "step over",
    "aborted": "cancelled",
    "lost": "lost: its model went away",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A call in its place of the tree."""

    call: Call
    depth: int


def rows(calls: Sequence[Call]) -> list[Row]:
    """In the order of the tree: each call, then those that go on from it, in the order they were begun."""
    known = {call["number"] for call in calls}
    children: dict[int | None, list[Call]] = {}
    for call in sorted(calls, key=lambda one: one["number"]):
        parent = call["parent"] if call["parent"] in known and call["parent"] < call["number"] else None
        children.setdefault(parent, []).append(call)
    found: list[Row] = []
    waiting = [Row(call, 0) for call in reversed(children.get(None, []))]
    while waiting:
        row = waiting.pop()
        found.append(row)
        waiting += [Row(call, row.depth + 1) for call in reversed(children.get(row.call["number"], []))]
    return found


def fate(call: Call, continued: bool, over: bool) -> tuple[str, str]:
    """How a call ended, in words, and the kind of mark it gets. `continued`: another goes on from it. `over`: the
    request is, so what nobody went on with was pruned."""
    if call["seconds"] is None:
        return "being written", "open"
    ending = call["ending"]
    said = [_ENDINGS.get(ending, str(ending))] if ending is not None else ["ended"]
    if call.get("forced"):
        said.append("thought cut: closed by force, its tokens used up")
    if call.get("unseen"):
        said.append("its end was not seen")
    if call.get("circled"):
        said.append(f"went in circles in its {call['circled']}")
    kind = "plain"
    if call["chosen"]:
        said.insert(0, "chosen")
        kind = "chosen"
    elif ending in ("aborted", "lost"):
        kind = "cut"
    elif over and ending in ("step", "length") and not continued:
        said.insert(0, "pruned: nothing went on from it")
        kind = "pruned"
    elif call.get("forced") or ending == "full":
        kind = "cut"
    return "; ".join(said), kind


def markup(calls: Sequence[Call], *, over: bool, until: float | None = None) -> str:
    """The tree as HTML, everything in it escaped. `until`: seconds of the axis at least."""
    if not calls:
        return ""
    shown = rows(calls)[:MOST]
    parents = {call["parent"] for call in calls}
    end = max([until or 0.0, 1e-6, *(one["started"] + (one["seconds"] or 0.0) for one in calls)])
    lines = "".join(_line(row, end, fate(row.call, row.call["number"] in parents, over)) for row in shown)
    left = len(calls) - len(shown)
    more = f'<p class="says">{units.whole(left)} calls more are not shown.</p>' if left > 0 else ""
    ticks = "".join(f"<span>{escape(units.seconds(end * part / 4) if part else '0 s')}</span>" for part in range(5))
    return (
        '<p class="says">In the order of the tree: a step to the right goes on from the call above it. Bars say when a '
        "call ran: blue and green are hidden and visible tokens of the chosen chain, grey what was discarded, hatched "
        "what was pruned or cut.</p>"
        '<div class="scrolls" tabindex="0" role="region" aria-label="Calls to the model, as a tree">'
        '<table class="table tree"><caption class="unseen">Calls to the model, as a tree</caption>'
        '<thead><tr><th scope="col">Call</th><th scope="col" class="when">'
        f'<span class="unseen">From, and how long</span><span class="ticks" aria-hidden="true">{ticks}</span></th>'
        '<th scope="col" class="number">Hidden</th><th scope="col" class="number">Visible</th>'
        '<th scope="col" class="number">Score</th><th scope="col">Vote</th><th scope="col">End</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div>{more}"
    )


def _line(row: Row, end: float, ended: tuple[str, str]) -> str:
    call, (words, kind) = row.call, ended
    started, took = call["started"], call["seconds"]
    length = end - started if took is None else took
    tokens = call["tokens"]
    made = max(1, tokens["hidden"] + tokens["visible"])
    kind_word = _KINDS.get(call["purpose"], str(call["purpose"]))
    when = f"from {units.seconds(started)} on, {'so far' if took is None else 'for'} {units.seconds(length)}"
    score = "" if call["score"] is None else f"{call['score']:.3g} of 1"
    vote = "" if call["vote"] is None else f"answer {call['vote'] + 1}"
    return (
        f'<tr class="was-{kind}"><th scope="row"><span class="branch" style="--deep: {min(row.depth, DEEPEST)}">'
        f"#{call['number']} {escape(kind_word)}</span>{_origin(call)}</th>"
        f'<td class="when"><span class="unseen">{escape(when)}</span><span class="track" aria-hidden="true" '
        f'title="{escape(when)}">'
        f'<i style="left: {_percent(started / end)}; width: {_percent(length / end)}">'
        f'<b style="width: {_percent(tokens["hidden"] / made)}"></b>'
        f'<b class="said" style="width: {_percent(tokens["visible"] / made)}"></b></i></span></td>'
        f'<td class="number">{units.tokens(tokens["hidden"])}</td>'
        f'<td class="number">{units.tokens(tokens["visible"])}</td>'
        f'<td class="number">{escape(score)}</td><td>{_vote(call["vote"], vote)}</td>'
        f'<td class="fate">{escape(words)}</td></tr>'
    )


def _origin(call: Call) -> str:
    return "" if call["parent"] is None else f'<span class="unseen">, goes on from #{call["parent"]}</span>'


def _vote(number: int | None, words: str) -> str:
    return "" if number is None else f'<span class="tag vote" style="--hue: {number * 67 % 360}">{escape(words)}</span>'


def _percent(share: float) -> str:
    return f"{max(0.0, min(1.0, share)) * 100:.2f}%"


def texts(calls: Sequence[Call]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """What calls have written, by their numbers, as far as it is shown."""
    for call in calls:
        if call.get("text") is not None:
            yield call["number"], call["text"]
