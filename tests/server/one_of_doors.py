"""A server of several, as a program. Run as `one_of_doors.py HOST PORT SETTINGS DELAY`: settings are JSON.

It prints when it is there, and of each call to its engine when it began and ended: `+` or `-`, the nanoseconds of the
machine's monotonic clock, the request, and the tokens the engine has made since it was started.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from ponder.compute.engine import Delta, Sampling
from ponder.compute.lengths import Lengths
from ponder.compute.text import Prompt
from ponder.compute.transcript import Transcript
from ponder.metering.metrics import Metrics
from ponder.server.accounting import keeping_account
from ponder.server.app import ServedModel, create_app
from ponder.server.auth.keys import Keyring
from ponder.server.auth.stored_keys import following
from ponder.server.http.server import run
from ponder.server.http.sockets import bind, listen
from ponder.server.sealed_thoughts import sealing
from ponder.server.settings import ModelSettings, Settings
from ponder.testing import Chain, ScriptedEngine, always
from ponder.testing.scripted import question

SHORT = always(*(Chain("think about it\n" * n, f"It is {n}.") for n in (1, 2, 6)))
LONG = always(Chain("long", "word " * 1000))


def script(prompt: Prompt, thought: str, call: int) -> Chain:
    """Whoever says "long" is given a long answer."""
    return (LONG if "long" in question(prompt) else SHORT)(prompt, thought, call)


@dataclass
class Telling(ScriptedEngine):
    """Says when its calls begin and end."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        self.tell("+", transcript)
        try:
            async with aclosing(super().generate(prompt, sampling, transcript)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self.tell("-", transcript)

    def tell(self, sign: str, transcript: Transcript) -> None:
        line = f"{sign} {time.monotonic_ns()} {transcript.call.request} {self.produced}\n"
        os.write(1, line.encode())


async def main(host: str, port: str, settings: str, delay: str) -> None:
    given = Settings.model_validate_json(settings)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(keeping_account(given.ledger, metrics, given.owners))
        keyring = Keyring(given.keys, required=given.require_key)
        stored = await stack.enter_async_context(following(ledger, keyring))
        engine = Telling(script, delay=float(delay))
        served: Any = {"demo": ServedModel(engine, Lengths(60, 300), ModelSettings(path="scripted"))}
        more: Any = {"metrics": metrics, "ledger": ledger, "keyring": keyring, "stored": stored}
        app = create_app(given, served, seals=sealing(given.sealed_thoughts), **more)
        handle = app.state.handle
        with bind(host, int(port)) as sock:
            listen(sock)
            os.write(1, f"at {sock.getsockname()[1]}\n".encode())
            await run(app, given, sock, handle.drain, handle.metrics.lag, handle.hurry, lambda: keyring.open)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
