"""Where a thought ends and its answer begins: what ends the one, and what has to be put in before the other.

A thought may be ended by the model, by a call of a tool that it begins, or by force. An answer that is drawn by a call
of its own begins behind all that stands between the two: white space, what wraps the answer, the head of a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.compute.engine import Sampling
from ponder.compute.transcript import Transcript
from ponder.engines.channels import Turn
from ponder.engines.model import Model
from ponder.engines.thinking import Splitter


@dataclass
class Boundary:
    """That of one chain."""

    model: Model
    sampling: Sampling
    transcript: Transcript
    splitter: Splitter
    chain: list[int]
    """Its tokens; what is put in is added."""
    thought_first: bool
    """It begins with a thought."""
    calls: bool
    """Tools are offered."""
    apart: bool
    """The answer is drawn by a call of its own."""

    @property
    def headed(self) -> bool:
        """A grammar writes the answer, the head of its message included, where a turn is made of messages."""
        return headed(self.sampling)

    @property
    def ends(self) -> Sequence[int]:
        """The tokens behind which an answer is drawn by a call of its own."""
        turn = self.splitter.turn
        return self.splitter.ends if turn is None or not self.headed else [turn.harmony.end]

    def barred(self, token: int | str | None) -> bool:
        """It opens a call of a tool within a thought, where a grammar is to write the answer from its first token."""
        return self.sampling.grammar is not None and token in self.model.vocabulary.openers

    def close(self) -> None:
        """Ends the thought by force."""
        model = self.model
        if self.splitter.turn is not None:
            closing = model.marked(self._rest(self.splitter.turn))
        else:
            behind = bool(self.chain) and model.vocabulary.bytes(self.chain[-1]).endswith(b"\n")
            text = model.reclosing if self.splitter.begun else model.closing_text
            closing = model.marked(text.lstrip("\n") if behind else text)
        self.chain.extend(closing)
        self.transcript.force(closing)
        self.splitter.force(closing)

    def _rest(self, turn: Turn) -> str:
        """What has to be put in for an answer to begin, or a call."""
        return turn.rest(open_head=self.calls and self.sampling.grammar is None, bare=self.headed)

    def open(self) -> int:
        """Puts in what an answer that is drawn by itself stands behind; returns how many tokens."""
        model, splitter = self.model, self.splitter
        rest = ""
        if splitter.begun:
            return 0
        if splitter.turn is not None:
            if splitter.turn.head and self.sampling.grammar is not None and not self.headed:
                rest = self._rest(splitter.turn)
        elif model.wrapping and self.thought_first and self.apart:
            at = model.vocabulary.behind(self.chain, thought_first=True)
            behind = model.vocabulary.spell(self.chain[at:])
            rest = model.wrapping.removeprefix(behind) if model.wrapping.startswith(behind) else ""
        if not rest:
            return 0
        ids = model.marked(rest)
        self.chain.extend(ids)
        self.transcript.put(ids)
        splitter.force(ids)
        return len(ids)

    def passed(self, token: int | str | None) -> bool:
        """In a turn of messages a token that may end the thought has ended one of its messages; there is more to come:
        more thought, or the answer where a grammar writes its head."""
        if self.splitter.turn is None or not self.splitter.inside or token not in self.ends:
            return False
        if self.headed:
            self.transcript.close_thought()
            self.splitter.force()
        return True


def headed(sampling: Sampling) -> bool:
    """See `Boundary.headed`."""
    return sampling.grammar is not None and bool(sampling.grammar.calls)
