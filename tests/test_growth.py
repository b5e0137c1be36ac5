"""What reads the text of models and callers on the event loop takes time linear in it, whatever the text.

Hostile texts are made from the pieces a reader's grammar knows: each repeated, with every other before, behind and
between, and more drawn by lot. Growth is measured in processor time of this thread, at a length, its double and its
fourfold; what is too short to be measured at the longest has not grown.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel

from ponder.compute.answers.extraction import final_answer
from ponder.compute.answers.keys import number, same
from ponder.compute.answers.readings import LONGEST, read
from ponder.compute.errors import RequestError
from ponder.compute.worker import TASKS
from ponder.engines.thinking import Splitter
from ponder.engines.vocabulary import Vocabulary
from ponder.server.calls import Offered, ToolCallParser
from ponder.server.dialects.anthropic.blocks import Turns
from ponder.server.dialects.anthropic.schema import CountRequest
from ponder.server.dialects.gemini.contents import turns
from ponder.server.dialects.gemini.schema import Content
from ponder.server.dialects.slips import nearest
from ponder.server.strict_json import loads
from ponder.verifiers.judge import Judge
from ponder.verifiers.programs import program
from ponder.verifiers.rules import document
from tests.verifiers.hand import candidate

LONG = 16_000
"""Characters that are repeated at most: all within what the answer is looked for in."""
MEASURABLE = 0.02
"""Seconds of processor time below which nothing is said about growth."""
PAIRS, TRIPLES = 500, 200
"""How many are tried of each, but for `make soak`, which tries all pairs."""


def hostile(pieces: Sequence[str], *, pairs: int = PAIRS) -> Iterator[tuple[str, str, str]]:
    """(before, repeated, behind)."""
    yield from (("", piece, "") for piece in pieces)
    both = list(product(pieces, repeat=2))
    for a, b in random.Random(1).sample(both, min(pairs, len(both))):
        yield from (("", a, b), (a, b, "x"), ("", a + b, ""))
    triples = [(a, b, c) for a in pieces for b in pieces for c in pieces]
    yield from random.Random(0).sample(triples, min(TRIPLES, len(triples)))


def quadratic(read: Callable[[str], object], before: str, piece: str, behind: str, longest: int) -> bool:
    """It grows with more than the length: of twice a doubling, once more than threefold at the least. What looks so is
    measured again, the least of three times."""

    def spent(length: int, times: int) -> float:
        """Seconds of this thread's processor time."""
        text = before + piece * (length // len(piece)) + behind

        def once() -> float:
            began = time.thread_time()
            read(text)
            return time.thread_time() - began

        return min(once() for _ in range(times))

    def grows(times: int) -> bool:
        four = spent(longest, times)
        if four <= MEASURABLE:
            return False
        two, one = spent(longest // 2, times), spent(longest // 4, times)
        return four > 9 * one and (two > 3 * one or four > 3 * two)

    return grows(1) and grows(3)


# -- whole texts ------------------------------------------------------------------------------------------------------


def answer(text: str) -> None:
    """Not what is remembered of it."""
    final_answer.__wrapped__(text)


def compared(text: str) -> None:
    same(text, text + "1")
    number(text)


def body(text: str) -> None:
    with suppress(RequestError):
        loads(text.encode("utf-8", "replace"), 64)


def judged(text: str) -> None:
    Judge().question(candidate(text))


def named(text: str) -> None:
    nearest(text, ["thinking_budget", "max_completion_tokens"])


OFFERED = {
    "auto": Offered(frozenset({"time"})),
    "required": Offered(frozenset({"time"}), required=True, held=True),
    "beside a document": Offered(frozenset({"time"}), held=True),
}


def listened(offered: Offered, size: int) -> Callable[[str], object]:
    """In pieces of so many characters."""

    def read(text: str) -> None:
        parser = ToolCallParser(offered)
        for at in range(0, len(text), size):
            parser.feed(text[at : at + size])
        parser.end()

    return read


CHECKED = TASKS["schema"]()
PATTERNED = json.dumps({"patternProperties": {"a+$": False}, "items": {"pattern": "b+$"}, "additionalProperties": True})


def patterns(text: str) -> None:
    """Of a schema, over texts and over names."""
    CHECKED(PATTERNED, json.dumps([text]))
    CHECKED(PATTERNED, json.dumps({text: text}))


PROSE = (
    " ",
    "\n",
    "\t",
    "a",
    "7",
    ".",
    ",",
    "!",
    ":",
    "*",
    "**",
    "_",
    "$",
    "$$",
    "The answer is",
    "answer to",
    "would be",
)
MATHS = (
    "\\boxed{",
    "\\boxed ",
    "{",
    "}",
    "\\{",
    "\\frac",
    "\\[",
    "\\]",
    "^",
    "\\circ",
    "(",
    ")",
    "/",
    "=",
    "-",
    "####",
)
SHORT = (
    *(
        " ",
        "a",
        "7",
        ",",
        ":",
        "-",
        "*",
        "/",
        "^",
        "(",
        ")",
        "{",
        "}",
        "|",
        "=",
        "<",
        "±",
        "!",
        "%",
        "\\$",
        "\\frac",
        ".",
    ),
    *(
        " and ",
        " or ",
        "∪",
        "cm",
        "five ",
        "3 h ",
        "A.",
        "H2",
        "1,000",
        "\\begin{pmatrix}",
        "sin ",
        "x_1",
        "é",
        "...",
        "三",
    ),
)
"""What short answers are made of."""
BLOCKS = (
    "`",
    "```",
    "```\n",
    "```python",
    "<tool_call>",
    "</tool_call>",
    '{"a":',
    "[",
    '"',
    "\\",
    "because",
    "since",
    "<answer>",
    "答案是",
    "Thus, ",
)
CALLS = (" ", "a", "<", "<tool_call>", "</tool_call>", "{", "}", '"', "\\", '{"name": "time"}')
CALL = '<tool_call>{"name": "time"}</tool_call>'

READERS: dict[str, tuple[Callable[[str], object], Sequence[str]]] = {
    "the answer of a text": (answer, (*PROSE, *MATHS, *BLOCKS)),
    "comparing answers": (compared, (*PROSE, *MATHS, "1,111", "sqrt(", "\\text{", "°", "π", "x", " = ", "e9", "m/s")),
    "a fenced document": (document, (" ", "\n", "`", "```", "```json", "```\n", "a", "json\n")),
    "a body": (
        body,
        (" ", "[", "]", "{", "}", '"', "\\", "\\u", "\\ud800", ",", ":", '"a":', "1", "-", "1e", ".", "{}"),
    ),
    "a judge's question": (judged, (" ", "\n", "a", "</proposed-answer>", "yes")),
    "the program of a text": (program, ("`", "```", "```\n", "```python\n", "```a\n", "````", " ", "\n", "a", "py")),
    **{
        f"calls, {name}": (listened(offered, 1 << 30), (*CALLS, CALL, "<tool_call>{}</tool_call>"))
        for name, offered in OFFERED.items()
    },
    "patterns of a schema": (patterns, ("a", "b", " ", "\n", "é")),
    "a name": (named, ("a", "A", "_", "-", "thinking", "Budget")),
}


@pytest.mark.parametrize("name", READERS)
def test_time_grows_with_the_length_and_no_faster(name: str) -> None:
    read, pieces = READERS[name]
    assert next((text for text in hostile(pieces) if quadratic(read, *text, LONG)), None) is None


@pytest.mark.soak
@pytest.mark.parametrize("name", READERS)
def test_time_grows_with_the_length_of_all_pairs_and_no_faster(name: str) -> None:
    read, pieces = READERS[name]
    every = hostile(pieces, pairs=len(pieces) ** 2)
    assert next((text for text in every if quadratic(read, *text, LONG)), None) is None


def results(text: str) -> None:
    """Results of as many calls, the last call's first."""
    names = [f"f{n}" for n in range(len(text))]
    called: list[dict[str, Any]] = [{"functionCall": {"name": name, "args": {}}} for name in names]
    given: list[dict[str, Any]] = [{"functionResponse": {"name": name, "response": {}}} for name in reversed(names)]
    contents = [Content(role="model", parts=called), Content(role="user", parts=given)]
    made = turns(None, contents)
    assert made.messages[-1].tool_call_id == made.messages[0].tool_calls[0].id


def neighbours(text: str) -> None:
    """As many turns of one side, which are one turn."""
    said = [{"role": "user", "content": "x" * 800}] * len(text)
    Turns(CountRequest.model_validate({"model": "demo", "messages": said}))


@pytest.mark.parametrize("read", [results, neighbours])
def test_conversations_are_put_together_in_time_that_grows_with_them_and_no_faster(
    read: Callable[[str], object],
) -> None:
    assert not quadratic(read, "", "x", "", 4000)


def test_reading_a_short_answer_takes_no_longer_than_its_length_lets_it() -> None:
    found = (text for text in hostile(SHORT) if quadratic(read, *text, LONGEST - 30))
    assert next(found, None) is None


CALLED = [
    (before, piece, "") for before in ("", "<tool_call>", "<tool_call>{", '<tool_call>{"') for piece in (*CALLS, CALL)
]


@pytest.mark.parametrize("name", OFFERED)
def test_calls_are_heard_in_time_that_grows_with_the_text_and_no_faster(name: str) -> None:
    """A character at a time; and all in one piece, of a text so long that what is copied tells."""
    for size, longest in ((1, 24_000), (1 << 30, 400_000)):
        read = listened(OFFERED[name], size)
        assert next((text for text in CALLED if quadratic(read, *text, longest)), None) is None


# -- texts as they come in --------------------------------------------------------------------------------------------


def vocabulary() -> Vocabulary:
    """Of single characters, so that markers are texts."""
    tokenizer = Tokenizer(WordLevel({chr(i): i for i in range(128)}, unk_token="?"))
    tokenizer.decoder = Fuse()
    return Vocabulary(tokenizer, "<think>", "</think>")


def split(size: int, inside: bool) -> Callable[[str], object]:
    words = vocabulary()

    def read(text: str) -> None:
        splitter = Splitter(words, inside=inside, stop=("###", "END"))
        ids = [ord(char) for char in text]
        for at in range(0, len(ids), size):
            splitter.feed(ids[at : at + size])
        splitter.finish()

    return read


TAGS = (" ", "a", "<", "<think>", "</think>", "#")

STREAMS: dict[str, tuple[Callable[[str], object], int]] = {
    "token by token, from within a thought": (split(1, True), 4_000),
    "all at once, from within a thought": (split(1 << 30, True), 10_000),
    "all at once, behind the thought": (split(1 << 30, False), 10_000),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_heard_in_time_that_grows_with_its_length_and_no_faster(name: str) -> None:
    read, longest = STREAMS[name]
    texts = [*(("", tag, "") for tag in TAGS), *(("</think>", tag, "") for tag in TAGS)]
    assert next((text for text in texts if quadratic(read, *text, longest)), None) is None
