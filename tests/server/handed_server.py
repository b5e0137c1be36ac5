"""A server without an engine of its own, whose socket is handed on. Run as `handed_server.py CONFIG`.

It prints its process and address when it serves. What the file FAULT beside the configuration says happens to a process
that starts while it is there: `dies`, `hangs`, or `engine`, an engine of its own.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from ponder.compute.lengths import Lengths
from ponder.metering.metrics import Metrics
from ponder.server import logs
from ponder.server.accounting import keeping_account
from ponder.server.app import ServedModel, create_app
from ponder.server.handoff import Listening, listening
from ponder.server.http.sockets import CannotListen, listen, url_of
from ponder.server.load_settings import load
from ponder.server.serve import engines_here, until_asked
from ponder.server.settings import ModelSettings
from ponder.testing import Chain, ScriptedEngine, always
from tests.engines.mortal import Mortal, MortalProcess, supervised

LONG = " ".join(map(str, range(120)))
"""What the model `long` answers, a few seconds long."""
SHORT = "It is 7."


@dataclass(frozen=True, slots=True)
class Telling(Listening):
    """Says so on standard output, too."""

    def begun(self) -> None:
        Listening.begun(self)
        print(os.getpid(), url_of(self.sock), flush=True)


async def main(config: Path) -> None:
    logs.configure("info", "text")
    fault = config.with_name("FAULT")
    says = fault.read_text() if fault.exists() else ""
    settings = load(config)
    place = listening(settings)
    place = Telling(place.sock, place.kept, place.before)
    if says == "dies":
        raise CannotListen("this one is broken")
    if says == "hangs":
        await asyncio.sleep(600)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        account = keeping_account(settings.ledger, metrics, follows=place.before is not None)
        ledger = await stack.enter_async_context(account)
        engines = {
            "long": ScriptedEngine(always(Chain("", LONG)), delay=0.005),
            "slow": ScriptedEngine(always(Chain("", LONG)), delay=0.04),
            "short": ScriptedEngine(always(Chain("", SHORT)), delay=0.001),
        }
        models = {
            name: ServedModel(engine, Lengths(20, 40), ModelSettings(path="scripted"))
            for name, engine in engines.items()
        }
        if says == "engine":
            mortal = Mortal(always(Chain("", SHORT)), process=MortalProcess(takes=0.1))
            own = await stack.enter_async_context(supervised(mortal))
            models["own"] = ServedModel(own, Lengths(20, 40), ModelSettings(path="scripted"))
        app = create_app(settings, models, metrics=metrics, ledger=ledger)
        with place.sock:
            listen(place.sock)
            await until_asked(app, settings, place, metrics, engines_here(models))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1])))
