"""A model in a larger shape says what it said: figures of its chains would otherwise be of another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.wide import Shape, widen

DEMO = Path(__file__).parent.parent / "models" / "demo"
LARGE = Shape(hidden=256, feed_forward=512, layers=5, heads=12, kv_heads=6, head=64, vocabulary=1300)


def model(folder: Path) -> Any:
    import torch
    import transformers

    loader: Any = transformers.AutoModelForCausalLM
    return loader.from_pretrained(folder, dtype=torch.float32).eval()


def test_a_wide_model_predicts_what_the_small_one_does(tmp_path: Path) -> None:
    import torch

    wide = model(widen(DEMO, LARGE, tmp_path / "demo"))
    small = model(DEMO)
    ids = torch.randint(3, 1152, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        said, meant = wide(ids).logits, small(ids).logits
    assert wide.config.num_hidden_layers == 5
    assert (said[..., :1152] - meant).abs().max() < 0.05 * meant.abs().max()
    assert said[..., 1152:].max() < meant.min() - 50


def test_a_shape_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be laid into"):
        widen(DEMO, Shape(64, 512, 5, 12, 6, 64, 1300), tmp_path / "demo")
