"""A model that writes the same and costs more: layers that change nothing, laid on top.

The attention and feed-forward of such a layer end in a matrix of zeros, so that what it adds to the residual stream is
0; it is computed all the same. So one can see what a tiny model's chains would cost with a larger model's tokens.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, cast

import safetensors.torch

ENDS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
FILES = cast("Any", safetensors.torch)
_LAYER = re.compile(r"model\.layers\.0\.(.*)")


def pad_layers(folder: Path, layers: int, into: Path) -> Path:
    """A copy of the Qwen2 model in `folder`, with so many more layers, in the folder `into`, which it makes."""
    shutil.copytree(folder, into)
    config = json.loads((into / "config.json").read_text())
    before: int = config["num_hidden_layers"]
    config["num_hidden_layers"] = config["max_window_layers"] = before + layers
    (into / "config.json").write_text(json.dumps(config))
    weights: dict[str, Any] = FILES.load_file(into / "model.safetensors")
    parts = {found[1]: weight for name, weight in weights.items() if (found := _LAYER.fullmatch(name))}
    for layer in range(before, before + layers):
        for part, weight in parts.items():
            empty = part in ENDS
            weights[f"model.layers.{layer}.{part}"] = weight.new_zeros(weight.shape) if empty else weight.clone()
    FILES.save_file(weights, into / "model.safetensors", metadata={"format": "pt"})
    return into
