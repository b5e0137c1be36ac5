"""The record of one call to an engine: every token of it, complete however the stream ends."""

from __future__ import annotations

from collections.abc import Sequence

from ponder.compute.budget import Reservation
from ponder.compute.identity import CallIdentity
from ponder.compute.text import Candidate, Ending, Hidden, Prompt, TokenLogprob


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
        self._prompt = prompt
        self.begun = begun
        """The half-written chain that is continued, of the same prompt; None for a new one."""
        self._parent = None if begun is None else begun.parent if own else begun.number
        self._ids: list[int] = list(begun.ids.unseal()) if begun else []
        self._likelihood: list[float] = list(begun.likelihood.unseal()) if begun else []
        self._text: list[str] = [begun.text] if begun else []
        self._logprobs: list[TokenLogprob] = list(begun.logprobs) if begun else []
        self._thought: Hidden[str] = begun.thought if begun else Hidden("")
        self._thinking = begun.thinking if begun else True
        self._forced = begun.forced if begun else False
        self._circled = begun.circled if begun else False
        self._ending: Ending = "aborted"

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
        self._ids.extend(ids)
        self._likelihood.extend(logprobs)

    def discard(self, tokens: int) -> None:
        """The model made tokens nobody will use (behind a stop string, or past the answer's limit): hidden, paid, not
        kept."""
        self._reservation.spend(hidden=tokens)

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
        self._ids.extend(ids)
        self._likelihood.extend(logprobs)
        self._logprobs.extend(tokens)
        if text:
            self._text.append(text)

    def close_thought(self) -> None:
        """The thought is over; what comes is visible."""
        self._thinking = False

    def put(self, ids: Sequence[int]) -> None:
        """The engine put these tokens into the chain, which the model did not make and nobody pays for."""
        if len(self._likelihood) == len(self._ids):
            self._likelihood.extend([0.0] * len(ids))
        self._ids.extend(ids)

    def force(self, ids: Sequence[int]) -> None:
        """The engine closed the thought with these tokens, put in as above."""
        self.put(ids)
        self._thinking = False
        self._forced = True

    def circled(self) -> None:
        """The engine ended the thought or the answer because the model went in circles."""
        self._circled = True
        self._reservation.circled = "thought" if self._thinking else "answer"

    def end(self, ending: Ending, thought: Hidden[str]) -> None:
        """The stream is over; `thought` is the text of the whole thought, what was begun included. Engines call it
        once: with "aborted" when the stream is closed from outside, with "lost" when the model fails or goes away."""
        self._ending = self._reservation.ending = ending
        self._thought = thought

    def lose(self) -> None:
        """No end was seen, whatever the engine has said."""
        self._ending = self._reservation.ending = "lost"

    def candidate(self) -> Candidate:
        """The chain as it stands."""
        return Candidate(
            number=self._reservation.number,
            prompt=self._prompt,
            ids=Hidden(tuple(self._ids)),
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
            likelihood=Hidden(tuple(self._likelihood) if len(self._likelihood) == len(self._ids) else ()),
        )
