"""Words of a conversation that switch thinking count where no field of the request says anything of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from ponder.compute.text import Prompt
from ponder.testing import always
from tests.server.reading import ReadingEngine, demo_prompts
from tests.server.serving import CHAIN, answered, door

TEMPLATE = (
    "{% set ns = namespace(on=true) %}{% for m in messages %}{% if '/no_think' in m.content %}{% set ns.on = false %}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not ns.on %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@dataclass
class Listening(ReadingEngine):
    """Says what its conversations say."""

    def asks_to_think(self, prompt: Prompt) -> bool | None:
        return self.reads.says(prompt)


@pytest.mark.parametrize(
    ("text", "fields", "thinks"),
    [
        ("Who?", {}, True),
        ("Who? /no_think", {}, False),
        ("Who? /no_think", {"thinking_budget": 200}, True),
        ("Who? /no_think", {"reasoning_effort": "low"}, True),
        ("Who?", {"thinking_budget": 0}, False),
    ],
)
def test_typed_words_count_where_no_field_says_anything(text: str, fields: dict[str, Any], thinks: bool) -> None:
    engine = Listening(always(CHAIN), reads=demo_prompts(TEMPLATE))
    answer = answered(door(engine), messages=[{"role": "user", "content": text}], **fields)
    assert (answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0) is thinks
