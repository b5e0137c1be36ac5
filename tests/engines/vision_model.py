"""A vision model of random weights, small enough to be made by a test: its answers say nothing, its token counts all.

Idefics3's, which vLLM runs without torchvision: an image is cut into tiles of 32 x 32 pixels, at most two by two, each
of 4 tokens and those around them, so the number of its tokens depends on its size. A Llama of two layers writes. The
weights are vLLM's own random ones (`load_format="dummy"`).
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image as Pillow
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.engines.real_shape import tokenizer

CONTEXT = 1024
WORD = "<image>"
TILE, TOKENS = 32, 4
"""Sides of a tile in pixels, and its tokens."""
ADDED = (
    WORD,
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6)),
)
AS_PARTS = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- '<image>' }}{%- else %}{{- part.text }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
"""A chat template that takes parts and writes the word for an image itself, as most do."""
OF_PARTS = AS_PARTS.replace("{%- if message.content is string %}{{- message.content }}{%- else %}", "{%- if true %}")
"""One that makes nothing of a content that is a text, as LLaVA's own."""
OF_TEXTS = AS_PARTS.replace("{%- if message.content is string %}", "{%- if true %}").replace(
    "{{- message.content }}", "{{- message.content + '' }}"
)
"""One that takes texts only."""


def make(folder: Path, template: str = AS_PARTS) -> Path:
    """Writes the files of the model into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made: Any = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer().backend_tokenizer.to_str()),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
    )
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in ADDED])
    made.save_pretrained(str(folder))
    _write(
        folder / "config.json",
        {
            "architectures": ["Idefics3ForConditionalGeneration"],
            "model_type": "idefics3",
            "image_token_id": made.convert_tokens_to_ids(WORD),
            "pad_token_id": made.pad_token_id,
            "scale_factor": 2,
            "dtype": "float32",
            "text_config": {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                "vocab_size": len(made),
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "max_position_embeddings": CONTEXT,
                "bos_token_id": made.eos_token_id,
                "eos_token_id": made.eos_token_id,
                "pad_token_id": made.pad_token_id,
                "dtype": "float32",
            },
            "vision_config": {
                "model_type": "idefics3_vision",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": TILE,
                "patch_size": 8,
                "dtype": "float32",
            },
        },
    )
    _write(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Idefics3ImageProcessor",
            "do_image_splitting": True,
            "size": {"longest_edge": 2 * TILE},
            "max_image_size": {"longest_edge": TILE},
            "return_row_col_info": True,
        },
    )
    _write(folder / "processor_config.json", {"processor_class": "Idefics3Processor", "image_seq_len": TOKENS})
    return folder


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def png(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (40, 30)) -> bytes:
    """The file of an image of one colour."""
    file = BytesIO()
    Pillow.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()
