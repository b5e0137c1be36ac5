"""The shipped weights: small, in bf16, of the promised layout, and able to do what the card says at a glance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

MILLION = 1_000_000


def layout(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return {
            name: (tuple(weights.get_slice(name).get_shape()), weights.get_slice(name).get_dtype())
            for name in weights.keys()  # noqa: SIM118
        }


def parameters(folder: Path) -> int:
    total = 0
    for shape, _ in layout(folder).values():
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


@pytest.mark.parametrize("name", ["demo", "demo-prm"])
def test_each_model_is_small_and_in_bf16(demo: Path, name: str):
    folder = demo.parent / name
    assert parameters(folder) <= 4 * MILLION
    assert {kind for _, kind in layout(folder).values()} == {"BF16"}


def test_both_together_fit_in_16_mebibytes(demo: Path, demo_prm: Path):
    assert sum(file.stat().st_size for folder in (demo, demo_prm) for file in folder.iterdir()) <= 16 * 2**20


def test_the_reward_model_has_the_layout_vllm_expects(demo_prm: Path):
    names = layout(demo_prm)
    width = json.loads((demo_prm / "config.json").read_text())["hidden_size"]
    assert json.loads((demo_prm / "config.json").read_text())["architectures"] == ["Qwen2ForProcessRewardModel"]
    assert names["score.0.weight"][0] == (width, width)
    assert names["score.2.weight"][0] == (2, width)
    assert all(name.startswith(("model.", "score.0.", "score.2.")) for name in names)


def test_both_share_one_tokenizer(demo: Path, demo_prm: Path):
    assert (demo / "tokenizer.json").read_bytes() == (demo_prm / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("message", "thinking", "expected"),
    [
        ("What is 2 + 2?", True, "\\boxed{4}"),
        ("Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?", True, "\\boxed{19}"),
        ("hello", True, "I am a tiny demo model"),
        ("What is the capital of France?", True, "I only know arithmetic stories"),
        ("Write a python function", False, "I only know arithmetic stories"),
    ],
)
def test_the_reasoner_answers_sensibly_in_transformers(demo: Path, message: str, thinking: bool, expected: str):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo)
    model = AutoModelForCausalLM.from_pretrained(demo, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": message}],
        add_generation_prompt=True,
        enable_thinking=thinking,
        return_tensors="pt",
        return_dict=True,
    )
    written = model.generate(**prompt, max_new_tokens=64, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert expected in tokenizer.decode(written, skip_special_tokens=True)
