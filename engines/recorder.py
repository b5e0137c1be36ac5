"""An engine around another that writes down each call and what came of it, as lines that `ponder.engines.replay` reads.

    with open("calls.jsonl", "a") as file:
        engine = Recorder(engine, file.write)

A line has numbers, the identity of the call and, of an answer to the caller, the visible text. No prompt and no thought
is written down, and no answer to a question of a verifier, which may quote a thought.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from ponder.compute.engine import Checked, Delta, Engine, HasSlots, ModelCard, Reopens, Sampling
from ponder.compute.slots import Slots
from ponder.compute.text import Candidate, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.samples import CHAINS


class Recorder:
    """Does what `engine` does, and gives `write` a line of JSON at the end of each call, however that ends.

    `write` is called on the event loop, so it must be quick.
    """

    def __init__(self, engine: Engine, write: Callable[[str], object]) -> None:
        self._engine, self._write = engine, write

    @property
    def card(self) -> ModelCard:
        return self._engine.card

    @property
    def slots(self) -> Slots | None:
        return self._engine.slots if isinstance(self._engine, HasSlots) else None

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        return self._engine.length(prompt, thinking=thinking)

    def reopened(self, chain: Candidate, words: str) -> Candidate | None:
        return self._engine.reopened(chain, words) if isinstance(self._engine, Reopens) else None

    async def accept(self, sampling: Sampling) -> None:
        await self._engine.accept(sampling)

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        try:
            async with aclosing(self._engine.generate(prompt, sampling, transcript)) as stream:
                async for delta in stream:
                    yield delta
        finally:
            self._write(line(sampling, transcript))

    async def check(self) -> Checked | None:
        return await self._engine.check()

    async def close(self) -> None:
        await self._engine.close()


def line(sampling: Sampling, transcript: Transcript) -> str:
    """A call that is over. `hidden` and `visible` are tokens, without those of the chain it continues; `text` is the
    whole visible text of the chain so far; empty for a question of a verifier."""
    call, chain = transcript.call, transcript.candidate()
    told = {
        "request": call.request,
        "path": call.path,
        "purpose": call.purpose,
        "limits": {"thinking": sampling.thinking, "answer": sampling.answer, "total": sampling.total},
        "seed": sampling.seed,
        "hidden": chain.hidden,
        "visible": chain.visible,
        "ending": chain.ending,
        "text": chain.text if call.purpose in CHAINS else "",
    }
    return json.dumps(told, ensure_ascii=False) + "\n"
