"""A program that writes a model's vocabulary to its standard output, as xgrammar's `TokenizerInfo` in JSON.

It is a process of its own: xgrammar is loaded here without torch, which cannot be had any more after that.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from ponder.engines.grammar_trial import core_of_xgrammar
from ponder.engines.replicas.known import tokenizer_of


def vocabulary(path: str, size: int) -> str:
    """That of the model in a folder or with a hub id, whose logits have `size` places."""
    core_of_xgrammar()
    infos: Any = importlib.import_module("xgrammar.tokenizer_info").TokenizerInfo
    return str(infos.from_huggingface(tokenizer_of(path), vocab_size=size).serialize_json())


if __name__ == "__main__":
    sys.stdout.write(vocabulary(sys.argv[1], int(sys.argv[2])))
