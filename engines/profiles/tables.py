"""The families of models that Ponder knows. A table says only what does not show in a model's files.

What shows is read from them (`reading`): the markers, how thinking is switched, which earlier thoughts are read.
"""

from __future__ import annotations

from dataclasses import dataclass

from ponder.engines.profiles.profile import Profile


@dataclass(frozen=True, slots=True)
class Family:
    """How a family is told from the others: one of its signs is enough."""

    profile: Profile
    """Its markers are trusted where it sets them; what it leaves out is read."""
    types: tuple[str, ...] = ()
    """Beginnings of `model_type` in `config.json`."""
    tokens: tuple[str, ...] = ()
    """Added tokens, all of them."""
    says: tuple[str, ...] = ()
    """Texts in the chat template, one of them."""
    named: tuple[str, ...] = ()
    """Parts of the model's name, in small letters: looked at last."""
    unseen: bool = False
    """Nothing in its files has to show that it thinks."""
    smallest: bool = False
    """Its vocabulary has fewer than 5000 entries."""


_STEP_BY_STEP = (
    "Think step by step before you answer: write down your reasoning first, one step per paragraph. When it is "
    'complete, write a line that begins with "Final answer:" and behind it the answer alone, complete and '
    "self-contained: the reader sees nothing that stands before it."
)

THINK = Profile(name="think")
"""For models that think, and of which no more is known."""

INSTRUCT = Profile(
    name="instruct",
    thinks=False,
    start="",
    end="",
    opening="",
    closing="",
    closed="",
    temperature=0.7,
    typical_chain=(400, 900),
)
"""For models that answer at once."""

STEP_BY_STEP = Profile(
    name="step_by_step",
    start="",
    end="Final answer:",
    opening="",
    closing="\n\nFinal answer:",
    closed="",
    instruction=_STEP_BY_STEP,
    temperature=0.7,
    typical_chain=(400, 900),
)
"""Has a model that answers at once write down its reasoning first; only where the operator asks for it."""

FAMILIES: tuple[Family, ...] = (
    Family(
        Profile(
            name="demo",
            closing="\n</think>\n",
            closed="<think>\n</think>\n",
            temperature=1.0,
            top_p=1.0,
            step="\n",
            typical_chain=(60, 110),
            reads_thoughts="always",
        ),
        named=("demo",),
        smallest=True,
    ),
    Family(
        Profile(
            name="gpt-oss",
            channels="harmony",
            start="<|channel|>analysis<|message|>",
            end="<|end|>",
            opening="<|channel|>analysis<|message|>",
            closing="<|end|><|start|>assistant<|channel|>final<|message|>",
            closed="<|channel|>final<|message|>",
            wrapper=("", ""),
            switch="",
            effort="reasoning_effort",
            temperature=1.0,
            top_p=1.0,
            reads_thoughts="tool_loop",
            thoughts_field="thinking",
        ),
        types=("gpt_oss",),
        says=("<|channel|>analysis<|message|>",),
        unseen=True,
    ),
    Family(
        Profile(
            name="inkling",
            start="<|content_thinking|>",
            end="<|content_text|>",
            opening="<|content_thinking|>",
            closing="<|end_message|><|message_model|><|content_text|>",
            closed="<|content_text|>",
            wrapper=("", "<|end_message|>"),
        ),
        tokens=("<|content_thinking|>", "<|content_text|>", "<|message_model|>"),
        unseen=True,
    ),
    Family(
        Profile(
            name="solar-open",
            start="<|think|>",
            end="<|content|>",
            opening="<|think|>",
            closing="<|end|><|begin|>assistant<|content|>",
            closed="<|content|>",
            wrapper=("", ""),
        ),
        tokens=("<|think|>", "<|content|>", "<|begin|>"),
        unseen=True,
    ),
    Family(
        Profile(
            name="muse",
            start="to=self<|message|>",
            end="to=user<|message|>",
            opening="to=self<|message|>",
            closing="<|eom|><|start|>assistant to=user<|message|>",
            closed="to=user<|message|>",
        ),
        says=("to=self<|message|>",),
        unseen=True,
    ),
    Family(
        Profile(
            name="kimi-k3",
            start="<|open|>think<|sep|>",
            end="<|close|>think<|sep|>",
            opening="<|open|>think<|sep|>",
            closing="<|close|>think<|sep|><|open|>response<|sep|>",
            closed="<|open|>think<|sep|><|close|>think<|sep|><|open|>response<|sep|>",
            wrapper=("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
        ),
        tokens=("<|open|>", "<|close|>", "<|sep|>"),
        unseen=True,
    ),
    Family(
        Profile(
            name="hunyuan-a13b",
            start="<think>",
            end="</think>",
            opening="<think>\n",
            closing="\n</think>\n<answer>\n",
            wrapper=("<answer>", "</answer>"),
            temperature=0.7,
            top_p=0.8,
            top_k=20,
        ),
        types=("hunyuan_v1_moe", "hunyuan_v1_dense"),
        says=("<|extra_4|>",),
    ),
    Family(
        Profile(
            name="granite-3.2",
            start="Here is my thought process:",
            end="Here is my response:",
            opening="Here is my thought process:",
            closing="\n\nHere is my response:",
            closed="",
            wrapper=("", ""),
        ),
        says=("Here is my thought process:",),
    ),
    Family(
        Profile(name="minimax-m1", start="<think>", end="</think>", temperature=1.0, switch=""),
        types=("minimax_m1", "minimax_text"),
        says=("MiniMax-M1",),
        named=("minimax-m1",),
        unseen=True,
    ),
    Family(
        Profile(
            name="llama-nemotron",
            start="<think>",
            end="</think>",
            switch="",
            system=("detailed thinking on", "detailed thinking off"),
        ),
        named=("llama-3.1-nemotron-nano", "nemotron-super-49b", "nemotron-ultra-253b"),
        unseen=True,
    ),
    Family(
        Profile(name="magistral", start="[THINK]", end="[/THINK]", opening="[THINK]", closing="[/THINK]"),
        named=("magistral",),
        unseen=True,
    ),
    Family(
        Profile(
            name="medgemma",
            start="<unused94>",
            end="<unused95>",
            opening="<unused94>thought\n",
            closing="\n<unused95>",
            closed="<unused94>thought\n<unused95>",
            switch="",
        ),
        named=("medgemma",),
        unseen=True,
    ),
    Family(Profile(name="qwq", top_k=40, typical_chain=(4000, 14000)), named=("qwq",)),
    Family(Profile(name="deepseek-r1", typical_chain=(4000, 16000)), named=("deepseek-r1", "r1-distill")),
    Family(Profile(name="qwen3", top_k=20, typical_chain=(3500, 14000)), types=("qwen3",), named=("qwen3",)),
)
"""The first that fits counts."""

PROFILES: dict[str, Profile] = {
    **{family.profile.name: family.profile for family in FAMILIES},
    THINK.name: THINK,
    INSTRUCT.name: INSTRUCT,
    STEP_BY_STEP.name: STEP_BY_STEP,
    # What `step_by_step` was called.
    "plain": STEP_BY_STEP,
}
"""All that a configuration may name."""
