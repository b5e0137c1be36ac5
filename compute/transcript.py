"""The record of one call to an engine: every token of it, complete however the stream ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ponder.compute.alike import Runs, runs_of
from ponder.compute.budget import Reservation
from ponder.compute.identity import CallIdentity
from ponder.compute.text import Candidate, Ending, Hidden, Prompt, TokenLogprob

T = TypeVar("T")


class Transcript:
    """One chain being written.

    An engine tells it every token the model made, exactly once and before anything else is done with it, also those
    that come in while an abort is drained. So a chain that is left in the middle can be continued, and what is counted
    is what the model produced. The counts go to the reservation that pays for them, as they come.
    """

    def __init__(
        self, reservation: Reservation, prompt: Prompt, begun: Candidate | None = None, *, own: bool = False
    ) -> None:
        """`own`: what is begun was written within this very reservation."""
        self._reservation = reservation
        self._made = _told_to(reservation)
        """Told every id the model makes, for the receipt and for whoever watches the chain grow."""
        self._prompt = prompt
        self.begun = begun
        """The half-written chain that is continued, of the same prompt; None for a new one."""
        self._parent = None if begun is None else begun.parent if own else begun.number
        self._ids: list[int] | Runs[int] = _opened(begun.ids) if begun else []
        self._likelihood: list[float] | Runs[float] = _opened(begun.likelihood) if begun else []
        self._text: list[str] = [begun.text] if begun else []
        self._logprobs: list[TokenLogprob] = list(begun.logprobs) if begun else []
        self._thought: Hidden[str] = begun.thought if begun else Hidden("")
        self._thinking = begun.thinking if begun else True
        self._forced = begun.forced if begun else False
        self._circled = begun.circled if begun else False
        self._ending: Ending = "aborted"
        self._told = False
        """The engine has said how it ended."""
        self._stop: str | None = None
        self._answer = self._mark() if begun is not None and not begun.thinking else None
        """Where its answer begins, as far as it was written within this call."""
        self._resumed_at: int | None = None
        self.got = 0
        """Tokens it had gained, when its model went away, since the time before."""
        self.life = 0
        """Which life of its model it is written in, for an engine that is started again when it goes away."""
        self._further = False
        """It had got further then than ever before."""
        self._furthest = 0
        self._in_vain = 0
        self.waited = False
        """It has waited for its model to be started again."""

    def alike(self) -> None:
        """The engine makes long runs of equal tokens: they are kept so, and written out when somebody looks."""
        self._ids, self._likelihood = Runs(self._ids), Runs(self._likelihood)

    @property
    def call(self) -> CallIdentity:
        """Which call of which request it is, for the model's own logs and traces."""
        return self._reservation.identity

    @property
    def ending(self) -> Ending:
        """How it ended; "aborted" as long as nobody has said."""
        return self._ending

    @property
    def hidden(self) -> int:
        """Hidden tokens the model made of this chain so far."""
        return self._reservation.hidden

    @property
    def visible(self) -> int:
        """Visible tokens the model made of this chain so far."""
        return self._reservation.visible

    def read(self, prompt: int, cached: int) -> None:
        """The model has read `prompt` tokens, `cached` of them from the prefix cache. Once per call to the model."""
        self._reservation.read(prompt, cached)

    def think(self, ids: Sequence[int], logprobs: Sequence[float] = ()) -> None:
        """The model made these hidden tokens: of a thought, or its markers."""
        self._reservation.spend(hidden=len(ids))
        if (made := self._made) is not None:
            made(ids)
        self._ids.extend(ids)
        self._likelihood.extend(logprobs)

    def discard(self, tokens: int, ids: Sequence[int] = ()) -> None:
        """The model made tokens nobody will use (behind a stop string, or past the answer's limit): hidden, paid, not
        kept. `ids` are theirs, for the receipt, as far as the engine knows them."""
        self._reservation.spend(hidden=tokens)
        if (made := self._made) is not None:
            made(ids)

    def say(
        self,
        ids: Sequence[int],
        text: str,
        logprobs: Sequence[float] = (),
        tokens: Sequence[TokenLogprob] = (),
    ) -> None:
        """The model made these visible tokens. `text` is what they add to the answer; it may lag behind the ids where a
        character or a stop string is not complete yet. `tokens` carries the log-probabilities the caller asked for."""
        self._reservation.spend(visible=len(ids))
        if (made := self._made) is not None:
            made(ids)
        self._ids.extend(ids)
        self._likelihood.extend(logprobs)
        self._logprobs.extend(tokens)
        if text:
            self._text.append(text)

    def close_thought(self) -> None:
        """The thought is over; what comes is visible."""
        if self._thinking:
            self._thinking = False
            self._answer = self._mark()

    def put(self, ids: Sequence[int]) -> None:
        """The engine put these tokens into the chain, which the model did not make and nobody pays for."""
        if len(self._likelihood) == len(self._ids):
            self._likelihood.extend([0.0] * len(ids))
        self._ids.extend(ids)

    def force(self, ids: Sequence[int]) -> None:
        """The engine closed the thought with these tokens, put in as above."""
        self.put(ids)
        self._thinking = False
        self._forced = self._reservation.forced = True
        self._answer = self._mark()

    def circled(self) -> None:
        """The engine ended the thought or the answer because the model went in circles."""
        self._circled = True
        self._reservation.circled = "thought" if self._thinking else "answer"

    def end(self, ending: Ending, thought: Hidden[str], stop: str | None = None, *, unseen: bool | None = None) -> None:
        """The stream is over; `thought` is the text of the whole thought, what was begun included. Engines call it
        once a stream: with "aborted" when it is closed from outside, with "lost" when the model fails or goes away,
        with "stop" and the stop string when one was met. `unseen`: the model may have made tokens that it was not told,
        because the end of a call was not seen; left out, where it is lost."""
        self._told = True
        if ending == "lost" if unseen is None else unseen:
            self._reservation.unseen = True
        self._ending = self._reservation.ending = ending
        self._thought = thought
        self._stop = stop if ending == "stop" else None

    def lose(self) -> None:
        """No end was seen, whatever the engine has said."""
        self._unended()
        self._ending = self._reservation.ending = "lost"

    def resume(self, *, anew: bool) -> None:
        """The model went away, and the chain is to be gone on with: from where it stands or, with `anew`, from where
        its answer began. The tokens of an answer that is begun anew are wasted."""
        self._unended()
        tokens = self.hidden + self.visible
        self.got = tokens - (self._resumed_at or 0)
        self._further = tokens > self._furthest
        self._furthest = max(self._furthest, tokens)
        if anew and self._answer is not None:
            ids, likelihood, text, logprobs, hidden, visible = self._answer
            self._ids, self._likelihood = _cut(self._ids, ids), _cut(self._likelihood, likelihood)
            del self._text[text:], self._logprobs[logprobs:]
            self._reservation.waste(hidden=self.hidden - hidden, visible=self.visible - visible)
        self._resumed_at = self.hidden + self.visible
        self._reservation.resumed += 1
        self._ending, self._reservation.ending = "aborted", None
        self._told = False
        if self._ids:
            self.begun = self.candidate()

    def broke_off(self) -> int:
        """Counts a call of the chain that broke off, once it is resumed: how many have in a row while it got no
        further."""
        self._in_vain = 1 if self._further else self._in_vain + 1
        return self._in_vain

    def _unended(self) -> None:
        """Where the engine has said nothing of its end, that was not seen."""
        if not self._told:
            self._reservation.unseen = True

    def _mark(self) -> tuple[int, ...]:
        sizes = len(self._ids), len(self._likelihood), len(self._text), len(self._logprobs)
        return *sizes, self.hidden, self.visible

    @property
    def gained(self) -> int:
        """Tokens since it was resumed last; since it began where it was not."""
        return self.hidden + self.visible - (self._resumed_at or 0)

    @property
    def over(self) -> bool:
        """Nothing is written of it any more. One that is lost may be gone on with until its reservation is closed."""
        return self._ending not in ("aborted", "lost") or self._reservation.seconds is not None

    def candidate(self) -> Candidate:
        """The chain as it stands."""
        return Candidate(
            number=self._reservation.number,
            prompt=self._prompt,
            ids=_sealed(self._ids),
            thought=self._thought,
            text="".join(self._text),
            hidden=self.hidden,
            visible=self.visible,
            thinking=self._thinking,
            ending=self._ending,
            forced=self._forced,
            circled=self._circled,
            parent=self._parent,
            logprobs=tuple(self._logprobs),
            stop=self._stop,
            likelihood=_sealed(self._likelihood if len(self._likelihood) == len(self._ids) else []),
        )


def _opened(values: Hidden[tuple[T, ...]]) -> list[T] | Runs[T]:
    return runs_of(values) or list(values.unseal())


def _sealed(values: list[T] | Runs[T]) -> Hidden[tuple[T, ...]]:
    return Hidden(tuple(values)) if isinstance(values, list) else values.hidden()


def _cut(values: list[T] | Runs[T], size: int) -> list[T] | Runs[T]:
    """The first `size` of them."""
    if isinstance(values, list):
        return values[:size]
    values.cut(size)
    return values


def _told_to(reservation: Reservation) -> Callable[[Sequence[int]], None] | None:
    """Who wants to be told of ids as they are made; None where nobody does."""
    made, grown = reservation.made, reservation.grown
    if grown is None:
        return None if made is None else made.add

    def tell(ids: Sequence[int]) -> None:
        if made is not None:
            made.add(ids)
        grown(len(ids))

    return tell
