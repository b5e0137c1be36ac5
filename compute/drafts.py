"""The chains that were written in answer to the caller, and which of them would be given if the run ended now."""

from __future__ import annotations

from ponder.compute.text import Candidate
from ponder.compute.transcript import Transcript


class Drafts:
    """All chains of a run but those that answer questions of our own, by number."""

    __slots__ = ("_transcripts", "answering", "finished", "offered", "streamed")

    def __init__(self) -> None:
        self._transcripts: dict[int, Transcript] = {}
        self.streamed: int | None = None
        """The chain whose text was sent to the caller as it was written."""
        self.answering: int | None = None
        """The chain that completes the answer at the end of a run."""
        self.offered: Candidate | None = None
        """The best as the strategy offered it, else the first that finished."""
        self.finished = 0
        """Chains that finished."""

    def add(self, number: int, transcript: Transcript) -> None:
        """Chain `number` is being written."""
        self._transcripts[number] = transcript

    def writing(self, number: int) -> Candidate | None:
        """Chain `number` as it stands now, where it is still being written."""
        transcript = self._transcripts.get(number)
        return None if transcript is None or transcript.over else transcript.candidate()

    def __contains__(self, candidate: object) -> bool:
        """It is a chain of this run, written in answer to the caller."""
        return isinstance(candidate, Candidate) and candidate.number in self._transcripts

    def ended(self, candidate: Candidate) -> None:
        """A chain finished."""
        self.finished += 1
        self.offered = self.offered or candidate

    def best(self) -> Candidate | None:
        """What there is to answer with when the run is cut short: the streamed chain, the best offered, one that is
        whole, the longest half-written one whose end was seen."""
        if self.answering is not None:
            return self._transcripts[self.answering].candidate()
        if self.streamed is not None:
            transcript = self._transcripts.get(self.streamed)
            streamed = transcript and transcript.candidate()
            # As long as nothing of it was said, another that was offered may be the answer.
            return streamed if streamed and streamed.text else self.offered or streamed
        if self.offered is not None:
            return self.offered
        drafts = [transcript.candidate() for transcript in self._transcripts.values()]
        return max(drafts, key=lambda c: (c.complete, c.ending != "lost", not c.thinking, c.length), default=None)

    @property
    def whole(self) -> Candidate | None:
        """What there is to answer with when the model goes away: the best, where it is whole, else the first whole one;
        None where there is none, or where the caller was sent the text of another."""
        if self.streamed is not None:
            best = self.best()
            return best if best is not None and best.complete else None
        if self.offered is not None and self.offered.complete:
            return self.offered
        drafts = (transcript.candidate() for transcript in self._transcripts.values())
        return next((draft for draft in drafts if draft.complete), None)

    @property
    def all_lost(self) -> bool:
        """No chain is left to go on with, finished, half-written or being written."""
        return all(transcript.ending == "lost" for transcript in self._transcripts.values())
