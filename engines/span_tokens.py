"""Pieces of a rendered prompt become token ids; a control token is looked for in the template's own text alone."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

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
    ids: tuple[int, ...] | None = None
    """What it is as tokens, where that is known already; it has no text then."""


class SpanTokenizer:
    """Tokenises the pieces of one model's prompts; from any thread."""

    def __init__(self, tokenizer: Tokenizer, profile: Profile) -> None:
        self._whole = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._markers = {t.content: (i, t) for i, t in added.items() if t.content and _is_marker(t, profile)}
        self._marker_ids = frozenset(i for i, _ in self._markers.values())
        self.marker = any_of(self._markers)
        """Any of the markers."""
        self._plain = _without(tokenizer, self._markers)
        self._behind: Tokenizer | None = None
        self._longest = _longest(tokenizer)

    @property
    def markers(self) -> Collection[str]:
        """The control tokens as text."""
        return self._markers.keys()

    @property
    def marker_ids(self) -> frozenset[int]:
        """Their ids."""
        return self._marker_ids

    def is_marker(self, text: str) -> bool:
        """A text of ours that is one control token, never merged with what stands beside it."""
        return text in self._markers

    def whole(self, text: str) -> list[int]:
        """The ids of a text as the ordinary way gives them: markers are markers wherever they stand."""
        return _encoded(self._whole, text)

    def tell_beginnings_apart(self) -> None:
        """From now on a piece behind a marker is read as such, not as the beginning of a text: some tokenizers put a
        space there."""
        data = json.loads(self._plain.to_str())
        self._behind = Tokenizer.from_str(json.dumps(data))
        cast(Any, self._behind).add_special_tokens([AddedToken(_BEHIND, special=True, normalized=False)])
        self._marker_ids |= {cast(Any, self._behind).token_to_id(_BEHIND)}

    def ids(self, spans: Sequence[Span], parts: dict[Any, Any] | None = None) -> list[int]:
        """`parts` keeps the ids of long pieces, for prompts that have them in common."""
        ids: list[int] = []
        for piece in self._cut(spans):
            if isinstance(piece, int):
                ids.append(piece)
            elif parts is None or len(piece) < LONG:
                ids.extend(self.text_ids(piece, behind=bool(ids)))
            else:
                if (self, piece) not in parts:
                    parts[self, piece] = self.text_ids(piece, behind=bool(ids))
                ids.extend(parts[self, piece])
        return ids

    def _cut(self, spans: Sequence[Span]) -> Iterator[str | int]:
        """Cut at the template's markers: their ids, and all the text between two of them as one."""
        text = ""
        strip = False
        for span in spans:
            if span.ids is not None:
                yield text.lstrip() if strip else text
                yield from span.ids
                text, strip = "", False
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

    def text_ids(self, text: str, *, behind: bool = False) -> list[int]:
        """The ids of a text without any marker; `behind`: it stands behind one."""
        if not text:
            return []
        if behind and self._behind is not None:
            ids = _encoded(self._behind, _BEHIND + text)[1:]
        else:
            ids = _encoded(self._plain, text)
        if not self._marker_ids.isdisjoint(ids):
            # A vocabulary in which plain text can spell a marker: character by character it cannot.
            ids = [i for char in text for i in self._plain.encode(char, add_special_tokens=False).ids]
        return ids


_BEHIND = "\ue0f0"
"""Stands for a marker in front of a text."""


def any_of(markers: Collection[str]) -> re.Pattern[str]:
    """Finds any of the markers, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))) or r"(?!)")


def taken_apart(spans: Sequence[Span], marker: re.Pattern[str]) -> str:
    """The text of them all; each marker in it that is not the template's own has a zero-width space in it."""
    typed = b"".join(bytes([span.typed]) * len(span.text) for span in spans)
    return apart("".join(span.text for span in spans), marker, typed)


def apart(text: str, marker: re.Pattern[str], typed: bytes | None = None) -> str:
    """The text with a zero-width space behind the first character of each marker; where `typed` tells which of the
    characters a caller typed, of each with one of those."""
    pieces: list[str] = []
    at = begin = 0
    while (found := marker.search(text, at)) is not None:
        at = found.end()
        if typed is None or any(typed[found.start() : at]):
            at = found.start() + 1
            pieces += (text[begin:at], "\u200b")
            begin = at
    return "".join((*pieces, text[begin:]))


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    if len(text) < LONG:
        return tokenizer.encode(text, add_special_tokens=False).ids
    # Of the two, this one releases the interpreter's lock; it costs more for short texts.
    return tokenizer.encode_batch([text], add_special_tokens=False)[0].ids


_BRACKETS = frozenset("<[{|\uff5c\u25c1\u00ab\u27e8\u3008\u3010"), frozenset(">]}|\uff5c\u25b7\u00bb\u27e9\u3009\u3011")


def _is_marker(token: AddedToken, profile: Profile) -> bool:
    """A control token, and not one of the plain words that some vocabularies add in the same way."""
    text = token.content.strip()
    bracketed = text[:1] in _BRACKETS[0] and text[-1:] in _BRACKETS[1] and any(map(str.isalpha, text))
    return bool(text) and (token.special or bracketed or text in (profile.start, profile.end))


def _without(tokenizer: Tokenizer, markers: Collection[str]) -> Tokenizer:
    """The same tokenizer, knowing none of the markers: it reads all text as plain text. What stays has its id."""
    data = json.loads(tokenizer.to_str())
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    kept: list[dict[str, Any]] = []
    for token in data["added_tokens"]:
        if token["content"] not in markers:
            kept.append(token)
        elif token["content"] not in vocabulary:
            # Ids beyond the vocabulary are counted: in its place stands what nobody types.
            kept.append(token | {"content": f"\ue0f1{token['id']}\ue0f1"})
    data["added_tokens"] = kept
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
