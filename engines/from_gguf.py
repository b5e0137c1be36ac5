"""A model in a GGUF file as a folder that vLLM loads: bf16 safetensors, tokenizer, chat template, configuration.

    python -m ponder.engines.from_gguf FILE FOLDER

It is a program, so that the torch and the gigabyte it takes are gone when the server begins. What the file has in
blocks of few bits is written out in full: vLLM's own reader of GGUF wants CUDA, and is slower than bf16 on a CPU.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

NEEDS = ("torch", "transformers", "gguf", "accelerate")
"""Packages that `convert` imports, itself or through transformers."""


def convert(file: Path, folder: Path) -> None:
    """Makes the folder, by way of transformers. Raises whatever that raises for a file it cannot read, and `ValueError`
    where it leaves weights in blocks."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    # Releases that could keep the blocks have this class to say that they are not to.
    blocks: Any = getattr(transformers, "GgufConfig", None)
    unpacked = {} if blocks is None else {"quantization_config": blocks(dequantize=True)}
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16, **unpacked)
    kinds = {weight.dtype for weight in model.parameters()}
    if kinds != {torch.bfloat16}:
        raise ValueError(f"transformers gives weights of {kinds} where bfloat16 was asked for")
    # It is marked as quantised by where it came from; so marked, it would not be saved, nor loaded by vLLM.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    mask = os.umask(0)
    os.umask(mask)
    for made in folder.iterdir():
        made.chmod(0o666 & ~mask)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
