"""What of a profile shows in a model's files: rendered questions tell which side of a thought a prompt ends on.

Nothing here knows a model by its name. A question is rendered with each variable the template asks for, and what stands
behind it is compared: an open thought, a closed one, or neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from ponder.engines.profiles.markers import Pair, left_open, pairs, wrapper
from ponder.engines.profiles.profile import Effort, Value
from ponder.engines.profiles.template import ChatTemplate

QUESTION, THOUGHT, ANSWER, RESULT = "question7471", "thought7472", "answer7473", "result7474"
"""Words that no template has."""
_EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")
_ON: tuple[Value, ...] = (True, "high", "enabled", "on", "think", "thinking", "medium", "low", "auto", "adaptive")
_OFF: tuple[Value, ...] = (False, "none", "no_think", "off", "disabled", "nothink", 0)
"""What a variable may be set to, the likeliest first; beside the texts that the template compares it with."""
_UNREAD = ("thinking", "enable_thinking", "reasoning_effort")
"""Variables tried on a renderer whose source is not to be seen."""
_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""The same of fields of a message that may hold a thought."""


class Side(IntEnum):
    """Where a prompt leaves the model: behind a closed thought, at no thought, within one."""

    CLOSED = 0
    NEITHER = 1
    INSIDE = 2


@dataclass(frozen=True, slots=True)
class _Switch:
    fields: dict[str, Any]
    """As a profile has them."""
    on: str
    off: str
    """A question rendered to think, and not to; what stands behind it."""
    gain: int


def behind(text: str) -> str:
    """What stands behind the question in a rendered prompt."""
    return text.rpartition(QUESTION)[2] if QUESTION in text else text[-200:]


def side(tail: str, pair: Pair, wrap: str = "") -> Side:
    """Where the end of a rendered prompt leaves the model."""
    opened, closed = tail.rfind(pair.start), tail.rfind(pair.end)
    if opened > closed:
        return Side.INSIDE
    if closed >= 0 and tail[closed + len(pair.end) :].strip() in ("", wrap.strip()):
        return Side.CLOSED
    return Side.NEITHER


def ask(template: ChatTemplate, variables: Mapping[str, Value], system: str = "", word: str = "") -> str | None:
    """What stands behind a question, rendered so; None where the template refuses."""
    turns = [{"role": "system", "content": system}] if system else []
    text = template.render([*turns, {"role": "user", "content": f"{QUESTION} {word}".rstrip()}], variables)
    return None if text is None else behind(text).removeprefix(f" {word}" if word else "")


def read(template: ChatTemplate, tokens: Collection[str], pair: Pair | None = None) -> dict[str, Any] | None:
    """The fields of a profile that show in a template and a tokenizer's added tokens; None for a model of which nothing
    shows that it thinks. `pair`: the markers, where they are known."""
    # Of a renderer without a source nothing shows but what it renders.
    ended = "\n".join([template.source, *tokens])
    found = [pair] if pair else pairs(template.texts if template.source else tokens, ended)
    if not found and (opened := left_open(ask(template, {}) or "")):
        found = [opened]
    tried = [(one, wrap, _switch(template, one, wrap[0])) for one, wrap in _wrapped(template, tokens, found)]
    if not template.source and not pair:
        tried = [(one, wrap, way) for one, wrap, way in tried if way.gain or side(way.on, one) == Side.INSIDE]
    if not tried:
        return None
    one, wrap, way = max(tried, key=lambda t: (side(t[2].on, t[0]) == Side.INSIDE, t[2].gain))
    fields: dict[str, Any] = {"thinks": True, "start": one.start, "end": one.end, "wrapper": wrap} | way.fields
    on = fields.get("on", {}) | ({fields["switch"]: True} if fields["switch"] else {})
    fields |= _phrases(template, one, way, wrap[0], on)
    fields |= _efforts(template, on)
    return fields | _thoughts(template, one, on)


def _wrapped(
    template: ChatTemplate, tokens: Collection[str], found: Sequence[Pair]
) -> list[tuple[Pair, tuple[str, str]]]:
    return [(one, wrapper(template.texts, tokens, one)) for one in found]


def marked(tokens: Collection[str]) -> dict[str, Any]:
    """The markers of a thought that a model has among its tokens, though nothing shows that it thinks: one that thinks
    all the same shows nobody what it thought."""
    found = [one for one in pairs(sorted(tokens), "\n".join(tokens)) if {one.start, one.end} <= set(tokens)]
    return phrases(found[0]) if found else {}


def phrases(pair: Pair) -> dict[str, str]:
    """What opens and closes a thought between these markers, where no template shows it."""
    start, end = pair.start, pair.end
    line = "\n" if end.startswith("</") else ""
    return {
        "start": start,
        "end": end,
        "opening": start + line,
        "closing": line + end + 2 * line,
        "closed": start + 2 * line + end + 2 * line,
    }


# -- how it is switched -----------------------------------------------------------------------------------------------


def _switch(template: ChatTemplate, pair: Pair, wrap: str) -> _Switch:
    """The way to switch thinking on and off that changes most of where a question leaves the model."""
    base = ask(template, {}) or ""
    variables = template.variables if template.source else _UNREAD
    ways = [_by_variable(template, pair, wrap, name, base) for name in sorted(variables, key=_likely)]
    best = max(ways, key=lambda way: way.gain, default=_Switch({"switch": ""}, base, base, 0))
    if best.gain:
        return best
    spoken = [_by_words(template, pair, wrap, place, base) for place in ("system", "word")]
    best = max(spoken, key=lambda way: way.gain)
    if best.gain:
        return best
    for name in filter(re.compile("think|reason").search, sorted(variables, key=_likely)):
        texts = [_whole(template, {name: value}) for value in (True, False)]
        if None not in texts and texts[0] != texts[1]:
            return _Switch({"switch": name}, base, base, 0)
        compared = template.values(name)
        on, off = (next((value for value in order if value in compared), None) for order in (_ON, _OFF))
        if on is not None and off is not None:
            texts = [_whole(template, {name: value}) for value in (on, off)]
            if None not in texts and texts[0] != texts[1]:
                return _Switch({"switch": "", "on": {name: on}, "off": {name: off}}, base, base, 0)
    return _Switch({"switch": ""}, base, base, 0)


def _likely(name: str) -> tuple[bool, bool, bool, str]:
    return name != "enable_thinking", "think" not in name, "reason" not in name, name


def _by_variable(template: ChatTemplate, pair: Pair, wrap: str, name: str, base: str) -> _Switch:
    values: list[Value] = [0] if "budget" in name else [True, False, *template.values(name)]
    if re.search("think|reason|effort", name) and "budget" not in name:
        values += [value for value in (*_ON, *_OFF) if isinstance(value, str)]
    tails: dict[tuple[type, Value], str] = {}
    for value in values:
        if (type(value), value) not in tails and (tail := ask(template, {name: value})) is not None:
            tails[type(value), value] = tail

    # Where nothing was given, a value says the same; but what is written out holds for other templates of the family.
    def rank(value: Value, order: Sequence[Value]) -> int:
        alike = [n for n, other in enumerate(order) if type(other) is type(value) and other == value]
        return alike[0] if alike else len(order)

    sides = {key: side(tail, pair, wrap) for key, tail in tails.items()}
    on = min(sides, key=lambda key: (-sides[key], rank(key[1], _ON)), default=None)
    off = min(sides, key=lambda key: (sides[key], rank(key[1], _OFF)), default=None)
    none = _Switch({"switch": ""}, base, base, 0)
    if on is None or off is None:
        return none
    unset = side(base, pair, wrap)
    gain = max(sides[on], unset) - min(sides[off], unset)
    if not gain or sides[on] == sides[off] == unset:
        return none
    if on == (bool, True) and off == (bool, False):
        return _Switch({"switch": name}, tails[on], tails[off], gain)
    fields: dict[str, Any] = {"switch": ""}
    if sides[on] > unset or (sides[on] == unset and rank(on[1], _ON) < len(_ON) and on != off):
        fields["on"] = {name: on[1]}
    if sides[off] < unset or (sides[off] == unset and rank(off[1], _OFF) < len(_OFF)):
        fields["off"] = {name: off[1]}
    return _Switch(fields, tails[on] if "on" in fields else base, tails[off] if "off" in fields else base, gain)


def _by_words(template: ChatTemplate, pair: Pair, wrap: str, place: str, base: str) -> _Switch:
    """By a sentence in the system message, or a word in the user's."""
    tails = {"": base}
    for word in template.words:
        if (tail := ask(template, {}, **{place: word})) is not None:
            tails[word] = tail
    sides = {word: side(tail, pair, wrap) for word, tail in tails.items()}
    # Of two that do the same, the one that says nothing.
    on = min(sides, key=lambda word: (-sides[word], word != ""))
    off = min(sides, key=lambda word: (sides[word], word != ""))
    said = {"system": (on, off)} if place == "system" else {"word": (on, off)}
    return _Switch({"switch": "", **said}, tails[on], tails[off], sides[on] - sides[off])


def _whole(template: ChatTemplate, variables: Mapping[str, Value]) -> str | None:
    return template.render([{"role": "user", "content": QUESTION}], variables)


# -- what is put in ---------------------------------------------------------------------------------------------------


def _phrases(template: ChatTemplate, pair: Pair, way: _Switch, wrap: str, on: Mapping[str, Value]) -> dict[str, str]:
    """What opens and closes a thought, white space and all: as an earlier turn is written, or as the prompt ends."""
    start, end = pair.start, pair.end
    opening, before, after = _between(template, pair, on)
    if side(way.on, pair) == Side.INSIDE:
        opening = way.on[way.on.rfind(start) :]
    closed = ""
    if side(way.off, pair, wrap) == Side.CLOSED:
        closed = way.off[min(at for at in (way.off.rfind(start), way.off.rfind(end)) if at >= 0) :]
        if after is None:
            after = re.split(re.escape(end), closed)[-1] or None
        if opening is None:
            opening = f"{start}\n" if re.match(rf"{re.escape(start)}\n", closed) else start
    if opening is None:
        # Written in the template's texts, but never at their end: the model breaks the line behind it.
        bare = any(text.endswith(start) for text in template.texts)
        opening = start if bare else f"{start}\n"
    if before is None:
        before = "\n" if opening.endswith("\n") else ""
    if after is None:
        after = wrap or ("\n\n" if before and end.startswith("</") else "")
    closing = f"{before}{end}{after}"
    if wrap and wrap not in closing:
        closing += wrap
    return {"opening": opening, "closing": closing, "closed": closed or f"{opening}{before}{end}{after}"}


def _between(template: ChatTemplate, pair: Pair, on: Mapping[str, Value]) -> tuple[str | None, str | None, str | None]:
    """(what opens a thought, what stands before its end, what stands between that and the answer), of an earlier turn
    as the template writes it; None for what does not show."""
    start, end = re.escape(pair.start), re.escape(pair.end)
    for turns in _turns(template):
        text = template.render(turns, on) or ""
        thought = re.search(rf"({start}\w*\s*){THOUGHT}(\s*){end}", text)
        if thought is not None:
            answer = re.compile(rf"(\s*(?:[<\[|][^<>\[\]]+[>\]]\s*)?){ANSWER}").match(text, thought.end())
            return thought[1], thought[2], answer and answer[1]
    return None, None, None


def _turns(template: ChatTemplate) -> list[list[dict[str, Any]]]:
    """Conversations with a thought in an earlier turn: the last turn, one of a tool loop, one before the last question;
    the thought in a field of its own, or in the content."""
    asked = {"role": "user", "content": QUESTION}
    found: list[list[dict[str, Any]]] = []
    for field in template.thought_fields:
        told = {"role": "assistant", "content": ANSWER, field: THOUGHT}
        found += [[asked, told], [asked, told | {"tool_calls": _CALLS}, _RESULT], [asked, told, asked]]
    return found


_CALLS = [{"id": "abcdef123", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}]
_RESULT = {"role": "tool", "tool_call_id": "abcdef123", "name": "look", "content": RESULT}


# -- the rest ---------------------------------------------------------------------------------------------------------


def _thoughts(template: ChatTemplate, pair: Pair, on: Mapping[str, Value]) -> dict[str, Any]:
    """Which thoughts of earlier turns the template writes down, and where it looks for them."""
    asked = {"role": "user", "content": QUESTION}
    blocks = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": ANSWER}]
    # Where there is no block for thoughts, a list may be printed as it is.
    within = re.compile(rf"{re.escape(pair.start)}\s*{THOUGHT}\s*{re.escape(pair.end)}")
    for field in (*(template.thought_fields if template.source else _FIELDS), "content"):
        told = {"role": "assistant", "content": ANSWER} | {field: blocks if field == "content" else THOUGHT}
        shown = within if field == "content" else re.compile(THOUGHT)
        for turns, when in (
            ([asked, told, asked], "always"),
            ([asked, told | {"tool_calls": _CALLS}, _RESULT], "tool_loop"),
        ):
            # Some take a text beside a thought, and some do not.
            silent = [one | ({"content": ""} if one.get(field) == THOUGHT else {}) for one in turns]
            if any(shown.search(template.render(one, on) or "") for one in (turns, silent)):
                return {"reads_thoughts": when, "thoughts_field": field}
    return {"reads_thoughts": "never"}


def _efforts(template: ChatTemplate, on: Mapping[str, Value]) -> dict[str, Any]:
    """The variables for how much to think: by words, or in tokens."""
    found: dict[str, Any] = {}
    for name in sorted(template.variables):
        if "effort" in name and "effort" not in found:
            texts = {effort: _whole(template, {**on, name: effort}) for effort in _EFFORTS}
            if None in texts.values() or len(set(texts.values())) == 1:
                continue
            found["effort"] = name
            known: list[Effort] = [effort for effort in _EFFORTS if effort in template.values(name)]
            if known and len(set(texts.values())) < len(_EFFORTS):
                found["efforts"] = {e: _nearest(e, known) for e in _EFFORTS if e not in known}
        elif "budget" in name and "budget" not in found:
            texts = {tokens: _whole(template, {**on, name: tokens}) for tokens in (512, 1024)}
            if None not in texts.values() and len(set(texts.values())) > 1:
                found["budget"] = name
    return found


def _nearest(effort: Effort, known: Sequence[Effort]) -> Effort:
    place: Callable[[Effort], int] = _EFFORTS.index
    return min(known, key=lambda other: (abs(place(other) - place(effort)), place(other)))
