"""A seeded answer never depends on other callers: on the real engine in float32, one request at a time."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.server.test_serve import ponder_serve
from tests.server.test_stories import Asker, stories

STRATEGIES: dict[str, Any] = {
    "majority_vote": {"name": "majority_vote", "n": 8},
    "best_of_n": {"name": "best_of_n", "n": 4},
    "auto": "auto",
    "revision": "revision",
    "beam_search": {"name": "beam_search", "step_tokens": 12},
    "dvts": {"name": "dvts", "step_tokens": 12},
    "particle_filter": {"name": "particle_filter", "particles": 4, "step_tokens": 12},
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "count",
        "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
}
OTHERS = 48


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    folder: Path = tmp_path_factory.mktemp("seeds")
    config = folder / "ponder.toml"
    config.write_text('[engine]\ndtype = "float32"\n')
    with ponder_serve(folder, "demo", "--config", str(config)) as (_, address):
        yield address


def test_other_callers_before_leave_no_trace_in_a_seeded_answer(url: str) -> None:
    asker = Asker(url)
    question = stories(1, seed=41)[0].question

    def answers() -> dict[str, tuple[object, ...]]:
        told: dict[str, tuple[object, ...]] = {}
        for budget in (120, 300):
            for name, strategy in STRATEGIES.items():
                extra = {"strategy": strategy, "thinking_budget": budget}
                said = asker.whole(question, seed=3, extra_body=extra)
                told[f"{name} {budget}"] = said.text, said.finish, said.usage.completion_tokens, said.reasoning
        extra = {"strategy": "best_of_n", "thinking_budget": 300}
        wishes: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required"}
        said = asker.whole(question, seed=3, extra_body=extra, **wishes)
        told["call"] = said.text, said.finish, said.usage.completion_tokens, said.reasoning
        return told

    def other(i: int) -> None:
        strategy = (*STRATEGIES, "direct", "direct")[i % (len(STRATEGIES) + 2)]
        extra = {"strategy": strategy, "thinking_budget": (20, 60, 400, 1500)[i % 4]}
        asker.whole(stories(1, seed=1000 + i)[0].question, extra_body=extra)

    before = answers()
    with ThreadPoolExecutor(8) as callers:
        list(callers.map(other, range(OTHERS)))
    assert answers() == before
