"""A scripted engine that reads its prompts as a real one does: the bundled tokenizer behind a chat template."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer

from ponder.compute.text import Prompt
from ponder.engines.profiles import PROFILES
from ponder.engines.prompts import ChatTokenizer, Prompts
from ponder.testing import ScriptedEngine

DEMO = Path(__file__).parents[2] / "models" / "demo"
SHOWS_CALLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def demo_prompts(template: str | None = None, context: int | None = None) -> Prompts:
    """The bundled model's prompts, or those of its tokenizer behind another template."""
    tokenizer: Any = cast(Any, AutoTokenizer).from_pretrained(str(DEMO))
    if template is not None:
        tokenizer.chat_template = template
    return Prompts(cast(ChatTokenizer, tokenizer), PROFILES["demo"], context)


@dataclass
class ReadingEngine(ScriptedEngine):
    reads: Prompts = field(default_factory=demo_prompts)

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        return self.reads.length(prompt, thinking=thinking)
