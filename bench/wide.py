"""A model that writes the same as a small one, in the shape of a large one: its chains at a large model's price.

    python -m bench.wide models/demo /dev/shm/wide/demo
    python -m bench.wide models/demo-prm /dev/shm/wide/demo-prm --shape 1b

The small model's numbers lie in the corners of matrices of the large one's size, with zeros beside them; layers on top
end in zeros, as those of `bench/pad_layers.py` do. Attention is the same because a head's pairs of dimensions are laid
where the larger head turns at the same rates, and norms are the same because their weights make up for the zeros.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch

FILES = cast("Any", safetensors.torch)
LOW = 64.0
"""How low the logits of tokens are that the small model has not, in units of what is laid into its stream."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder of the family Qwen2."""

    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int


SHAPES: Mapping[str, Shape] = {
    "7b": Shape(3584, 18944, 28, 28, 4, 128, 152064),
    "1b": Shape(2048, 8192, 24, 16, 8, 128, 152064),
}
"""7b: Qwen2.5-7B's. 1b: 1.6 billion parameters; it has the eight key heads that the demo's reward model needs."""


def widen(folder: Path, shape: Shape, into: Path) -> Path:
    """The Qwen2 model in `folder`, in that shape, in the folder `into`, which it makes. Raises `ValueError` where it
    does not fit."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    small = _shape(config)
    _fits(small, shape)
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("*.safetensors"))
    laid = _Laid(small, shape)
    weights = laid.weights(FILES.load_file(folder / "model.safetensors"))
    FILES.save_file(weights, into / "model.safetensors", metadata={"format": "pt"})
    config |= {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "max_window_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "vocab_size": shape.vocabulary,
        "rms_norm_eps": config["rms_norm_eps"] * small.hidden / shape.hidden,
        "tie_word_embeddings": False,
    }
    (into / "config.json").write_text(json.dumps(config, indent=2))
    return into


def _shape(config: Mapping[str, Any]) -> Shape:
    heads: int = config["num_attention_heads"]
    return Shape(
        hidden=config["hidden_size"],
        feed_forward=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config["num_key_value_heads"],
        head=config.get("head_dim") or config["hidden_size"] // heads,
        vocabulary=config["vocab_size"],
    )


def _fits(small: Shape, large: Shape) -> None:
    grown = large.hidden > small.hidden and large.layers >= small.layers and large.feed_forward >= small.feed_forward
    groups = large.heads // large.kv_heads >= small.heads // small.kv_heads and large.kv_heads >= small.kv_heads
    if not (grown and groups and large.head % small.head == 0 and large.vocabulary >= small.vocabulary):
        raise ValueError(f"{small} cannot be laid into {large}")


class _Laid:
    """Where each number of the small model comes to lie."""

    def __init__(self, small: Shape, large: Shape) -> None:
        self.small, self.large = small, large
        self.stream = torch.arange(small.hidden)
        self.inner = torch.arange(small.feed_forward)
        half, step = small.head // 2, large.head // small.head
        turned = torch.arange(half) * step
        turned = torch.cat([turned, turned + large.head // 2])
        """The dimensions i and i + half of a head turn at one rate, base ** (-i / half)."""
        plain = torch.arange(small.head)
        own, group = small.heads // small.kv_heads, large.heads // large.kv_heads
        queries = [(i // own) * group + i % own for i in range(small.heads)]
        self.q = torch.cat([turned + i * large.head for i in queries])
        self.k = torch.cat([turned + i * large.head for i in range(small.kv_heads)])
        self.v = torch.cat([plain + i * large.head for i in range(small.kv_heads)])
        self.o = torch.cat([plain + i * large.head for i in queries])
        self.norm = math.sqrt(small.hidden / large.hidden)
        self.scale = math.sqrt(large.head / small.head)
        """Scores are divided by the root of the head's size."""

    def weights(self, small: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """All of the large model."""
        large = self.large
        kind = small["model.norm.weight"].dtype
        constant = self.small.hidden
        made: dict[str, torch.Tensor] = {}
        embedding = small["model.embed_tokens.weight"]
        made["model.embed_tokens.weight"] = self._placed(embedding, large.vocabulary, large.hidden, None, self.stream)
        made["model.norm.weight"] = self._placed(
            small["model.norm.weight"] * self.norm, large.hidden, None, self.stream
        )
        if not any(name.startswith("score.") for name in small):
            # A dimension that is the same for every token, and that no layer writes, holds down what no token is.
            # It is so small that norms do not see it.
            made["model.embed_tokens.weight"][:, constant] = 2.0**-10
            made["model.norm.weight"][constant] = 2.0**20
            head = self._placed(
                small.get("lm_head.weight", embedding), large.vocabulary, large.hidden, None, self.stream
            )
            head[self.small.vocabulary :, constant] = -LOW
            made["lm_head.weight"] = head
        else:
            made |= self._score(small)
        chance = torch.Generator().manual_seed(0)
        fill: dict[str, torch.Tensor] = {}
        for layer in range(large.layers):
            for part, (size, places) in self._parts().items():
                name = f"model.layers.{layer}.{part}"
                if layer < self.small.layers:
                    made[name] = self._placed(self._scaled(part, small[name]), *size, *places)
                elif part.endswith(("o_proj.weight", "down_proj.weight", "bias")):
                    made[name] = torch.zeros([n for n in size if n], dtype=kind)
                elif part.endswith("norm.weight"):
                    made[name] = torch.ones(large.hidden, dtype=kind)
                else:
                    if part not in fill:
                        fill[part] = (torch.randn([n for n in size if n], generator=chance) * 0.02).to(kind)
                    made[name] = fill[part].clone()
        return made

    def _parts(self) -> dict[str, tuple[tuple[int, int | None], tuple[torch.Tensor, torch.Tensor | None]]]:
        """Of one layer: what size each part has, and which of its rows and columns are the small model's."""
        large = self.large
        queries, keys = large.heads * large.head, large.kv_heads * large.head
        return {
            "input_layernorm.weight": ((large.hidden, None), (self.stream, None)),
            "post_attention_layernorm.weight": ((large.hidden, None), (self.stream, None)),
            "self_attn.q_proj.weight": ((queries, large.hidden), (self.q, self.stream)),
            "self_attn.q_proj.bias": ((queries, None), (self.q, None)),
            "self_attn.k_proj.weight": ((keys, large.hidden), (self.k, self.stream)),
            "self_attn.k_proj.bias": ((keys, None), (self.k, None)),
            "self_attn.v_proj.weight": ((keys, large.hidden), (self.v, self.stream)),
            "self_attn.v_proj.bias": ((keys, None), (self.v, None)),
            "self_attn.o_proj.weight": ((large.hidden, queries), (self.stream, self.o)),
            "mlp.gate_proj.weight": ((large.feed_forward, large.hidden), (self.inner, self.stream)),
            "mlp.up_proj.weight": ((large.feed_forward, large.hidden), (self.inner, self.stream)),
            "mlp.down_proj.weight": ((large.hidden, large.feed_forward), (self.stream, self.inner)),
        }

    def _scaled(self, part: str, weight: torch.Tensor) -> torch.Tensor:
        if part.endswith("layernorm.weight"):
            return weight * self.norm
        return weight * self.scale if ".q_proj." in part else weight

    def _score(self, small: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The head of a reward model: two layers, the second of as many rows as there are verdicts."""
        hidden, verdicts = self.large.hidden, small["score.2.weight"].shape[0]
        return {
            "score.0.weight": self._placed(small["score.0.weight"], hidden, hidden, self.stream, self.stream),
            "score.0.bias": self._placed(small["score.0.bias"], hidden, None, self.stream),
            "score.2.weight": self._placed(small["score.2.weight"], verdicts, hidden, None, self.stream),
            "score.2.bias": small["score.2.bias"].clone(),
        }

    @staticmethod
    def _placed(
        small: torch.Tensor,
        rows: int,
        columns: int | None,
        row_places: torch.Tensor | None = None,
        column_places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Zeros of that size, with the small tensor at those rows and columns; None: at the first ones."""
        at_rows = torch.arange(small.shape[0]) if row_places is None else row_places
        if columns is None:
            made = torch.zeros(rows, dtype=small.dtype)
            made[at_rows] = small
            return made
        at_columns = torch.arange(small.shape[1]) if column_places is None else column_places
        made = torch.zeros(rows, columns, dtype=small.dtype)
        made[at_rows[:, None], at_columns] = small
        return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the small model")
    parser.add_argument("into", type=Path, help="folder to make")
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    options = parser.parse_args()
    widen(options.model, SHAPES[options.shape], options.into)


if __name__ == "__main__":
    main()
