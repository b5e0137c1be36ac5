"""Which answers are the same and what replies come to, over lists of pairs and endings.

Ours are in `tests/compute/data/`. `TEST_ANSWERS` may name a folder with more, `pairs.jsonl` and `endings.jsonl`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ponder.compute.answers.extraction import final_answer
from ponder.compute.answers.grouping import group
from ponder.compute.answers.keys import same

DATA = Path(__file__).parent / "data"
ELSEWHERE = os.environ.get("TEST_ANSWERS")

more = pytest.mark.skipif(ELSEWHERE is None, reason="TEST_ANSWERS names no folder of pairs and endings")


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def joined(pairs: Sequence[dict[str, Any]]) -> list[bool]:
    """Whether the two answers of each pair fall into one group, each inside of a box."""

    async def main() -> list[bool]:
        found: list[bool] = []
        for pair in pairs:
            a, b = await group([f"\\boxed{{{pair[name]}}}" for name in ("a", "b")])
            found.append(a == b and a is not None)
        return found

    return asyncio.run(main())


def test_pairs_of_our_own_are_joined_where_they_are_the_same_and_nowhere_else() -> None:
    pairs = read(DATA / "answer_pairs.jsonl")
    found = joined(pairs)
    assert len(pairs) >= 600
    assert [p for p, one in zip(pairs, found, strict=True) if one != p["same"]] == []


def test_two_answers_are_the_same_whichever_is_first_and_without_a_box() -> None:
    for pair in read(DATA / "answer_pairs.jsonl"):
        a, b = pair["a"], pair["b"]
        told = same(a, b)
        assert told == same(b, a), pair
        # What only computer algebra may know is asked in a grouping.
        assert told is None or told == pair["same"], pair


def test_endings_of_our_own_come_to_what_they_say() -> None:
    endings = read(DATA / "answer_endings.jsonl")
    assert [(e, final_answer(e["text"])) for e in endings if final_answer(e["text"]) not in e["want"]] == []


@more
def test_no_other_pair_that_differs_is_joined_and_nearly_all_that_are_the_same() -> None:
    pairs = read(Path(ELSEWHERE or "") / "pairs.jsonl")
    found = joined(pairs)
    assert [p for p, one in zip(pairs, found, strict=True) if one and not p["same"]] == []
    right = sum(one == p["same"] for p, one in zip(pairs, found, strict=True))
    assert right >= 0.97 * len(pairs)


@more
def test_nearly_all_other_endings_come_to_what_they_say() -> None:
    endings = read(Path(ELSEWHERE or "") / "endings.jsonl")
    right = sum(final_answer(e["text"]) in e["want"] for e in endings)
    assert right >= 0.92 * len(endings)
