"""A family for each reasoning parser of vLLM's: its markers, as that parser has them, in one of our own templates.

No weights and no templates of these families are needed for that, and none are here. vLLM is the reference of the tests
alone: the server knows nothing of its parsers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tests.engines.family_models import OWN, Family, families

THINK = ("<think>", "</think>")


@dataclass(frozen=True)
class Like(Family):
    """One of our own, with other words in its template."""

    swaps: tuple[tuple[str, str], ...] = ()

    @property
    def chat_template(self) -> str:
        text = super().chat_template
        for old, new in self.swaps:
            text = text.replace(old, new)
        return text

    def __str__(self) -> str:
        return self.model


@dataclass(frozen=True)
class Row:
    """What the table says of a parser."""

    parser: str
    models: str
    family: Family | None
    """None: refused."""
    note: str = ""
    """How it works only partly, or why it is refused."""


def like(name: str, model: str, **changed: Any) -> Like:
    """The family of our own with that name, changed."""
    own = next(one for one in families(OWN) if one.model == f"own/{name}")
    given: dict[str, Any] = {field.name: getattr(own, field.name) for field in fields(Family)}
    given |= {"model": model, **changed}
    return Like(**given)


def _tags(name: str, model: str, start: str, end: str, *, tokens: bool = True, **more: Any) -> Like:
    """With other markers: those of `name` are `<think>` or `<reasoning>`, white space and all."""
    line = "\n" if end.startswith("</") else ""
    swaps = (*_swapped(("<think>", "<reasoning>"), start, line), *_swapped(("</think>", "</reasoning>"), end, line))
    changed: dict[str, Any] = {
        "added_tokens": (start, end) if tokens else (),
        "swaps": swaps,
        "thought_begins": start + line,
        "thought_ends": line + end + 2 * line,
    }
    return like(name, model, **changed | more)


def _swapped(markers: tuple[str, ...], new: str, line: str) -> list[tuple[str, str]]:
    """Each with the line breaks that stand behind it in a template; they go where the new one has none."""
    breaks = ("\\n" * 2, "\\n", "")
    return [(old + some, new + (some if line else "")) for old in markers for some in breaks]


def _effort(model: str, start: str, end: str, variable: str, on: str, off: str, **more: Any) -> Like:
    swaps = (("deliberation", variable), ("'deep'", f"'{on}'"), ("'none'", f"'{off}'"))
    swaps += (("[MUSE_THINKING]", start), ("[/MUSE_THINKING]", end))
    return like(
        "other-switch", model, special_tokens=("<|turn|>", "<|over|>", start, end), swaps=swaps,
        thought_begins=start, thought_ends=end, **more,
    )  # fmt: skip


_SENTENCE = "Write your thoughts between <think></think> and your answer between <response></response>."
_PROCESS = 'Write "Here is my thought process:" before your thoughts and "Here is my response:" before your answer.'
_CHOICE = ("<ifm|think>", "<ifm|think_fast>", "<ifm|think_faster>")

ROWS: tuple[Row, ...] = (
    Row("deepseek_r1", "DeepSeek-R1 and what was distilled from it", _tags("text-markers", "deepseek_r1", *THINK)),
    Row("deepseek_v3", "DeepSeek-V3.1", _tags("single-tokens", "deepseek_v3", *THINK)),
    Row("deepseek_v4", "DeepSeek-V4", _tags("single-tokens", "deepseek_v4", *THINK)),
    Row("deepseek_v41", "DeepSeek-V4.1", _tags("single-tokens", "deepseek_v41", *THINK)),
    Row("poolside_v1", "Laguna", _tags("single-tokens", "poolside_v1", *THINK, added_tokens=(*THINK, "<assistant>"))),
    Row(
        "cohere_command3",
        "Command A Reasoning",
        _tags(
            "single-tokens",
            "cohere_command3",
            "<|START_THINKING|>",
            "<|END_THINKING|>",
            added_tokens=("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
            answer_wrapped_in=("", "<|END_RESPONSE|>"),
            thought_ends="<|END_THINKING|><|START_RESPONSE|>",
        ),
    ),
    Row(
        "cohere_command4",
        "later Command models",
        _tags("single-tokens", "cohere_command4", "<|START_THINKING|>", "<|END_THINKING|>"),
    ),
    Row(
        "ernie45",
        "ERNIE-4.5 Thinking",
        _tags(
            "text-markers",
            "ernie45",
            *THINK,
            added_tokens=(*THINK, "<response>", "</response>"),
            answer_wrapped_in=("", "\n</response>"),
            thought_ends="\n</think>\n\n<response>",
        ),
    ),
    Row(
        "gemma4",
        "Gemma 4",
        _tags(
            "single-tokens",
            "gemma4",
            "<|channel>thought\\n",
            "<channel|>",
            added_tokens=(),
            special_tokens=("<|turn|>", "<|over|>", "<|channel>", "<channel|>"),
            thought_begins="<|channel>thought\n",
        ),
    ),
    Row("glm45", "GLM-4.5, GLM-4.6", _tags("single-tokens", "glm45", *THINK)),
    Row("glm47", "GLM-4.7, GLM-5", _tags("single-tokens", "glm47", *THINK)),
    Row("ling3", "Ling 3", _tags("single-tokens", "ling3", *THINK)),
    Row("openai_gptoss", "gpt-oss", like("channels", "openai_gptoss")),
    Row(
        "granite",
        "Granite 3.2",
        like(
            "wrapped",
            "granite",
            thought_begins="Here is my thought process:",
            thought_ends="\n\nHere is my response:",
            answer_wrapped_in=("", ""),
            swaps=((_SENTENCE, _PROCESS),),
        ),
        "not where it writes `Here's`",
    ),
    Row("granite_thinking_parser", "Granite 4.2", _tags("single-tokens", "granite_thinking_parser", *THINK)),
    Row(
        "hf",
        "models with a `response_template`",
        None,
        "the template of the response is not read; the chat template is",
    ),
    Row("holo2", "Holo2", _tags("single-tokens", "holo2", *THINK)),
    Row(
        "hunyuan_a13b",
        "Hunyuan-A13B",
        _tags(
            "single-tokens",
            "hunyuan_a13b",
            *THINK,
            tokens=False,
            config={"model_type": "hunyuan_v1_moe"},
            thought_ends="\n</think>\n<answer>\n",
            answer_wrapped_in=("", "\n</answer>"),
        ),
    ),
    Row("hy_v3", "Hunyuan 3", _effort("hy_v3", *THINK, "reasoning_effort", "high", "no_think")),
    Row(
        "hy_v4",
        "Hunyuan 4",
        _effort(
            "hy_v4", "<think:6124c78e>", "</think:6124c78e>", "reasoning_effort", "high", "no_think", added_tokens=()
        ),
    ),
    Row("kimi_k2", "Kimi-K2-Thinking", _tags("interleaved", "kimi_k2", *THINK)),
    Row("kimi_k3", "Kimi-K3", like("several-tokens", "kimi_k3"), "where its folder has a chat template"),
    Row(
        "k2_horizon",
        "K2 Horizon",
        _tags(
            "single-tokens",
            "k2_horizon",
            "<ifm|think>",
            "</ifm|think>",
            added_tokens=(*_CHOICE, *(one.replace("<", "</") for one in _CHOICE)),
        ),
        "with the markers of its highest effort",
    ),
    Row("mimo", "MiMo", _tags("single-tokens", "mimo", *THINK)),
    Row("minicpmv", "MiniCPM-V", _tags("single-tokens", "minicpmv", *THINK), "text alone"),
    Row("minimax_m2", "MiniMax-M2", _tags("interleaved", "minimax_m2", *THINK)),
    Row("minimax_m2_append_think", "MiniMax-M2", None, "thoughts never go into an answer"),
    Row(
        "minimax_m3",
        "MiniMax-M3",
        _effort("minimax_m3", "<mm:think>", "</mm:think>", "thinking_mode", "enabled", "disabled"),
    ),
    Row(
        "mistral",
        "Magistral, Ministral Reasoning",
        _tags("text-markers", "mistral", "[THINK]", "[/THINK]", added_tokens=("[THINK]", "[/THINK]", "[TOOL_CALLS]")),
    ),
    Row("nemotron_v3", "Nemotron 3", _tags("single-tokens", "nemotron_v3", *THINK)),
    Row("olmo3", "Olmo 3 Think", _tags("text-markers", "olmo3", *THINK, tokens=False)),
    Row(
        "plamo3",
        "PLaMo 3",
        _tags("single-tokens", "plamo3", "<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
    ),
    Row(
        "muse_glimmer",
        "Muse Glimmer",
        _tags(
            "text-markers",
            "muse_glimmer",
            "to=self<|message|>",
            "to=user<|message|>",
            tokens=False,
            special_tokens=("<|turn|>", "<|over|>", "<|start|>", "<|message|>", "<|eom|>", "<|eot|>"),
            thought_ends="<|eom|><|start|>assistant to=user<|message|>",
        ),
        "one thought before each answer",
    ),
    Row("qwen3", "Qwen3, Qwen3.5, Qwen3.6", _tags("single-tokens", "qwen3", *THINK)),
    Row(
        "seed_oss",
        "Seed-OSS",
        like(
            "native-budget",
            "seed_oss",
            swaps=(("own:think", "seed:think"),),
            special_tokens=("<|turn|>", "<|over|>", "<seed:think>", "</seed:think>"),
            thought_begins="<seed:think>",
            thought_ends="</seed:think>",
        ),
    ),
    Row("step3", "Step-3", _tags("text-markers", "step3", *THINK)),
    Row("step3p5", "Step-3.5", _tags("interleaved", "step3p5", *THINK)),
    Row(
        "inkling",
        "Inkling",
        _tags(
            "text-markers",
            "inkling",
            "<|content_thinking|>",
            "<|content_text|>",
            added_tokens=(),
            special_tokens=(
                "<|turn|>",
                "<|over|>",
                "<|content_thinking|>",
                "<|content_text|>",
                "<|message_model|>",
                "<|end_message|>",
            ),
            thought_ends="<|end_message|><|message_model|><|content_text|>",
            answer_wrapped_in=("", "<|end_message|>"),
        ),
        "one thought before each answer, where its folder has a chat template",
    ),
)
