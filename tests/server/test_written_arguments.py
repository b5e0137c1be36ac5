"""Arguments of calls are told while they are written: what is told is part of what is complete, in every format."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ponder.engines.tools import FORMATS
from ponder.engines.tools.elements import Elements
from ponder.engines.tools.headed import HeadedCalls
from ponder.engines.tools.json_calls import JsonCalls
from ponder.server.calls import Offered, ToolCallParser
from ponder.testing import Chain
from tests.server.serving import chat, door, events, scripted
from tests.server.test_call_formats import CLOSERS, HOSTILE, SCHEMAS, written
from tests.test_growth import quadratic

JSON = [name for name, row in FORMATS.items() if isinstance(row.form, JsonCalls | HeadedCalls)]
VALUES = [name for name, row in FORMATS.items() if isinstance(row.form, Elements)]


def offered(name: str, *, parallel: bool = True) -> Offered:
    return Offered(frozenset(SCHEMAS), parallel=parallel, format=name, parameters=SCHEMAS)


class Heard:
    """What is heard of a text that comes in pieces."""

    def __init__(self, offer: Offered, pieces: list[str], *, complete: bool = True) -> None:
        self.parser = parser = ToolCallParser(offer, early=True)
        self.told: list[tuple[str, str, list[str]]] = []
        """Of each call its id, its name and the pieces of its arguments."""
        self.shown = ""
        for piece in pieces:
            self.shown += parser.feed(piece)[0]
            self._take()
        self.shown += parser.end(complete)[0]
        self._take()

    def _take(self) -> None:
        for new in self.parser.written:
            if new.first:
                self.told.append((new.id, new.name, []))
            assert new.number == len(self.told) - 1
            id, name, pieces = self.told[-1]
            assert (new.id, new.name) == (id, name)
            pieces.append(new.arguments)
        self.parser.written.clear()

    @property
    def calls(self) -> list[tuple[str, str, str]]:
        return [(id, name, "".join(pieces)) for id, name, pieces in self.told]


def whole(offer: Offered, text: str, *, complete: bool = True) -> tuple[str, list[tuple[str, str]], bool]:
    parser = ToolCallParser(offer)
    shown = parser.feed(text)[0] + parser.end(complete)[0]
    return shown, [(call.name, call.arguments) for call in parser.calls], parser.cut


def pieces(text: str, lots: random.Random) -> list[str]:
    most = lots.choice((1, 2, 7, 40, 1000))
    cut: list[str] = []
    while text:
        size = lots.randint(1, most)
        cut, text = [*cut, text[:size]], text[size:]
    return cut


def check(offer: Offered, text: str, cut: list[str]) -> None:
    heard = Heard(offer, cut)
    assert heard.calls == [(call.id, call.name, call.arguments) for call in heard.parser.calls], cut
    if not heard.parser.broken:
        assert (heard.shown, [call[1:] for call in heard.calls], heard.parser.cut) == whole(offer, text), cut


@pytest.mark.parametrize("name", FORMATS)
def test_all_pieces_of_a_call_are_its_arguments_byte_for_byte(name: str) -> None:
    lots = random.Random(name)
    for arguments in HOSTILE:
        text = "Well.\n" + written(name, ("get_weather", arguments), ("time", {}), ("get_weather", arguments))
        for parallel in (True, False):
            for _ in range(3):
                check(offered(name, parallel=parallel), text, pieces(text, lots))


@pytest.mark.parametrize("name", FORMATS)
def test_whatever_the_model_writes_nothing_is_taken_back(name: str) -> None:
    """Broken, unclosed, wrong and unknown calls, in pieces of any size."""
    lots = random.Random(name)
    call = written(name, ("get_weather", {"city": "Rome", "places": ["a"]}))
    parts = [call, written(name, ("time", {})), written(name, ("remove", {"a": 1})), "text", " ", "\n", '"', "\\"]
    parts += ["}", "{", "]", ")", "<", ",", ":", *CLOSERS]
    parts += [call[:n] for n in range(1, len(call), 4)] + [call[-n:] for n in range(1, len(call), 4)]
    for _ in range(250):
        text = "".join(lots.choices(parts, k=lots.randint(1, 7)))
        check(offered(name, parallel=lots.random() < 0.8), text, pieces(text, lots))


@pytest.mark.parametrize("name", FORMATS)
def test_of_a_call_that_is_cut_anywhere_the_beginning_was_told(name: str) -> None:
    arguments = {"city": 'a "b" c', "days": 25, "places": ["x", "y"]}
    text = written(name, ("time", {}), ("get_weather", arguments))
    complete = whole(offered(name), text)[1]
    for size in range(len(text)):
        heard = Heard(offered(name), list(text[:size]), complete=False)
        shown, calls, cut = whole(offered(name), text[:size], complete=False)
        assert (heard.shown, heard.parser.cut) == (shown, cut)
        told = [call[1:] for call in heard.calls]
        assert told[: len(calls)] == calls
        for (of, said), (meant, all_of_it) in zip(told, complete, strict=False):
            assert (of, all_of_it[: len(said)]) == (meant, said)
        assert len(told) <= len(calls) + cut


@pytest.mark.parametrize("name", JSON)
def test_json_is_told_as_it_is_written(name: str) -> None:
    text = written(name, ("get_weather", {"city": "x" * 500}))
    heard = Heard(offered(name), list(text))
    (_, tool, told) = heard.told[0]
    assert tool == "get_weather"
    assert sum(map(len, told)) == len(json.dumps({"city": "x" * 500}))
    assert len(told) >= 500


@pytest.mark.parametrize("name", VALUES)
def test_of_elements_each_value_is_told_when_it_is_complete(name: str) -> None:
    text = written(name, ("get_weather", {"city": "Rome", "days": 2, "hourly": True}))
    heard = Heard(offered(name), list(text))
    assert heard.told[0][2] == ['{"city": "Rome"', ', "days": 2', ', "hourly": true', "}"]


@pytest.mark.parametrize(
    "arguments", ['{"city": Rome, "days": }', '{"city": "Rome"', '{"city": "a</tool_call>', '{"city": [}']
)
def test_a_call_that_was_told_and_is_no_json_is_one_as_the_model_wrote_it(arguments: str) -> None:
    text = f'<tool_call>\n{{"name": "get_weather", "arguments": {arguments}}}\n</tool_call>\nSo.'
    heard = Heard(offered("hermes"), list(text))
    [(_, name, told)] = heard.calls
    assert name == "get_weather"
    assert told.startswith(arguments)
    assert heard.parser.calls[0].arguments == told
    assert not heard.parser.cut
    # Where nothing was told, it is text.
    assert whole(offered("hermes"), text) == (text, [], False)


@pytest.mark.parametrize("name", FORMATS)
def test_time_grows_with_the_text_and_no_faster(name: str) -> None:
    call = written(name, ("get_weather", {"city": "Rome", "places": ["a"]}))
    begun, opener = (
        call[: call.index("Rome")],
        next(one for one in FORMATS[name].form.openers(SCHEMAS) if call.startswith(one)),
    )
    closer = next(iter(FORMATS[name].form.closers), "}")
    texts = [(begun, piece) for piece in ("a", '"', "\\", " ", '" ', closer)]
    texts += [(opener, piece) for piece in (" ", "{", '{"name": "', "a")] + [("", call)]

    def listened(text: str) -> None:
        parser = ToolCallParser(offered(name), early=True)
        for at in range(0, len(text), 2):
            parser.feed(text[at : at + 2])
            parser.written.clear()
        parser.end()

    assert next((text for text in texts if quadratic(listened, *text, "", 4_000)), None) is None


def test_a_client_hears_the_name_first_and_then_the_arguments() -> None:
    text = written("hermes", ("get_weather", {"city": "Rome"}), ("time", {}))
    tools: list[dict[str, Any]] = [
        {"type": "function", "function": {"name": name, "parameters": {}}} for name in SCHEMAS
    ]
    stream = events(chat(door(scripted(Chain("hm", text))), tools=tools, stream=True).text)
    calls = [one for chunk in stream for one in chunk["choices"][0]["delta"].get("tool_calls", ())]
    heads = [one for one in calls if "id" in one]
    assert [(one["index"], one["function"]) for one in heads] == [
        (0, {"name": "get_weather", "arguments": ""}),
        (1, {"name": "time", "arguments": ""}),
    ]
    assert len({one["id"] for one in heads}) == 2
    first = [one["function"]["arguments"] for one in calls if one["index"] == 0]
    assert "".join(first) == '{"city": "Rome"}'
    assert len(first) > 10
