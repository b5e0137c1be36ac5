"""Pieces of a rendered prompt become token ids; a control token is looked for in the template's own text alone."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from ponder.compute.engine import LONG
from ponder.engines.profiles import Profile


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a rendered prompt."""

    text: str
    typed: bool
    """A caller's."""


class SpanTokenizer:
    """Tokenises the pieces of one model's prompts; from any thread."""

    def __init__(self, tokenizer: Tokenizer, profile: Profile) -> None:
        self._whole = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._markers = {t.content: (i, t) for i, t in added.items() if t.content and _is_marker(t, profile)}
        self._marker_ids = frozenset(i for i, _ in self._markers.values())
        by_length = sorted(self._markers, key=len, reverse=True)
        self.marker = re.compile("|".join(map(re.escape, by_length)) or r"(?!)")
        """Any of the markers."""
        self._plain = _without(tokenizer, self._markers)
        self._longest = _longest(tokenizer)

    def is_marker(self, text: str) -> bool:
        """A text of ours that is one control token, never merged with what stands beside it."""
        return text in self._markers

    def whole(self, text: str) -> list[int]:
        """The ids of a text as the ordinary way gives them: markers are markers wherever they stand."""
        return _encoded(self._whole, text)

    def ids(self, spans: Sequence[Span], parts: dict[Any, Any] | None = None) -> list[int]:
        """`parts` keeps the ids of long pieces, for prompts that have them in common."""
        ids: list[int] = []
        for piece in self._cut(spans):
            if isinstance(piece, int):
                ids.append(piece)
            elif parts is None or len(piece) < LONG:
                ids.extend(self.text_ids(piece))
            else:
                if (self, piece) not in parts:
                    parts[self, piece] = self.text_ids(piece)
                ids.extend(parts[self, piece])
        return ids

    def _cut(self, spans: Sequence[Span]) -> Iterator[str | int]:
        """Cut at the template's markers: their ids, and all the text between two of them as one."""
        text = ""
        strip = False
        for span in spans:
            start = 0
            for found in () if span.typed else self.marker.finditer(span.text):
                number, token = self._markers[found[0]]
                before = text + span.text[start : found.start()]
                if strip:
                    before = before.lstrip()
                yield before.rstrip() if token.lstrip else before
                yield number
                text, start, strip = "", found.end(), token.rstrip
            text += span.text[start:]
        yield text.lstrip() if strip else text

    def least(self, spans: Sequence[Span]) -> int:
        """Tokens these cannot have fewer of; 0 where nothing can be said."""
        if self._longest is None:
            return 0
        return sum(1 if isinstance(p, int) else -(-_least_bytes(p) // self._longest) for p in self._cut(spans))

    def text_ids(self, text: str) -> list[int]:
        if not text:
            return []
        ids = _encoded(self._plain, text)
        if not self._marker_ids.isdisjoint(ids):
            # A vocabulary in which plain text can spell a marker: character by character it cannot.
            ids = [i for char in text for i in self._plain.encode(char, add_special_tokens=False).ids]
        return ids


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    if len(text) < LONG:
        return tokenizer.encode(text, add_special_tokens=False).ids
    # Of the two, this one releases the interpreter's lock; it costs more for short texts.
    return tokenizer.encode_batch([text], add_special_tokens=False)[0].ids


def _is_marker(token: AddedToken, profile: Profile) -> bool:
    """A control token, and not one of the plain words that some vocabularies add in the same way."""
    text = token.content.strip()
    bracketed = text[:1] in ("<", "[") and text[-1:] in (">", "]")
    return bool(text) and (token.special or bracketed or text in (profile.start, profile.end))


def _without(tokenizer: Tokenizer, markers: Collection[str]) -> Tokenizer:
    """The same tokenizer, knowing none of the markers: it reads all text as plain text."""
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] not in markers]
    data["post_processor"] = data["truncation"] = data["padding"] = None
    return Tokenizer.from_str(json.dumps(data))


def _least_bytes(text: str) -> int:
    """Bytes a text has at least when it is composed (NFC): no character decomposes into more than four."""
    return len(text) if text.isascii() else len(text) // 4


def _longest(tokenizer: Tokenizer) -> int | None:
    """Bytes of text one token stands for at most; None where that cannot be told: where text may go without a token, or
    much of it into one (unknown words, white space beside a marker)."""
    data: dict[str, Any] = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = data["model"]["vocab"] if data["model"]["type"] == "BPE" else {}
    before: dict[str, Any] = data["pre_tokenizer"] or {}
    steps: list[dict[str, Any]] = before.get("pretokenizers", [before])
    added: list[dict[str, Any]] = data["added_tokens"]
    if (
        not set(ByteLevel.alphabet()) <= vocabulary.keys()
        or not {"ByteLevel"} <= {step.get("type") for step in steps} <= {"ByteLevel", "Split", "Digits"}
        or any(step.get("behavior") == "Removed" for step in steps)
        or (data["normalizer"] or {"type": "NFC"})["type"] != "NFC"
        or any(token["lstrip"] or token["rstrip"] for token in added)
    ):
        return None
    return max(*map(len, vocabulary), *(len(token["content"].encode()) for token in added))
