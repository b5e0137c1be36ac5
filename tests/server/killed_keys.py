"""A server to be killed while requests with an `Idempotency-Key` are under way. Run as `killed_keys.py ADDRESS SECRET`.

One was answered, one has made some tokens, one has its key and nothing else. It says so and waits for its end.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from ponder.compute.account import Intent
from ponder.server.settings import IdempotencySettings, Settings
from tests.server.ledgered import ledgered
from tests.server.resent import Held, Keyed, soon


class Waits:
    """An account that does not answer for one user."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def reserve(self, intent: Intent) -> Any:
        if intent.user == "before":
            self.asked.set()
            await asyncio.Event().wait()
        return Nothing()


class Nothing:
    used = None

    async def settle(self, usage: Any, ending: str) -> None:
        pass


async def main(address: str, secret: str) -> None:
    engine, account = Held(at=1 << 30), Waits()
    settings = Settings(idempotency=IdempotencySettings(secret=secret))  # type: ignore[arg-type]
    async with (
        ledgered(engine, address, settings, accounts=[account], checkpoint=16) as on,
        asyncio.TaskGroup() as group,
    ):
        await Keyed("answered", user="answered").call(on.app)
        engine.at = engine.produced + 20
        group.create_task(Keyed("middle", user="middle").call(on.app))
        await engine.held.wait()
        group.create_task(Keyed("before", user="before").call(on.app))
        await account.asked.wait()
        writer = on.ledger._writer  # pyright: ignore[reportPrivateUsage]
        await soon(lambda: writer.pending == 0)
        sys.stdout.write("ready\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
