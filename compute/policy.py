"""The numbers by which the server chooses how much to think: those of its own rules, or others learned for a model."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.compute.full_vote import Urn


@dataclass(frozen=True, slots=True)
class Pace:
    """How many chains are under way while a vote is open."""

    first: int
    """Chains to begin with."""
    abreast: int
    """Chains side by side at most."""
    spare: float
    """Chains side by side for each vote that the leader needs at least."""
    doubt: float
    """The part of a vote that a chain which is slow to end counts against the leader: so much when it has been written
    for as long as those took that have ended, and before in proportion. The more there are side by side, the more the
    first to end are the shortest, and no fair sample."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the strategy `auto` goes by. The defaults are the built-in rules, chosen over recorded samples of many
    models; `docs/auto.md` says how."""

    chains: int = 32
    """Chains at most."""
    start: int = 3
    """Votes for the leader that it takes at least, where nothing but votes tells."""
    lead: float = 0.90
    """A vote stops where its leader would win a fair toss against the runner-up with this probability."""
    slope: float = 0.27
    """So much less of it is enough by the time that all chains have ended: the later in the vote, the less is left to
    win by going on."""
    likelihood: float = 0.5
    """How well the likelihood of chains is thought to tell answers apart before any vote was seen, as the probability
    that a chain of the winning answer outranks another: 0.5 is not at all, and leaves the votes even."""
    judged_lead: float = 0.95
    judged_slope: float = 0.20
    """Both where a verifier chooses among the answers: it finds the right one where votes do not, so that more chains
    are worth more."""
    judged_chains: int = 8
    """Chains that a verifier chooses among where answers cannot be compared."""
    tokens: Pace = Pace(first=3, abreast=8, spare=1.5, doubt=0.5)
    """For few tokens."""
    latency: Pace = Pace(first=6, abreast=12, spare=4.0, doubt=0.7)
    """For a quick answer."""
    urns: tuple[Urn, ...] = (
        Urn(0.0541, 0.0, 0.1),
        Urn(0.0177, 0.0, 10.0),
        Urn(0.0155, 0.3, 9.7),
        Urn(0.0102, 0.3, 29.7),
        Urn(0.5070, 0.6, -0.5),
        Urn(0.1966, 0.6, -0.3),
        Urn(0.1991, 0.85, -0.75),
    )
    """How far answers to a question scatter: what `confidence` is worked out with (`docs/confidence.md`)."""
    model: str | None = None
    """The model that it was learned for; None: none in particular."""


BUILT_IN = Policy()
"""The server's own rules."""
