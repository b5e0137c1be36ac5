"""The numbers by which the server chooses how much to think: those of its own rules, or others learned for a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """What the strategy `auto` goes by. The defaults are the built-in rules, chosen over recorded samples of many
    models; `docs/auto.md` says how.

    A vote stops where nobody can catch up, or where its leader has `start` votes and would win a fair toss against the
    runner-up with a probability of `lead`, less `slope` by the time all `chains` have ended: the later in the vote, the
    less is left to win by going on.
    """

    chains: int = 32
    """Chains at most."""
    start: int = 3
    """Votes for the leader that it takes at least, where nothing but votes tells."""
    lead: float = 0.87
    slope: float = 0.20
    abreast: int = 8
    """Chains side by side at most."""
    spare: float = 1.5
    """Chains side by side for each vote that the leader needs at least."""


BUILT_IN = Policy()
"""The server's own rules."""
