"""Strict JSON: what was written is read, and what takes servers down is refused by a rule that says so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.compute.errors import RequestError
from ponder.server.strict_json import deeper, loads

DEPTH = 6
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\ud800", 'a"b', "\\", ":", "[["]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_what_was_written_is_read_or_refused_by_a_rule(value: Any, plain: bool, indent: int | None) -> None:
    raw = json.dumps(value, ensure_ascii=plain, indent=indent).encode("utf-8", "surrogatepass")
    code, read = None, ""
    try:
        read = repr(loads(raw, DEPTH))
    except RequestError as error:
        code = error.code
    assert (code == "too_deep") == (depth_of(raw.decode("utf-8", "surrogatepass")) > DEPTH and code != "invalid_utf8")
    assert code or read == repr(json.loads(raw))


def depth_of(text: str) -> int:
    """How deep the brackets outside of strings go, bracket by bracket."""
    deep = most = 0
    quoted = escaped = False
    for char in text:
        if quoted:
            quoted, escaped = escaped or char != '"', not escaped and char == "\\"
        elif char == '"':
            quoted, escaped = True, False
        else:
            deep += (char in "[{") - (char in "]}")
            most = max(most, deep)
    return most


@given(VALUES, st.integers(0, 8))
def test_brackets_in_strings_are_not_counted(value: Any, depth: int) -> None:
    text = json.dumps([value, {"[": ']{"\\[\\\\'}])
    assert deeper(text, depth) == (depth_of(text) > depth)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"a": 1, "a": 1}', "duplicate_key"),
        ('[{"b": {"a": ":", "\\u0061": 2}}]', "duplicate_key"),
        ('{"a": 1e999}', "number_too_large"),
        ('{"a": 1234567890123456789012345}', "number_too_large"),
        ('{"a": -123456789012345678901234}', "number_too_large"),
        ('{"a": NaN}', "invalid_json"),
        ('{"a": "\\ud800"}', "invalid_unicode"),
        ("[" * 7 + "]" * 7, "too_deep"),
    ],
)
def test_what_a_parser_lets_through_is_refused(text: str, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        loads(text.encode(), DEPTH)
    assert caught.value.code == code
