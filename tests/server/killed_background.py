"""A server to be killed while responses run behind their callers. Run as `killed_background.py ADDRESS SECRET SEED`.

It prints a line of JSON for each response it has told somebody of, and for each event it has sent: some are short and
some are long, some were cancelled, one waits for its turn.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

from ponder.server.settings import IdempotencySettings, Settings
from ponder.testing import Chain, ScriptedEngine, always
from tests.server.keeping import Reader, Server, keeping


class Telling(Reader):
    """A reader that tells what it is sent."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._told = 0

    async def send(self, message: Any) -> None:
        await super().send(message)
        events = self.events
        for event in events[self._told :]:
            tell(id=events[0]["response"]["id"], event=event)
        self._told = len(events)


def tell(**told: Any) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


async def asks(on: Server, chance: random.Random) -> None:
    """One response after the other."""
    while True:
        body: dict[str, Any] = {"background": True, "timeout": chance.choice([0.2, 60])}
        if chance.random() < 0.6:
            await Telling(method="POST", stream=True, **body).call(on.app)
            continue
        told = (await on.create(**body)).json()
        tell(id=told["id"], event=None)
        await asyncio.sleep(chance.random() * 0.2)
        if chance.random() < 0.3:
            tell(id=told["id"], cancelled=(await on.cancel(told["id"])).json()["status"])


async def main(address: str, secret: str, seed: str) -> None:
    chance = random.Random(int(seed))
    settings = Settings(idempotency=IdempotencySettings(secret=secret), max_inflight=3)  # type: ignore[arg-type]
    chains = [Chain("t" * 20, "a" * length) for length in (5, 60, 300)]
    engine = ScriptedEngine(always(*chains), delay=0.004)
    async with keeping(engine, address, settings, checkpoint=16) as on, asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(asks(on, chance))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
