"""What differs from one family of models to the next, as data: think markers, closing phrase, sampling, step delimiter.

A profile states facts; nothing here runs. Where the chat template itself shows a fact (on which side of the thought it
leaves the model, say), `ponder.engines.prompts` reads it off what the template renders and trusts that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ToolFormat = Literal["none", "hermes", "qwen3_coder", "deepseek", "llama3_json", "mistral"]
"""How a family writes a tool call into its answer."""


class Profile(BaseModel):
    """One family of models. A user may give one as a table in the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "custom"
    thinks: bool = True
    """It can be made to think before it answers, and its thought can be told from the answer."""
    start: str = "<think>"
    """The marker that opens a thought; empty where nothing does (step-by-step prompting)."""
    end: str = "</think>"
    """The marker that ends it; hidden, and counted as thought."""
    opening: str = "<think>\n"
    """Put behind the template's generation prompt where that leaves the model outside a thought it is to have. So it is
    known from the first token on which side the model is, and a forgotten marker hides everything, never nothing."""
    closing: str = "\n</think>\n\n"
    """Put in by force where a thought has used up its share."""
    closed: str = "<think>\n\n</think>\n\n"
    """Put behind the generation prompt to switch thinking off where the template has no switch for it."""
    switch: str = "enable_thinking"
    """The template's variable that switches thinking off; unknown to a template, it is without effect."""
    instruction: str = ""
    """Added to the system message when the model is to think; for models that have to be asked."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    step: Annotated[str, Field(min_length=1)] = "\n\n"
    """What ends a step of a thought."""
    typical_chain: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (3000, 12000)
    """(p50, p90) of the tokens of a whole chain, before any was seen."""
    tools: ToolFormat = "none"
    shows_thoughts: bool = False
    """Its template takes `reasoning_content` of earlier turns, and the model was trained to read it."""

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        if self.thinks and not (self.end and self.end in self.closing):
            raise ValueError(
                f"profile {self.name!r}: closing {self.closing!r} must contain the end marker {self.end!r}"
            )
        return self


_STEP_BY_STEP = (
    "Think step by step before you answer: write down your reasoning first, one step per paragraph. When it is "
    'complete, write a line that begins with "Final answer:" and behind it the answer alone, complete and '
    "self-contained: the reader sees nothing that stands before it."
)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="demo",
            closing="\n</think>\n",
            closed="<think>\n</think>\n",
            temperature=1.0,
            top_p=1.0,
            step="\n",
            typical_chain=(60, 110),
            shows_thoughts=True,
        ),
        Profile(name="think"),
        Profile(name="deepseek-r1", typical_chain=(4000, 16000), tools="deepseek"),
        Profile(name="qwen3", top_k=20, typical_chain=(3500, 14000), tools="hermes"),
        Profile(name="qwq", top_k=40, typical_chain=(4000, 14000), tools="hermes"),
        Profile(
            name="plain",
            start="",
            end="Final answer:",
            opening="",
            closing="\n\nFinal answer:",
            closed="",
            instruction=_STEP_BY_STEP,
            temperature=0.7,
            typical_chain=(400, 900),
            tools="hermes",
        ),
    )
}


def find(path: str, config: Mapping[str, Any], template: str) -> Profile:
    """The profile that fits a model: by its name, its `config.json` and its chat template."""
    name = PurePath(path).name.lower()
    whole = path.lower()
    if "<think>" not in template and "think" not in template:
        return PROFILES["demo"] if name == "demo" else PROFILES["deepseek-r1" if _is_r1(whole) else "plain"]
    if name == "demo" or int(config.get("vocab_size") or 1_000_000) < 5000:
        return PROFILES["demo"]
    if "qwq" in whole:
        return PROFILES["qwq"]
    if _is_r1(whole):
        return PROFILES["deepseek-r1"]
    if "qwen3" in whole or str(config.get("model_type", "")).startswith("qwen3"):
        return PROFILES["qwen3"]
    return PROFILES["think"]


def _is_r1(name: str) -> bool:
    return "deepseek-r1" in name or "r1-distill" in name
