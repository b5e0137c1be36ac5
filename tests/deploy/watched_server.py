"""A server to be watched, in a process of its own: two scripted models, of which the engine of one dies once and the
reward model of the other is away. It prints the port it listens on; SIGTERM ends it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass

from ponder.compute.lengths import Lengths
from ponder.compute.slots import Slots
from ponder.compute.text import Prompt
from ponder.compute.transcript import Transcript
from ponder.metering.metrics import Metrics
from ponder.server.accounting import keeping_account
from ponder.server.app import ServedModel, create_app
from ponder.server.handoff import Listening
from ponder.server.http.sockets import bind, listen
from ponder.server.load_settings import load
from ponder.server.serve import until_asked
from ponder.server.settings import ModelSettings
from ponder.testing import Chain, ScriptedEngine, ScriptedRewards, always
from tests.engines.mortal import Mortal, MortalProcess, supervised

CIRCLES_AT = 200
DIES_AT = 600
"""Tokens."""


def chain(prompt: Prompt, thought: str, call: int) -> Chain:
    """Four in five say seven."""
    return Chain("three and four\nmake seven\n", "It is 9." if call % 5 == 4 else "It is 7.")


@dataclass
class Circling(Mortal):
    """One of its chains goes in circles."""

    async def make(self, transcript: Transcript) -> None:
        await super().make(transcript)
        if self.produced == CIRCLES_AT:
            transcript.circled()


async def main(config: str) -> None:
    settings = load(config, host="127.0.0.1", port=0)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(keeping_account(settings.ledger, metrics))
        slots = Slots(6, 40.0)
        mortal = Circling(
            chain,
            delay=0.0005,
            cached=8,
            seeded=False,
            slots=slots,
            dies_at=[DIES_AT],
            process=MortalProcess(takes=0.1),
        )
        engine = await stack.enter_async_context(supervised(mortal))
        small = ScriptedEngine(always(Chain("seven\n", "It is 7.")), delay=0.0005)
        made = {
            "demo": ServedModel(
                engine, Lengths(20, 40), ModelSettings(path="scripted"), ScriptedRewards(lambda line: len(line) / 30)
            ),
            "small": ServedModel(
                small,
                Lengths(20, 40),
                ModelSettings(path="scripted"),
                ScriptedRewards(lambda _: 0.5, fails=True),
            ),
        }
        with bind(settings.host, settings.port) as sock:
            app = create_app(settings, made, metrics=metrics, ledger=ledger)
            listen(sock)
            print(sock.getsockname()[1], flush=True)
            await until_asked(app, settings, Listening(sock), metrics)


asyncio.run(main(sys.argv[1]))
