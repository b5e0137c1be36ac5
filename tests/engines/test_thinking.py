"""The splitter of thought and answer, over random texts, tokens and cuts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ponder.engines.thinking import Splitter
from ponder.engines.vocabulary import Vocabulary

DEMO = Path(__file__).parents[2] / "models" / "demo"


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


@cache
def with_markers() -> Vocabulary:
    """Markers that are tokens."""
    return Vocabulary(tokenizer(), "<think>", "</think>")


@cache
def encoded(start: str = "", end: str = "Final answer:") -> Vocabulary:
    """Markers that are text."""
    return Vocabulary(tokenizer(), start, end)


def ids(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False).ids


def run(splitter: Splitter, tokens: list[int], cuts: list[int]) -> tuple[str, int, int]:
    """(visible text, hidden tokens, visible tokens) when the tokens arrive in pieces."""
    text, hidden, visible, at, n = "", 0, 0, 0, 0
    while at < len(tokens):
        size = cuts[n % len(cuts)] if cuts else len(tokens)
        piece = tokens[at : at + size]
        parts = splitter.feed(piece)
        assert [part.first for part in parts[1:]] == [part.last for part in parts[:-1]]
        for part in parts:
            text += part.text
            if part.hidden:
                hidden += part.last - part.first
            else:
                visible += part.last - part.first
        if splitter.stopped:
            break
        assert parts[0].first == 0
        assert parts[-1].last == len(piece)
        at, n = at + size, n + 1
    return text + splitter.finish(), hidden, visible


plain = st.text(alphabet="abc =12é世\n", max_size=20)
cuts = st.lists(st.integers(1, 7), min_size=1, max_size=6)


@settings(max_examples=150)
@given(plain, plain, cuts)
def test_thought_and_answer_come_apart_however_they_are_cut(thought: str, answer: str, pieces: list[int]) -> None:
    tokens = ids(thought + "</think>" + answer)
    splitter = Splitter(with_markers(), inside=True)
    text, hidden, visible = run(splitter, tokens, pieces)
    assert text == answer.lstrip("\r\n")
    assert hidden == tokens.index(4) + 1
    assert hidden + visible == len(tokens)
    assert with_markers().decode(splitter.thought) == thought


@settings(max_examples=100)
@given(plain, cuts)
def test_a_thought_without_an_end_stays_hidden(thought: str, pieces: list[int]) -> None:
    text, hidden, visible = run(Splitter(with_markers(), inside=True), ids("x" + thought), pieces)
    assert (text, visible) == ("", 0)
    assert hidden == len(ids("x" + thought))


@settings(max_examples=100)
@given(plain, plain, plain, cuts)
def test_a_second_thought_in_the_answer_is_hidden_too(first: str, second: str, third: str, pieces: list[int]) -> None:
    whole = f"A{first}<think>{second}</think>B{third}"
    text, hidden, visible = run(Splitter(with_markers(), inside=False), ids(whole), pieces)
    assert text == f"A{first}B{third}"
    assert hidden == len(ids(f"<think>{second}</think>"))
    assert hidden + visible == len(ids(whole))
    text, _, _ = run(Splitter(with_markers(), inside=False), ids(f"A{first}<think>{second}"), pieces)
    assert text == f"A{first}"


@settings(max_examples=150)
@given(plain, st.lists(st.text(alphabet="abc =12é", min_size=1, max_size=4), min_size=1, max_size=3), cuts)
def test_stop_strings_cut_where_the_first_to_be_complete_begins(
    answer: str, stops: list[str], pieces: list[int]
) -> None:
    text, _, _ = run(Splitter(with_markers(), inside=False, stop=stops), ids(answer), pieces)
    shown = answer.lstrip("\r\n")
    ends = [(shown.index(stop) + len(stop), shown.index(stop)) for stop in stops if stop in shown]
    assert text == shown[: min(ends)[1] if ends else len(shown)]


def test_a_possible_stop_string_is_kept_back_until_it_is_decided() -> None:
    splitter = Splitter(with_markers(), inside=False, stop=["abcd"])
    read = [splitter.feed([token])[0].text for token in (*ids("x"), *ids("a"), *ids("b"), *ids("x"))]
    assert read == ["x", "", "", "abx"]
    assert splitter.finish() == ""


@settings(max_examples=150)
@given(plain, plain, cuts)
def test_a_marker_that_is_text_is_found_across_tokens(thought: str, answer: str, pieces: list[int]) -> None:
    whole = f"{thought}\nFinal answer: {answer}"
    splitter = Splitter(encoded(), inside=True)
    text, hidden, visible = run(splitter, ids(whole), pieces)
    assert text == answer.lstrip()
    assert hidden + visible == len(ids(whole))
    assert tokenizer().decode(ids(whole)[:hidden]).rstrip(" ").startswith(f"{thought}\nFinal answer:")
    assert "answer:" not in tokenizer().decode(ids(whole)[: hidden - 1])


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_text_markers_hide_a_second_thought(size: int) -> None:
    vocabulary = encoded("[[", "]]")
    text, _, _ = run(Splitter(vocabulary, inside=True), ids("one]]two[[three]]four"), [size])
    assert text == "twofour"
    text, _, _ = run(Splitter(vocabulary, inside=False), ids("two[[three"), [size])
    assert text == "two"


def test_a_half_character_is_read_out_when_it_is_whole() -> None:
    tokens = ids("世")
    assert len(tokens) > 1
    splitter = Splitter(with_markers(), inside=False)
    assert [splitter.feed([token])[0].text for token in tokens] == [""] * (len(tokens) - 1) + ["世"]


def test_an_answer_goes_on_from_what_was_said() -> None:
    said = ids("ab")
    splitter = Splitter(with_markers(), inside=False, stop=["bc"], said=said, text="ab")
    assert run(splitter, ids("cd"), [1])[0] == ""
    splitter = Splitter(with_markers(), inside=False, stop=["abX"], said=said, text="", unread="ab")
    assert run(splitter, ids("cd"), [1])[0] == "abcd"


@pytest.mark.parametrize("kept", [1, 2])
def test_an_answer_goes_on_within_a_character(kept: int) -> None:
    said, rest = ids("It is 世")[:-kept], ids("It is 世")[-kept:]
    splitter = Splitter(with_markers(), inside=False, said=said, text="It is ")
    assert run(splitter, [*rest, *ids("!")], [1])[0] == "世!"


CALL = "<function_calls>\nlook(at='7')\n</function_calls>"


@pytest.mark.parametrize("size", [1, 2, 3, 50])
@pytest.mark.parametrize("markers", [("<think>", "</think>"), ("[[", "]]")])
def test_words_that_open_a_call_end_a_thought_where_a_call_follows(markers: tuple[str, str], size: int) -> None:
    vocabulary = Vocabulary(tokenizer(), *markers, openers=["<function_calls>"])
    spoken = ids("I might write <function_calls> or </function_calls>, (or not).\n")
    written = [*spoken, *ids(CALL)]
    text, hidden, visible = run(Splitter(vocabulary, inside=True, calls=True), written, [size])
    assert text == CALL
    assert hidden + visible == len(written)
    assert hidden >= len(spoken)
    for calls, words in ((False, True), (True, False)):
        closed = Splitter(vocabulary, inside=True, calls=calls, words=words)
        assert run(closed, written, [size]) == ("", len(written), 0)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_token_that_opens_a_call_ends_a_thought_and_is_read(size: int) -> None:
    vocabulary = Vocabulary(tokenizer(), "[[", "]]", openers=["<think>"], spelt=["<think>7</think>"])
    text, hidden, visible = run(Splitter(vocabulary, inside=True, calls=True), ids("so <think>7</think>"), [size])
    assert text == "<think>7</think>"
    assert hidden == len(ids("so "))
    assert visible == len(ids("<think>7</think>"))


@pytest.mark.parametrize("size", [1, 2, 3, 50])
@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a</think>\n<box>\nIt is 7.\n</box>\n", "It is 7."),
        ("a</think><box>It is <box>7</box>.</box>", "It is <box>7</box>."),
        ("a</think>\nIt is 7.</box>", "It is 7.</box>"),
        ("a</think><box>It is 7.\n\n", "It is 7.\n\n"),
        ("a</think><bottle>", "<bottle>"),
        ("a</think><box>It is 7.</bo", "It is 7.</bo"),
    ],
)
def test_what_wraps_an_answer_is_not_read_and_is_counted_with_it(written: str, read: str, size: int) -> None:
    vocabulary = Vocabulary(tokenizer(), "<think>", "</think>", wrapper=("<box>", "</box>"))
    text, hidden, visible = run(Splitter(vocabulary, inside=True), ids(written), [size])
    assert text == read
    assert hidden == len(ids("a</think>"))
    assert hidden + visible == len(ids(written))


def test_where_nothing_is_thought_every_character_is_answer() -> None:
    text = "    return 7\n"
    assert run(Splitter(Vocabulary(tokenizer(), "", ""), inside=False), ids(text), [1])[0] == text


def test_tokens_spell_their_bytes() -> None:
    vocabulary = with_markers()
    text = "Tom é世 = 12\n"
    assert b"".join(vocabulary.bytes(token) for token in ids(text)) == text.encode()
    newlines = vocabulary.containing("\n")
    assert ids("\n")[0] in newlines
    assert all(b"\n" in vocabulary.bytes(token) for token in newlines)
    assert vocabulary.end_id not in vocabulary.containing("think")
