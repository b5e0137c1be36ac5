"""Tools, calls and results as text of a conversation, for models whose chat template shows none of them.

A call is written as the model's family writes it, so that the model sees what it said; a result becomes a message of
the user's, and the tools that are offered are described in the system message, or before the first question
where the template has no place for one. Words of ours are marked as the template's, as the markers of a call may be
tokens; what was typed stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ponder.engines.images import together
from ponder.engines.tools import DEFAULT, FORMATS
from ponder.engines.written import Written

Turn = dict[str, Any]

RESULT = "<tool_response>\n", "\n</tool_response>"
"""What stands around a result: as the family of the format `hermes` writes it, which most models have seen."""
_OFFER = "You may call functions. Each is described by one line of JSON:\n"
_HOW = "\nTo call one, write nothing but its name and its arguments in this form:\n"


@dataclass(frozen=True, slots=True)
class Shown:
    """What of tools a chat template shows the model."""

    tools: bool = True
    """Those offered."""
    calls: bool = True
    """Calls of earlier turns."""
    results: bool = True
    """What came of them."""
    system: bool = True
    """A system message; else the tools are described before the first question."""

    @property
    def all(self) -> bool:
        return self.tools and self.calls and self.results


def plainly(turns: list[Turn], tools: Sequence[Turn] | None, form: str, shown: Shown) -> list[Turn]:
    """The turns of a conversation, as templates expect them, with what the template does not show in their text. `form`
    is a name of `FORMATS`."""
    form = form if form in FORMATS else DEFAULT
    if not shown.calls:
        turns = [_with_calls(turn, form) for turn in turns]
    if not shown.results:
        turns = list(_results_of_users(turns))
    if tools and not shown.tools:
        said, break_ = _described(tools, form), Written.whole("\n\n")
        asked = next((n for n, turn in enumerate(turns) if turn["role"] == "user"), None)
        if not shown.system and asked is not None:
            turns[asked] = turns[asked] | {"content": together([said, break_, turns[asked]["content"]])}
        elif turns and turns[0]["role"] == "system":
            turns[0] = turns[0] | {"content": together([turns[0]["content"], break_, said])}
        else:
            parts = turns and isinstance(turns[0]["content"], list)
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": said}] if parts else said})
    return turns


def _with_calls(turn: Turn, form: str) -> Turn:
    """Its calls stand behind what it says, which is the last block of a content with a thought."""
    calls: Sequence[Turn] = turn.get("tool_calls") or ()
    if not calls:
        return turn
    written = _written(form, [(call["function"]["name"], call["function"]["arguments"]) for call in calls])
    rest = {name: value for name, value in turn.items() if name != "tool_calls"}
    if isinstance(turn["content"], list):
        *blocks, last = cast("list[Turn]", turn["content"])
        return rest | {"content": [*blocks, last | {"text": _under(last["text"], written)}]}
    return rest | {"content": _under(turn["content"], written)}


def _under(said: str, calls: str) -> Written:
    return Written.joined([said, Written.whole("\n") if said else "", calls])


def _results_of_users(turns: Sequence[Turn]) -> Iterator[Turn]:
    """Results that follow one another are one message, and so is what the user said behind them: templates want turns
    to change."""
    open_turn: Turn | None = None
    for turn in turns:
        if turn["role"] == "tool":
            result = together([Written.whole(RESULT[0]), turn["content"], Written.whole(RESULT[1])])
            before = [open_turn["content"], Written.whole("\n")] if open_turn else []
            open_turn = {"role": "user", "content": together([*before, result])}
            continue
        if open_turn is not None and turn["role"] == "user":
            turn = turn | {"content": together([open_turn["content"], Written.whole("\n\n"), turn["content"]])}
        elif open_turn is not None:
            yield open_turn
        open_turn = None
        yield turn
    if open_turn is not None:
        yield open_turn


def _described(tools: Sequence[Turn], form: str) -> Written:
    lines: list[str] = []
    for tool in tools:
        lines += [json.dumps(tool["function"], ensure_ascii=False), Written.whole("\n")]
    example = FORMATS[form].form.write([("NAME", {"ARGUMENT": "VALUE"})])
    return Written.joined([Written.whole(_OFFER), *lines[:-1], Written.whole(_HOW + example)])


# -- a call, and which of its characters are the family's ------------------------------------------------------------


_PRIVATE = range(0xF0000, 0xFFFFE)
"""Characters without a meaning, one for each that was typed."""
_PRIVATES = re.compile(f"[{chr(_PRIVATE[0])}-{chr(_PRIVATE[-1])}]+")
_ESCAPED = frozenset((*map(chr, range(0x20)), '"', "\\"))
"""What JSON escapes, which stays as it is; no control token is made of it alone."""


def _written(form: str, calls: Sequence[tuple[str, Any]]) -> str:
    """Calls as the family writes them, the family's own characters marked. They are written a second time with a
    private character for each typed one, whatever control tokens the model has: so what is left of them is not typed.
    All is taken for typed where that does not tell."""
    given = [(name, _object(arguments)) for name, arguments in calls]
    text = FORMATS[form].form.write(given)
    typed = sorted(set[str]().union(*_texts(given)) - _ESCAPED)
    if len(typed) > len(_PRIVATE) or _PRIVATES.search(text):
        return text
    letters = {ord(letter): private for letter, private in zip(typed, _PRIVATE, strict=False)}
    back = {private: letter for letter, private in letters.items()}
    hidden = FORMATS[form].form.write(
        [(_exchanged(name, letters), _through(arguments, letters)) for name, arguments in given]
    )
    if _exchanged(hidden, back) != text:
        return text
    pieces: list[str] = []
    at = 0
    for found in _PRIVATES.finditer(hidden):
        pieces += [Written.whole(hidden[at : found.start()]), _exchanged(found[0], back)]
        at = found.end()
    return Written.joined([*pieces, Written.whole(hidden[at:])])


def _exchanged(text: str, letters: Mapping[int, int | str]) -> str:
    """The text in other letters. In pieces: another thread waits for one of them, and not for half a megabyte."""
    return "".join(text[at : at + 4096].translate(letters) for at in range(0, len(text), 4096))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in cast("dict[str, Any]", value).items():
            yield key
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in cast("Sequence[Any]", value):
            yield from _texts(one)


def _object(arguments: Any) -> dict[str, Any]:
    """The arguments of a call, which may be JSON text, as an object; an empty one for what is none."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    return cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else {}


def _through(value: Any, letters: Mapping[int, int]) -> Any:
    if isinstance(value, str):
        return _exchanged(value, letters)
    if isinstance(value, dict):
        return {_exchanged(key, letters): _through(one, letters) for key, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_through(one, letters) for one in cast("list[Any]", value)]
    return value
