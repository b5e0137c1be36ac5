"""The one place where thought and answer are told apart, streamed or not.

A `Splitter` is fed the tokens a model makes. It starts on the side where the prompt left the model and changes sides at
a marker only: a thought that is never closed stays hidden to its last token, and so does a second thought that is
opened in the middle of the answer. A call of a tool that is begun within a thought ends it, where tools are offered.
What wraps an answer is no part of what is read of it. However the tokens are portioned, the same comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers.decoders import DecodeStream

from ponder.engines.channels import Turn
from ponder.engines.vocabulary import Vocabulary

NEAR = 64
"""Tokens in which the words that open a call are looked for, back from the last."""


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring tokens on one side: `first` to `last` (exclusive) of those fed. `text` is what may be read out now;
    it lags behind the tokens where a character, a stop string or a marker may not be complete yet."""

    first: int
    last: int
    hidden: bool
    text: str = ""


class Splitter:
    """One chain. `inside`: it begins within a thought. `said`: visible tokens that it continues, `text`: what of their
    text was read out, `unread`: what was kept back of it; `thought`: hidden tokens that it continues.

    `calls`: tools are offered; `words`: a call may be begun by text, too. `wrapped`: what wraps the answer has been
    opened. `turn`: where it stands in a turn of messages, for models that write their thoughts so. `midway`: it goes on
    with a text, so white space at its beginning is shown."""

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
        calls: bool = False,
        words: bool = True,
        wrapped: bool = False,
        turn: Turn | None = None,
        midway: bool = False,
    ) -> None:
        mechanism = vocabulary.mechanism
        self._vocabulary = vocabulary
        if turn is None and vocabulary.harmony is not None:
            turn = Turn(vocabulary.harmony, inside=inside)
        self.turn = turn
        self.inside = inside if turn is None else turn.inside
        self._stop = tuple(s for s in stop if s)
        self._stopped: str | None = None
        self._by_ids = vocabulary.by_ids
        self._start = vocabulary.start if mechanism == "text" else ""
        self._thought: list[int] = []
        self._spelt = vocabulary.spelt
        self._visible = self._behind(said)
        self._hidden = self._behind(thought)
        self._openers = vocabulary.openers if calls else frozenset[int]()
        self._spoken = vocabulary.spoken if calls and words else None
        self._calling = vocabulary.calling if self._spoken and self._by_ids else frozenset[int]()
        self._alarms: frozenset[int] | None = None
        """Any other token goes on with a thought; None where that cannot be said."""
        if self._by_ids:
            self._alarms = frozenset((vocabulary.end_id or 0, *self._openers, *self._calling))
        elif turn is not None:
            self._alarms = turn.harmony.controls if turn.head is None else None
        self._marks = (*self._stop, *([self._start] if self._start else []))
        longest = max(map(len, self._marks), default=0)
        self._context = text[max(0, len(text) - longest + 1) :] if longest > 1 else ""
        self._space: str | None = "" if mechanism == "none" else None if inside and mechanism == "text" else "\r\n"
        if midway:
            self._space = ""
        self._opening = "" if text or midway else vocabulary.wrapper[0]
        self._closing = vocabulary.wrapper[1] if wrapped or not vocabulary.wrapper[0] else ""
        """What ends the wrapper; empty where nothing wraps the answer."""
        self._lead: str = unread if self._opening else ""
        """Of an answer that is not begun: perhaps the beginning of what wraps it."""
        self._unread = "" if self._opening else unread
        self.begun = bool(text or self._unread)
        """Some of the answer has come."""
        self._marker = vocabulary.read(thought[-16:])[-len(vocabulary.end) :] if mechanism == "text" and inside else ""

    @property
    def stopped(self) -> str | None:
        """The stop string that was met, if one was; what comes behind it is discarded."""
        return self._stopped

    @property
    def unread(self) -> str:
        """The visible text that is kept back."""
        return self._lead + self._unread

    @property
    def thought(self) -> list[int]:
        """The hidden tokens fed so far."""
        return self._thought

    @property
    def ends(self) -> Sequence[int]:
        """The tokens that end a thought; in a turn of messages those that may."""
        if self.turn is not None:
            return [self.turn.harmony.message]
        end = [self._vocabulary.end_id] if self._by_ids and self._vocabulary.end_id is not None else []
        return sorted((*end, *self._openers))

    @property
    def late(self) -> bool:
        """A thought may be ended by words, at no certain token."""
        return self._spoken is not None or (self.turn is None and not self._by_ids)

    def ahead(self, ids: Sequence[int]) -> int:
        """Of these tokens, how many from the first on are of the thought for certain, its end included; at least 1,
        or 0 where the first opens a call."""
        if self.turn is not None:
            message = self.turn.harmony.message
            return ids.index(message) + 1 if message in ids else len(ids)
        if not self._openers.isdisjoint(ids):
            at = next(n for n, token in enumerate(ids) if token in self._openers)
            return self.ahead(ids[:at]) if at else 0
        if self.late:
            return 1 if ids else 0
        return ids.index(self._vocabulary.end_id) + 1 if self._vocabulary.end_id in ids else len(ids)

    def feed(self, ids: Sequence[int]) -> list[Part]:
        """Tells the sides of these tokens. Behind a stop string it tells no more: the parts end where it is met."""
        if self.inside and self._alarms is not None and self._alarms.isdisjoint(ids):
            self._thought.extend(ids)
            return [Part(0, len(ids), True)]
        parts: list[Part] = []
        texts: list[str] = []
        step = self._step if self._by_ids else self._step_in_text if self.turn is None else self._step_in_turn
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

    def end(self, token: int) -> str:
        """The model has ended its turn, outside of a thought, with this token: what is read of that."""
        if self.turn is not None:
            return self._read(self.turn.closing())
        return self._read(self._spelt[token]) if token in self._spelt else ""

    def finish(self) -> str:
        """The stream is over: the visible text that was kept back."""
        text, self._lead, self._unread = self._lead + self._unread, "", ""
        if self._closing and (body := text.rstrip()).endswith(self._closing):
            text = body.removesuffix(self._closing).rstrip()
        if self.turn is not None and not text:
            text = self.turn.unheaded()
        return "" if self._stopped else text

    def force(self, ids: Sequence[int] = ()) -> None:
        """The thought was closed from outside, with these tokens."""
        self.inside = False
        self._marker = ""
        if self.turn is not None:
            self.turn.close(ids)
        self.wrap()

    def wrap(self) -> None:
        """What wraps the answer, if anything does, has been opened."""
        self._closing, self._lead = self._vocabulary.wrapper[1], ""

    def _behind(self, ids: Sequence[int]) -> DecodeStream:
        """Goes on behind these tokens, of which the last may have begun a character."""
        stream = DecodeStream([], True)
        for token in ids[-8:]:
            self._decoded(stream, token)
        return stream

    def _decoded(self, stream: DecodeStream, token: int) -> str:
        if token in self._spelt:
            return self._spelt[token]
        return stream.step(self._vocabulary.tokenizer, token) or ""  # None while a character is incomplete

    # -- markers that are tokens --------------------------------------------------------------------------------------

    def _step(self, token: int) -> tuple[bool, str]:
        vocabulary = self._vocabulary
        if token == vocabulary.end_id:
            self.inside = False
            self._thought.append(token)
            return True, ""
        if self.inside and token in self._openers:
            self.inside = False
        elif token == vocabulary.start_id:
            self.inside = True
        if self.inside:
            self._thought.append(token)
            if token in self._calling and (call := self._called(vocabulary.spell(self._thought[-NEAR:]))):
                self.inside = False
                return True, self._read(call)
            return True, ""
        return False, self._read(self._decoded(self._visible, token))

    def _called(self, text: str) -> str:
        """The beginning of a call that these words of a thought end with; empty where there is none."""
        found = self._spoken.search(text) if self._spoken is not None else None
        return text[found.start() :] if found else ""

    # -- markers that are text ----------------------------------------------------------------------------------------

    def _step_in_text(self, token: int) -> tuple[bool, str]:
        if not self.inside:
            text = self._read(self._decoded(self._visible, token))
            if self._marker:
                # The token that completes the opening marker spells the first of the thought too.
                self._thought.append(token)
            return bool(self._marker), text
        if token in self._openers:
            return False, self._answer(self._decoded(self._hidden, token))
        self._thought.append(token)
        end = self._vocabulary.end
        window = self._marker + self._decoded(self._hidden, token)
        at = window.find(end) if end else -1
        call = self._called(window if at < 0 else window[:at])
        if call:
            return True, self._answer(call)
        if at < 0:
            kept = max(len(end) - 1, NEAR if self._spoken is not None else 0)
            self._marker = window[-kept:] if kept > 0 else ""
            return True, ""
        # The token that completes the marker may spell the first of the answer too.
        return True, self._answer(window[at + len(end) :])

    def _answer(self, text: str) -> str:
        """The thought is over; what is read of the text behind it."""
        self.inside = False
        self._marker = ""
        self._visible = DecodeStream([], True)
        return self._read(text)

    # -- messages with channels ---------------------------------------------------------------------------------------

    def _step_in_turn(self, token: int) -> tuple[bool, str]:
        turn = self.turn
        if turn is None:
            return self.inside, ""
        was_inside = self.inside
        visible, said = turn.step(token)
        self.inside = turn.inside
        self._alarms = turn.harmony.controls if turn.head is None else None
        if visible:
            return False, self._read(self._decoded(self._visible, token))
        if was_inside or self.inside:
            self._thought.append(token)
        if token == turn.harmony.message and not self.inside and self.begun and not said:
            said = "\n\n"
        return True, self._read(said) if said else ""

    # -- the answer ---------------------------------------------------------------------------------------------------

    def _read(self, text: str) -> str:
        """What of new visible text may be read out now."""
        if not self.begun and not (text := self._first(text)):
            return ""
        if not self._marks and not self._closing:
            return text
        pending = self._unread + text
        whole = self._context + pending
        read = len(self._context)
        ends = [(at, mark) for mark in self._marks if (at := whole.find(mark)) >= 0]
        if ends:
            # The first to be complete, so that it does not depend on how the text came in.
            at, mark = min(ends, key=lambda end: (end[0] + len(end[1]), end[0]))
            self._unread = ""
            if mark in self._stop:
                self._stopped = mark
                return whole[read:at] if at > read else ""
            self.inside = True
            self._marker = whole[at + len(mark) :]
            self._context = ""
            return whole[read:at] if at > read else ""
        kept = max((_overlap(whole, mark) for mark in self._marks), default=0)
        if self._closing:
            kept = max(kept, _closing(whole, self._closing))
        kept = min(kept, len(pending))
        out = pending[: len(pending) - kept]
        self._unread = pending[len(pending) - kept :]
        longest = max(map(len, self._marks), default=0)
        self._context = (self._context + out)[1 - longest :] if longest > 1 else ""
        return out

    def _first(self, text: str) -> str:
        """What an answer begins with, less the white space before it and what wraps it."""
        text, self._lead = (self._lead + text).lstrip(self._space), ""
        if self._opening:
            if text.startswith(self._opening):
                text = text.removeprefix(self._opening)
                self._opening, self._space = "", None
                self.wrap()
                return self._first(text)
            if self._opening.startswith(text):
                self._lead = text
                return ""
        self.begun = bool(text)
        return text


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:size]):
            return size
    return 0


def _closing(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be what ends a wrapper, or the white space around it."""
    body = text.rstrip()
    begun = len(mark) if body.endswith(mark) else _overlap(text, mark)
    body = body.removesuffix(mark) if body.endswith(mark) else text[: len(text) - begun]
    return len(text) - len(body.rstrip())
