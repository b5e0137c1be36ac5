"""A server over the test engine, on a free port: for suites of other authors, and for trying a client without a model.

    python -m ponder.testing.server --model demo --key sk-test

It is the whole server but for the model: keys, ledger, receipts, every dialect. It prints its address, and ends at
SIGTERM, or when what has started it is no more. What it writes down it throws away.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, get_args

import uvloop

from ponder.compute.lengths import Lengths
from ponder.engines.lifeline import end_with_parent
from ponder.metering.metrics import Metrics
from ponder.server.accounting import keeping_account
from ponder.server.app import ServedModel, create_app
from ponder.server.auth.keys import Keyring, digest
from ponder.server.auth.stored_keys import following
from ponder.server.http.server import run
from ponder.server.http.sockets import bind, listen, url_of
from ponder.server.receipts import signing
from ponder.server.settings import KeySettings, ModelSettings, Scope, Settings
from ponder.testing.echo import EchoEngine
from ponder.testing.scripted import ScriptedRewards

__all__ = ["main", "serve"]


async def serve(settings: Settings, names: Sequence[str], *, delay: float = 0.0) -> None:
    """Serves the test engine under each of the names until SIGTERM or SIGINT; prints the address first. `delay` is in
    seconds for each token."""
    metrics = Metrics()
    rewards = ScriptedRewards(lambda line: min(1.0, len(line) / 64))
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(keeping_account(settings.ledger, metrics, settings.owners))
        keyring = Keyring(settings.keys, required=settings.require_key)
        stored = await stack.enter_async_context(following(ledger, keyring))
        signer = await signing(settings.receipts, ledger)
        engine = EchoEngine(names[0], remembers=False)
        engine.delay = delay
        lengths = Lengths(*engine.card.typical_chain)
        model = ModelSettings(path="echo")
        app = create_app(
            settings,
            {name: ServedModel(engine, lengths, model, rewards) for name in names},
            metrics=metrics,
            ledger=ledger,
            keyring=keyring,
            stored=stored,
            source=lambda: settings,
            signer=signer,
        )
        handle = app.state.handle
        with bind(settings.host, settings.port) as sock:
            listen(sock)
            print(url_of(sock), flush=True)  # noqa: T201 - it is what is asked for
            await run(app, settings, sock, handle.drain, handle.metrics.lag, handle.hurry, lambda: keyring.open)


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ponder.testing.server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (unless said): one that is free")
    parser.add_argument("--model", action="append", default=[], help="a name of the model; may come several times")
    parser.add_argument("--key", help="an API key with every scope; left out, none is needed")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds for each token")
    parser.add_argument("--settings", default="{}", help="more of the configuration, as JSON")
    given = parser.parse_args(words)
    end_with_parent()
    with tempfile.TemporaryDirectory(prefix="ponder-echo-") as folder:
        more: dict[str, Any] = {
            "ledger": {"url": f"sqlite:///{folder}/ledger.db"},
            "receipts": {"key": f"{folder}/receipts.key"},
        }
        if given.key:
            more["keys"] = [KeySettings(name="test", hash=digest(given.key), scopes=frozenset(get_args(Scope)))]
        settings = Settings(host=given.host, port=given.port, **more | json.loads(given.settings))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, given.model or ["echo"], delay=given.delay))


if __name__ == "__main__":
    main(sys.argv[1:])
