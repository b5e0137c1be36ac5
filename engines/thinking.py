"""The one place where thought and answer are told apart, streamed or not.

A `Splitter` is fed the tokens a model makes. It starts on the side where the prompt left the model and changes sides at
a marker only: a thought that is never closed stays hidden to its last token, and so does a second thought that is
opened in the middle of the answer. Where the markers are single tokens they are known by their ids, and the text of a
thought is decoded once, at the end; elsewhere they are looked for in the text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring tokens on one side: `first` to `last` (exclusive) of those fed. `text` is what may be read out now;
    it lags behind the tokens where a character, a stop string or a marker may not be complete yet."""

    first: int
    last: int
    hidden: bool
    text: str = ""


class Vocabulary:
    """What single tokens spell, and which of them are the markers of a thought."""

    def __init__(self, tokenizer: Tokenizer, start: str, end: str) -> None:
        self.tokenizer = tokenizer
        self.start = start
        self.end = end
        self._added = {i: t.content for i, t in cast("dict[int, Any]", tokenizer.get_added_tokens_decoder()).items()}
        by_text = {text: i for i, text in self._added.items()}
        self.start_id: int | None = by_text.get(start) if start else None
        self.end_id: int | None = by_text.get(end) if end else None
        self._byte_level = "ByteLevel" in json.dumps(json.loads(tokenizer.to_str()).get("decoder"))
        self._bytes: dict[int, bytes] = {}

    @property
    def by_ids(self) -> bool:
        """The markers are single tokens."""
        return self.end_id is not None and (not self.start or self.start_id is not None)

    def bytes(self, token: int) -> bytes:
        """What a token adds to a text; may be a part of a character."""
        if (known := self._bytes.get(token)) is None:
            known = self._bytes[token] = self._spell(token)
        return known

    def _spell(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        piece = self.tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if self._byte_level:
            return b"".join(_BYTE.get(char, char.encode()) for char in piece)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("\u2581", " ").encode()

    def containing(self, text: str) -> frozenset[int]:
        """All plain tokens that spell `text` somewhere within."""
        wanted = text.encode()
        size = self.tokenizer.get_vocab_size(with_added_tokens=False)
        return frozenset(i for i in range(size) if i not in self._added and wanted in self._spell(i))

    def reopened(self, ids: Sequence[int]) -> bool:
        """These tokens of a chain leave it within a thought that they have opened themselves."""
        if self.by_ids:
            last = next((i for i in reversed(ids) if i in (self.start_id, self.end_id)), self.end_id)
            return last == self.start_id
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return bool(self.start) and text.rfind(self.start) > text.rfind(self.end)

    def last_answer(self, ids: Sequence[int]) -> str:
        """What these tokens of a chain spell behind its last thought."""
        if self.by_ids:
            behind = next((n for n in range(len(ids), 0, -1) if ids[n - 1] == self.end_id), 0)
            return self.decode(ids[behind:]).lstrip("\r\n")
        return self.decode(ids).rpartition(self.end)[2].lstrip()

    def answer_at(self, ids: Sequence[int], thought_first: bool) -> int:
        """Where among these tokens of a chain its answer begins: behind its thought, and behind the white space that
        parts the two. `thought_first`: the chain began within a thought."""
        at = 0
        if thought_first and self.by_ids:
            at = next((n for n in range(len(ids), 0, -1) if ids[n - 1] == self.end_id), 0)
        elif thought_first:
            # The first end behind the last begin: an answer may have the words that end a thought.
            raw = b"".join(map(self.bytes, ids))
            begun = raw.rfind(self.start.encode()) if self.start else 0
            end = raw.find(self.end.encode(), max(0, begun))
            read = 0
            while at < len(ids) and (end < 0 or read < end + len(self.end.encode())):
                read += len(self.bytes(ids[at]))
                at += 1
        while at < len(ids) and self.bytes(ids[at]).isspace():
            at += 1
        return at

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a thought, its markers left out."""
        marks = (self.start_id, self.end_id)
        return self.tokenizer.decode([i for i in ids if i not in marks], skip_special_tokens=True)


def _byte_table() -> dict[str, bytes]:
    """The printable characters that byte-level tokenizers write for the 256 bytes (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    table = {chr(byte): bytes([byte]) for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return table | {chr(256 + n): bytes([byte]) for n, byte in enumerate(others)}


_BYTE = _byte_table()


class Splitter:
    """One chain. `inside`: it begins within a thought. `said`: visible tokens that it continues, `text`: what of their
    text was read out, `unread`: what was kept back of it."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        inside: bool,
        stop: Sequence[str] = (),
        said: Sequence[int] = (),
        text: str = "",
        unread: str = "",
        thought: Sequence[int] = (),
    ) -> None:
        self._vocabulary = vocabulary
        self.inside = inside
        self._stop = tuple(s for s in stop if s)
        self._stopped = False
        self._by_ids = vocabulary.by_ids
        self._start = "" if self._by_ids else vocabulary.start
        self._thought: list[int] = []
        self._visible = DecodeStream(list(said[-8:]), True)
        self._hidden = DecodeStream(list(thought[-8:]), True)
        longest = max((len(s) for s in (*self._stop, self._start)), default=0)
        self._context = text[max(0, len(text) - longest + 1) :] if longest > 1 else ""
        self._unread = unread
        self._begun = bool(text or unread)
        self._marker = vocabulary.decode(thought[-16:])[-len(vocabulary.end) :] if not self._by_ids and inside else ""

    @property
    def stopped(self) -> bool:
        """A stop string was met; what comes behind it is discarded."""
        return self._stopped

    @property
    def thought(self) -> list[int]:
        """The hidden tokens fed so far."""
        return self._thought

    def ahead(self, ids: Sequence[int]) -> int:
        """Of these tokens, how many from the first on are of the thought for certain, its end included; at least 1."""
        if not self._by_ids:
            return 1
        return ids.index(self._vocabulary.end_id) + 1 if self._vocabulary.end_id in ids else len(ids)

    def feed(self, ids: Sequence[int]) -> list[Part]:
        """Tells the sides of these tokens. Behind a stop string it tells no more: the parts end where it is met."""
        if self._by_ids and self.inside and self._vocabulary.end_id not in ids:
            self._thought.extend(ids)
            return [Part(0, len(ids), True)]
        parts: list[Part] = []
        texts: list[str] = []
        step = self._step if self._by_ids else self._step_in_text
        first, side = 0, self.inside
        for at, token in enumerate(ids):
            hidden, text = step(token)
            # Hidden tokens that spell some of the answer end a part: it is behind them.
            if at > first and (hidden != side or (hidden and texts[-1])):
                parts.append(Part(first, at, side, "".join(texts)))
                first, texts = at, []
            side = hidden
            texts.append(text)
            if self._stopped:
                break
        if texts:
            parts.append(Part(first, first + len(texts), side, "".join(texts)))
        return parts

    def finish(self) -> str:
        """The stream is over: the visible text that was kept back."""
        text, self._unread = self._unread, ""
        return "" if self._stopped else text

    def force(self) -> None:
        """The thought was closed from outside."""
        self.inside = False
        self._marker = ""

    # -- markers that are tokens --------------------------------------------------------------------------------------

    def _step(self, token: int) -> tuple[bool, str]:
        vocabulary = self._vocabulary
        if token == vocabulary.end_id:
            self.inside = False
            self._thought.append(token)
            return True, ""
        if token == vocabulary.start_id:
            self.inside = True
        if self.inside:
            self._thought.append(token)
            return True, ""
        return False, self._read(self._decoded(self._visible, token))

    def _decoded(self, stream: DecodeStream, token: int) -> str:
        return stream.step(self._vocabulary.tokenizer, token) or ""  # None while a character is incomplete

    # -- markers that are text ----------------------------------------------------------------------------------------

    def _step_in_text(self, token: int) -> tuple[bool, str]:
        if not self.inside:
            text = self._read(self._decoded(self._visible, token))
            if self._marker:
                # The token that completes the opening marker spells the first of the thought too.
                self._thought.append(token)
            return bool(self._marker), text
        self._thought.append(token)
        end = self._vocabulary.end
        window = self._marker + self._decoded(self._hidden, token)
        at = window.find(end) if end else -1
        if at < 0:
            self._marker = window[1 - len(end) :] if len(end) > 1 else ""
            return True, ""
        self.inside = False
        self._marker = ""
        self._visible = DecodeStream([], True)
        # The token that completes the marker may spell the first of the answer too.
        return True, self._read(window[at + len(end) :])

    # -- the answer ---------------------------------------------------------------------------------------------------

    def _read(self, text: str) -> str:
        """What of new visible text may be read out now."""
        if not self._begun:
            text = text.lstrip() if not self._by_ids else text.lstrip("\r\n")
            if not text:
                return ""
            self._begun = True
        if not self._stop and not self._start:
            return text
        pending = self._unread + text
        whole = self._context + pending
        read = len(self._context)
        ends = [(at, mark) for mark in (*self._stop, self._start) if mark and (at := whole.find(mark)) >= 0]
        if ends:
            # The first to be complete, so that it does not depend on how the text came in.
            at, mark = min(ends, key=lambda end: (end[0] + len(end[1]), end[0]))
            self._unread = ""
            if mark in self._stop:
                self._stopped = True
                return whole[read:at] if at > read else ""
            self.inside = True
            self._marker = whole[at + len(mark) :]
            self._context = ""
            return whole[read:at] if at > read else ""
        kept = max(_overlap(whole, mark) for mark in (*self._stop, self._start) if mark)
        kept = min(kept, len(pending))
        out = pending[: len(pending) - kept]
        self._unread = pending[len(pending) - kept :]
        longest = max(len(mark) for mark in (*self._stop, self._start))
        self._context = (self._context + out)[1 - longest :] if longest > 1 else ""
        return out


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:size]):
            return size
    return 0
