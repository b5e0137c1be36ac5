"""A model of fixed step time: in each step it makes one token of each call it works on. All the rest is waiting.

It works on so many calls at a time, the others first come, first served, as vLLM does; their tokens cost no processor
time. `bench/fairness.py` serves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from ponder.compute.clock import now
from ponder.compute.engine import Delta, ModelCard, Sampling
from ponder.compute.slots import Slots
from ponder.compute.text import Hidden, Prompt
from ponder.compute.transcript import Transcript

ANSWER = "It is {}."


class FixedStep:
    """An `Engine` whose chains think so many tokens as `thought` says, by the number of the call from 0."""

    def __init__(
        self,
        step: float,
        places: int,
        *,
        thought: Callable[[int], int] = lambda _: 32,
        says: Callable[[int], str] = lambda _: ANSWER.format(7),
        fair: bool = True,
        typical: tuple[int, int] = (40, 60),
    ) -> None:
        """`step` in seconds; `fair`: calls wait in the slots of the server, else with the model. An answer has a token
        for each character."""
        self.card = ModelCard(name="fixed", context=1 << 16, thinks=True, typical_chain=typical)
        self.slots = Slots(places, typical[0]) if fair else None
        self._step, self._thought, self._says = step, thought, says
        self._seats = asyncio.Semaphore(places)
        self.calls = 0
        self.running = 0
        """Calls that are worked on or wait."""

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        return 8 * len(prompt.messages)

    async def accept(self, sampling: Sampling) -> None:
        pass

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        number = self.calls
        self.calls += 1
        self.running += 1
        transcript.read(self.length(prompt), 0)
        begun = transcript.begun
        thought = 0 if begun is not None and not begun.thinking else self._thought(number)
        hidden, said = min(thought, sampling.thinking), self._says(number)[: sampling.answer]
        began: float | None = None
        ended = False
        try:
            async with self._seats:
                began = now()
                await asyncio.sleep((hidden + len(said)) * self._step)
                ended = True
        finally:
            self.running -= 1
            made = hidden + len(said)
            if not ended:
                made = 0 if began is None else min(made, int((now() - began) / self._step))
            transcript.think(range(min(hidden, made)))
            if made > hidden or ended:
                if hidden < thought:
                    transcript.force([0])
                transcript.close_thought()
                transcript.say(range(made - hidden), said[: made - hidden])
            transcript.end("finished" if ended else "aborted", Hidden("(numbers)"))
        yield Delta(said)

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass
