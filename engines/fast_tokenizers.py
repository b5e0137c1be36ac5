"""Tokenizers of every kind as one: the Rust tokenizer that reads and spells text, with the ids of the model's own.

Most models bring one. Of a vocabulary of tiktoken's (Kimi, Hunyuan), of Mistral's own tokenizers and of SentencePiece's
one is made here, and it is compared with the original before it is used.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers

from ponder.compute.errors import EngineError

SAMPLES = (
    "What is 2 + 2?\n\nAnswer with  one number, please: 12345.678 or don't.",
    "def f(x):\n    return {'a': [x ** 2, \"b\"]}\t# \\frac{1}{2}\r\n\n\n   end   ",
    "Größe, naïve café, Ελληνικά, Привет мир, שלום, مرحبا, हिन्दी",
    "你好，世界！日本語のテスト。한국어 문장입니다. 🙂👩‍👩‍👧 ∑∞≈ √2",
)
"""Texts on which the one made and the original are to agree."""


def fast_tokenizer(tokenizer: Any) -> Tokenizer:
    """The Rust tokenizer of any tokenizer vLLM loads. Raises `EngineError` where there is none and none can be made."""
    made = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(made, Tokenizer):
        return made
    name = type(tokenizer).__name__
    for way in (_from_mistral, _from_tiktoken, _from_sentencepiece):
        found = way(tokenizer)
        if found is not None:
            made, encode = found
            break
    else:
        raise EngineError(
            f"the model's tokenizer ({name}) is program code of its own, neither tiktoken's nor SentencePiece's: put a "
            "tokenizer.json into the model's folder (copies of the model for transformers or llama.cpp often have one)"
        )
    for sample in SAMPLES:
        if made.encode(sample, add_special_tokens=False).ids != encode(sample):
            raise EngineError(
                f"the model's tokenizer ({name}) splits text in a way of its own, which cannot be followed here: put a "
                "tokenizer.json for it into the model's folder"
            )
    return made


Found = tuple[Tokenizer, Callable[[str], list[int]]]
"""What was made, and the original's ids of a plain text."""


def _from_mistral(tokenizer: Any) -> Found | None:
    """Of vLLM's `MistralTokenizer` and of the transformers class it holds."""
    inner = getattr(getattr(tokenizer, "instruct", None), "tokenizer", None)
    if inner is None:
        inner = getattr(getattr(getattr(tokenizer, "tokenizer", None), "instruct_tokenizer", None), "tokenizer", None)
    if inner is None:
        return None

    def encode(text: str) -> list[int]:
        return inner.encode(text, bos=False, eos=False)

    special = {inner.id_to_piece(i): i for i in sorted(inner.special_ids)}
    encoding = _encoding_of(inner)
    if encoding is None:
        return _of_sentencepiece(Path(inner.file_path), special), encode
    return _of_ranks(encoding, inner.num_special_tokens, special), encode


def _from_tiktoken(tokenizer: Any) -> Found | None:
    encoding = _encoding_of(tokenizer)
    if encoding is None:
        return None
    added = {t.content: i for i, t in cast("dict[int, AddedToken]", tokenizer.added_tokens_decoder).items()}
    return _of_ranks(encoding, 0, dict(encoding._special_tokens) | added), encoding.encode_ordinary


def _from_sentencepiece(tokenizer: Any) -> Found | None:
    file = getattr(tokenizer, "vocab_file", None)
    if not file or Path(file).suffix != ".model" or not Path(file).is_file():
        return None
    added = {t.content: i for i, t in cast("dict[int, AddedToken]", tokenizer.added_tokens_decoder).items()}

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    return _of_sentencepiece(Path(file), added), encode


def _encoding_of(holder: Any) -> Any:
    """The vocabulary of tiktoken's that an object holds, itself or one step down; None where it holds none."""
    try:
        encodings: Any = importlib.import_module("tiktoken").Encoding
    except ImportError:
        return None
    held = [*getattr(holder, "__dict__", {}).values()]
    held += [inner for one in held for inner in getattr(one, "__dict__", {}).values()]
    return next((one for one in held if isinstance(one, encodings)), None)


def _of_ranks(encoding: Any, shift: int, special: Mapping[str, int]) -> Tokenizer:
    """Byte-pair encoding by tiktoken's ranks; `shift` is added to each to have its id."""
    converters: Any = importlib.import_module("transformers.convert_slow_tokenizer")
    ranks = {piece: rank + shift for piece, rank in encoding._mergeable_ranks.items()}

    class OfRanks(converters.TikTokenConverter):
        def load_tiktoken_bpe(self, tiktoken_url: Any) -> dict[bytes, int]:
            return ranks

    made: Tokenizer = OfRanks(pattern=encoding._pat_str).converted()
    made.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]
    return _with_special(made, special)


def _of_sentencepiece(file: Path, special: Mapping[str, int]) -> Tokenizer:
    """By a SentencePiece model's own pieces; a text that begins is given a space where the model says so."""
    converters: Any = importlib.import_module("transformers.convert_slow_tokenizer")
    extracted: Any = converters.SentencePieceExtractor(str(file))
    parts: dict[str, Any] = extracted.extract(None)
    made: Any = converters.SpmConverter.build_tokenizer_from_spm_proto(
        extracted.proto, parts["vocab"], parts.get("merges")
    )
    begun = bool(extracted.proto.normalizer_spec.add_dummy_prefix)
    charsmap = extracted.proto.normalizer_spec.precompiled_charsmap
    made.normalizer = normalizers.Precompiled(charsmap) if charsmap else None
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if begun else "never", split=False)
    steps: list[Any] = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * begun)
    return _with_special(made, special)


def _with_special(made: Tokenizer, special: Mapping[str, int]) -> Tokenizer:
    """The tokenizer with control tokens of given ids."""
    data: dict[str, Any] = json.loads(made.to_str())
    vocabulary: Any = data["model"]["vocab"]
    if isinstance(vocabulary, dict):
        cast("dict[str, int]", vocabulary).update(special)
    made = Tokenizer.from_str(json.dumps(data))
    in_order = sorted(special, key=lambda text: special[text])
    cast(Any, made).add_special_tokens([AddedToken(text, special=True, normalized=False) for text in in_order])
    wrong = [text for text, number in special.items() if made.token_to_id(text) != number]
    if wrong:
        raise EngineError(f"the model's control token {wrong[0]!r} cannot be had at its place in the vocabulary")
    return made
