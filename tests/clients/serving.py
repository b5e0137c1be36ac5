"""A real server on a port of its own, over a scripted engine, for clients to talk to."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from ponder.compute.lengths import Lengths
from ponder.server.app import ServedModel, create_app
from ponder.server.http.sockets import bind, listen, url_of
from ponder.server.settings import KeySettings, ModelSettings, PriceBook, Settings
from ponder.testing import ScriptedEngine


@contextmanager
def serving(
    engine: ScriptedEngine, keys: Sequence[KeySettings] = (), price: dict[str, float] | None = None, **more: Any
) -> Generator[str]:
    """The address of a server of the model `scripted`; `price` is in USD for a million tokens, `more` are settings."""
    book = PriceBook.model_validate({"version": "1", "default": price}) if price else PriceBook()
    settings = Settings(keys=list(keys), prices=book, **more)
    lengths = Lengths(*engine.card.typical_chain)
    app = create_app(settings, {"scripted": ServedModel(engine, lengths, ModelSettings(path="scripted"))})
    with bind("127.0.0.1", 0) as sock:
        listen(sock)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield url_of(sock)
        finally:
            server.should_exit = True
            thread.join()


def comes_true(what: str, within: float, fact: object) -> None:
    """Waits for `fact()`."""
    assert callable(fact)
    end = time.monotonic() + within
    while not fact():
        assert time.monotonic() < end, f"{what} did not come true within {within} s"
        time.sleep(0.01)
