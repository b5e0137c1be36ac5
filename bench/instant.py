"""Ponder's own server over a model that costs nothing: what `bench/door.py` measures.

python -m bench.instant --port 8001
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator

import uvloop

from ponder.compute.engine import Delta, ModelCard, Sampling
from ponder.compute.lengths import Lengths
from ponder.compute.text import Hidden, Prompt
from ponder.compute.transcript import Transcript
from ponder.server.app import ServedModel, create_app
from ponder.server.http.server import run
from ponder.server.http.sockets import bind, listen, url_of
from ponder.server.settings import ModelSettings, Settings

THOUGHT = tuple(range(64))
ANSWER = " ".join(["word"] * 32)
PIECES = [word + " " for word in ANSWER.split()]


class Instant:
    """Thinks 64 tokens and says 32, all at once; one delta a token where somebody listens, as a real model would."""

    card = ModelCard(name="instant", context=1 << 16, thinks=True, typical_chain=(64, 96))

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        return 8 * len(prompt.messages)

    async def accept(self, sampling: Sampling) -> None:
        pass

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        transcript.read(self.length(prompt), 0)
        thought = THOUGHT[: sampling.thinking]
        transcript.think(thought)
        if len(thought) < len(THOUGHT):
            transcript.force([64])
        transcript.close_thought()
        pieces = PIECES[: sampling.answer]
        for number, piece in enumerate(pieces):
            transcript.say([number], piece)
            if sampling.streamed:
                yield Delta(piece)
        transcript.end("finished" if len(pieces) == len(PIECES) else "length", Hidden("(numbers)"))
        if not sampling.streamed:
            yield Delta("".join(pieces))

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass


async def serve(settings: Settings) -> None:
    engine = Instant()
    served = ServedModel(
        engine=engine, lengths=Lengths(*engine.card.typical_chain), settings=ModelSettings(path="instant")
    )
    with bind(settings.host, settings.port) as sock:
        app = create_app(settings, {"instant": served})
        listen(sock)
        sys.stdout.write(f"serving an instant model at {url_of(sock)}\n")
        sys.stdout.flush()
        await run(app, settings, sock, app.state.handle.drain, lambda _: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8001)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Settings(port=options.port, model="instant")))


if __name__ == "__main__":
    main()
