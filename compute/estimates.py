"""The lengths of chains that one request reckons with, and what its own chains add to them."""

from __future__ import annotations

from ponder.compute.lengths import Lengths
from ponder.compute.text import Candidate


class Estimates:
    """A request's view of `Lengths`, made when it is first asked for."""

    __slots__ = ("_lengths", "_own", "_seeded", "_shared")

    def __init__(self, lengths: Lengths, *, seeded: bool) -> None:
        self._lengths = lengths
        self._seeded = seeded
        self._shared: Lengths | None = None
        self._own: Lengths | None = None

    @property
    def shared(self) -> Lengths:
        """What is known of the model's chains, to which this request adds."""
        if self._shared is None:
            self._shared = self._lengths.request()
        return self._shared

    @property
    def current(self) -> Lengths:
        """What this request goes by. With a seed everything follows from the request: what other callers' chains were
        like must not show."""
        if not self._seeded:
            return self.shared
        if self._own is None:
            self._own = self._lengths.prior()
        return self._own

    def learn(self, candidate: Candidate) -> None:
        """Takes in the length of a finished chain."""
        for lengths in (self.shared, self._own):
            if lengths is None:
                continue
            if not candidate.complete:
                lengths.censored(candidate.tokens, None if candidate.thinking else candidate.visible)
            elif candidate.forced:
                lengths.censored(candidate.tokens)
                lengths.saw_answer(candidate.visible)
            else:
                lengths.saw(candidate.tokens, candidate.visible)
