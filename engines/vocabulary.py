"""What the tokens of a model spell, and which of them begin and end its thoughts, its answers and its calls.

Where the markers of a thought are single tokens they are known by their ids; elsewhere they are looked for in the text,
as their pieces may be parts of other tokens; and where thought and answer are messages of their own, each with its
channel at its head, `ponder.engines.channels` tells them apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, cast

from tokenizers import Tokenizer

from ponder.engines.channels import HEAD, Harmony
from ponder.engines.profiles import Profile

Mechanism = Literal["none", "tokens", "text", "channels"]
"""How thought and answer are told apart: not at all, by single tokens, by text, by the channels of messages."""

_CONFIRMED = r"\s*(?:[\[{<]|[\w.]+\()"
"""What follows the words that open a call where one does, and not where they are only spoken of."""
_BRACKETS = frozenset(b"[{<(")


class Vocabulary:
    """What single tokens spell, and which of them are markers."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        start: str,
        end: str,
        *,
        wrapper: tuple[str, str] = ("", ""),
        channels: str = "",
        openers: Sequence[str] = (),
        spelt: Sequence[str] = (),
    ) -> None:
        """`start` and `end` of a thought; `wrapper` around an answer; `openers` of calls; control tokens in any of
        `spelt` are part of the visible text. Raises `EngineError` where the tokenizer lacks the tokens of channels."""
        self.tokenizer = tokenizer
        self.start = start
        self.end = end
        self.wrapper = (wrapper[0].strip(), wrapper[1].strip())
        added = cast("dict[int, Any]", tokenizer.get_added_tokens_decoder())
        self._added: dict[int, str] = {i: token.content for i, token in added.items()}
        self._by_text = {text: i for i, text in self._added.items()}
        self._byte_level = "ByteLevel" in json.dumps(json.loads(tokenizer.to_str()).get("decoder"))
        self._bytes: dict[int, bytes] = {}
        self.start_id, self.named = self._token(start)
        """The token that opens a thought; words behind it that are no part of the thought, as the name of a channel."""
        self.end_id = self._by_text.get(end.strip()) if end else None
        self.harmony = Harmony(self._by_text, self.spell) if channels else None
        self.mechanism: Mechanism = "none"
        if self.harmony is not None:
            self.mechanism = "channels"
            self.start_id = self.end_id = None
        elif end:
            by_ids = self.end_id is not None and (not start or self.start_id is not None)
            self.mechanism = "tokens" if by_ids else "text"
        self.openers, self.spoken = self._calls(openers if self.harmony is None else ())
        """Tokens that open a call; a pattern of those that are text, None where there are none."""
        shown = (*spelt, *openers, *wrapper, *((start, end) if self.mechanism == "text" else ()))
        special = {i: text for i, text in self._added.items() if added[i].special}
        self.spelt = {i: text for i, text in special.items() if any(text in one for one in shown)}
        """Control tokens that are part of what is read."""

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, profile: Profile, *, openers: Sequence[str] = (), spelt: Sequence[str] = ()
    ) -> Vocabulary:
        """That of a model of this family. Raises `EngineError` as above."""
        added = {str(token.content) for token in cast("dict[int, Any]", tokenizer.get_added_tokens_decoder()).values()}
        # One that answers at once and has the tokens all the same may use them; what it thinks then is hidden too.
        kept = profile.thinks or {profile.start, profile.end} <= added
        start, end = (profile.start, profile.end) if kept else ("", "")
        channels = profile.channels if profile.thinks else ""
        return cls(tokenizer, start, end, wrapper=profile.wrapper, channels=channels, openers=openers, spelt=spelt)

    def _token(self, marker: str) -> tuple[int | None, str]:
        """The token that is a marker, or that it begins with, and the words behind it."""
        text = marker.strip()
        if text in self._by_text:
            return self._by_text[text], ""
        begins = [one for one in self._by_text if one[:1] in ("<", "[") and text.startswith(one)]
        if not text or not begins:
            return None, ""
        token = max(begins, key=len)
        named = text[len(token) :]
        return (self._by_text[token], named.strip()) if named.strip().isalnum() else (None, "")

    def _calls(self, openers: Sequence[str]) -> tuple[frozenset[int], re.Pattern[str] | None]:
        tokens: set[int] = set()
        texts: list[str] = []
        others = [one.strip() for one in (self.start, self.end, *self.wrapper) if one.strip()]
        for opener in filter(None, (one.strip() for one in openers)):
            begins = [one for one in self._by_text if one[:1] in ("<", "[", "]") and opener.startswith(one)]
            token = max(begins, key=len, default="")
            # What thoughts and answers begin with too, as a general bracket does, begins no call for certain.
            if token and not any(marker.startswith(token) for marker in others):
                tokens.add(self._by_text[token])
            elif opener[:1] in ("<", "[") and opener[-1:] in (">", "]"):
                # Others, a brace for one, are found in thoughts that call nothing.
                texts.append(opener)
        wanted = "|".join(map(re.escape, texts))
        spoken = re.compile(f"(?:{wanted}){_CONFIRMED}") if wanted else None
        return frozenset(tokens - {self.start_id, self.end_id}), spoken

    @property
    def by_ids(self) -> bool:
        """The markers are single tokens."""
        return self.mechanism == "tokens"

    # -- spelling -----------------------------------------------------------------------------------------------------

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

    def spell(self, ids: Sequence[int]) -> str:
        """All that these tokens spell, control tokens too."""
        return b"".join(map(self.bytes, ids)).decode(errors="replace")

    def read(self, ids: Sequence[int]) -> str:
        """What these tokens say where they are visible."""
        if not self.spelt or self.spelt.keys().isdisjoint(ids):
            return self.tokenizer.decode(list(ids), skip_special_tokens=True)
        said: list[str] = []
        run: list[int] = []
        for token in (*ids, None):
            if token is not None and token not in self.spelt:
                run.append(token)
                continue
            said.append(self.tokenizer.decode(run, skip_special_tokens=True) if run else "")
            said.append("" if token is None else self.spelt[token])
            run = []
        return "".join(said)

    def containing(self, text: str) -> frozenset[int]:
        """All plain tokens that spell `text` somewhere within."""
        wanted = text.encode()
        size = self.tokenizer.get_vocab_size(with_added_tokens=False)
        return frozenset(i for i in range(size) if i not in self._added and wanted in self._spell(i))

    @cached_property
    def calling(self) -> frozenset[int]:
        """The plain tokens that may confirm that words open a call."""
        size = self.tokenizer.get_vocab_size(with_added_tokens=False)
        return frozenset(i for i in range(size) if i not in self._added and not _BRACKETS.isdisjoint(self._spell(i)))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a thought, markers that are tokens left out."""
        if self.harmony is not None:
            bodies = (self.tokenizer.decode(body) for body in self.harmony.thoughts(ids))
            return "\n\n".join(bodies)
        if self.mechanism == "text":
            return self.read(ids)
        marks = (self.start_id, self.end_id)
        text = self.tokenizer.decode([i for i in ids if i not in marks], skip_special_tokens=True)
        return text.removeprefix(self.named).lstrip("\n") if self.named else text

    # -- half-written chains ------------------------------------------------------------------------------------------

    def ended(self, ids: Sequence[int]) -> bool:
        """These tokens of a chain end a thought, perhaps one that had no words."""
        if self.harmony is not None:
            return bool(ids) and ids[0] == self.harmony.end
        return self.end_id in ids

    def reopened(self, ids: Sequence[int]) -> bool:
        """These tokens of a chain leave it within a thought that they have opened themselves."""
        if self.by_ids:
            last = next((i for i in reversed(ids) if i in (self.start_id, self.end_id)), self.end_id)
            return last == self.start_id
        text = self.read(ids)
        return bool(self.start) and text.rfind(self.start) > text.rfind(self.end)

    def last_answer(self, ids: Sequence[int]) -> str:
        """What these tokens of a chain spell behind its last thought."""
        if self.harmony is not None:
            at = next((n for n in range(len(ids), 0, -1) if ids[n - 1] == self.harmony.message), 0)
            head = self.harmony.head(ids[: at - 1]) if at else []
            call = f"{HEAD}{self.spell(head).removeprefix(HEAD)}" if at and self.harmony.side(head) == "call" else ""
            return call + (self.spell([self.harmony.message]) if call else "") + self.read(ids[at:])
        if self.by_ids:
            behind = next((n for n in range(len(ids), 0, -1) if ids[n - 1] == self.end_id), 0)
            text = self.read(ids[behind:]).lstrip("\r\n")
        else:
            text = self.read(ids)
            if self.end:
                _, end, text = text.rpartition(self.end)
                text = text.lstrip() if end else text.lstrip("\r\n")
        if self.wrapper[0] and text.lstrip().startswith(self.wrapper[0]):
            text = text.lstrip().removeprefix(self.wrapper[0]).lstrip()
        return text

    def behind(self, ids: Sequence[int], thought_first: bool) -> int:
        """Where among these tokens of a chain its thought has ended; all of them where it has not."""
        at = 0
        if self.harmony is not None:
            return next((n for n in range(len(ids), 0, -1) if ids[n - 1] == self.harmony.message), 0)
        if not thought_first:
            return at
        if self.by_ids:
            return next((n for n in range(len(ids), 0, -1) if ids[n - 1] == self.end_id), 0)
        # The first end behind the last begin: an answer may have the words that end a thought.
        raw = b"".join(map(self.bytes, ids))
        begun = raw.rfind(self.start.encode()) if self.start else 0
        end = raw.find(self.end.encode(), max(0, begun))
        read = 0
        while at < len(ids) and (end < 0 or read < end + len(self.end.encode())):
            read += len(self.bytes(ids[at]))
            at += 1
        return at

    def wrapped(self, ids: Sequence[int], thought_first: bool) -> bool:
        """These tokens of a chain open what wraps its answer."""
        wrapper = self.wrapper[0]
        return bool(wrapper) and self.spell(ids[self.behind(ids, thought_first) :]).lstrip().startswith(wrapper)

    def answer_at(self, ids: Sequence[int], thought_first: bool, *, headed: bool = False) -> int:
        """Where among these tokens of a chain its answer begins: behind its thought, and behind the white space and the
        wrapper that part the two. `thought_first`: the chain began within a thought; `headed`: the head of its message
        is part of the answer."""
        if self.harmony is not None and headed:
            return next((n for n in range(len(ids), 0, -1) if ids[n - 1] == self.harmony.end), 0)
        at = self.behind(ids, thought_first)
        size = self._leading(b"".join(map(self.bytes, ids[at:])))
        while size > 0 and (size := size - len(self.bytes(ids[at]))) >= 0:
            at += 1
        return at

    def _leading(self, raw: bytes) -> int:
        """Bytes of white space and wrapper that an answer begins with."""
        size = len(raw) - len(raw.lstrip())
        wrapper = self.wrapper[0].encode()
        if wrapper and raw.startswith(wrapper, size):
            behind = raw[size + len(wrapper) :]
            size += len(wrapper) + len(behind) - len(behind.lstrip())
        return size


def _byte_table() -> dict[str, bytes]:
    """The printable characters that byte-level tokenizers write for the 256 bytes (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    table = {chr(byte): bytes([byte]) for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return table | {chr(256 + n): bytes([byte]) for n, byte in enumerate(others)}


_BYTE = _byte_table()
