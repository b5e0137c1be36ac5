"""A server, a console before it and a browser before that, for tests that look at pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from playwright.sync_api import Browser, BrowserContext, Page

from tests.pages import ROOT

KEY = "sk-console-test-0123456789"
"""Has every scope."""
PRICES = {"version": "test", "default": {"input": 0.1, "thinking": 1, "answer": 2, "verifier": 0.05}}
"""USD for a million tokens."""
WAIT = 30_000
"""Milliseconds until what a test waits for is missing."""


Running = AbstractContextManager[str]
"""A process, and its address while it is there."""


@contextmanager
def running(*words: str, **environment: str) -> Generator[str]:
    """A process of ours that prints its address when it listens; it is ended by its id."""
    given = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=given | environment) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://"), f"{' '.join(words)} said {address!r}"
            yield address
        finally:
            process.terminate()
            process.wait(30)


def echo_server(*, delay: float = 0.0, names: Sequence[str] = ("demo",), **settings: Any) -> Running:
    """The whole server over the test engine, which thinks and repeats what it is asked. `delay`: seconds a token."""
    more = json.dumps({"prices": PRICES, **settings})
    models = [word for name in names for word in ("--model", name)]
    return running("ponder.testing.server", *models, "--key", KEY, "--delay", str(delay), "--settings", more)


def console_for(server: str, *flags: str) -> Running:
    """`ponder console` for a server, on a free port."""
    return running("ponder", "console", "--server", server, "--port", "0", *flags)


@dataclass
class Log:
    """What a browser asked for and complained about."""

    own: str
    requests: list[str] = field(default_factory=list[str])
    complaints: list[str] = field(default_factory=list[str])

    def watch(self, page: Page) -> None:
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url.replace("ws", "http", 1)))
        page.on("console", lambda told: self.complaints.append(told.text) if told.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    @property
    def foreign(self) -> list[str]:
        """Requests for another host than the console."""
        return [url for url in self.requests if not url.startswith((f"{self.own}/", "data:", "blob:"))]


@dataclass
class Stage:
    """All of it."""

    server: str
    console: str
    browser: Browser
    made: dict[str, str] = field(default_factory=dict[str, str])
    """What tests have asked the server for once, for all."""

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, key: str = KEY) -> Any:
        """The server itself, beside the console: what pages show must be what it says."""
        headers = {"authorization": f"Bearer {key}"}
        response = httpx.request(method, self.server + path, json=body, headers=headers, timeout=300)
        response.raise_for_status()
        return response.json()

    def metrics(self) -> list[str]:
        """The lines of `/metrics`."""
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.get(f"{self.server}/metrics", headers=headers, timeout=60).text.splitlines()

    def signed_in(self, key: str = KEY, width: int = 1280, height: int = 900, dark: bool = False) -> BrowserContext:
        """A browser's window of its own, signed in; to be closed."""
        window = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        answer = window.request.post(f"{self.console}/login", form={"key": key}, headers={"origin": self.console})
        assert answer.ok, answer.text()
        return window

    @contextmanager
    def visit(
        self, path: str = "/", key: str = KEY, *, complaints: bool = False, width: int = 1280, dark: bool = False
    ) -> Generator[Page]:
        """A page, open and connected. When the test has done with it nothing may have been asked of another host, and
        the browser may have complained of nothing, unless `complaints`."""
        log = Log(self.console)
        window = self.signed_in(key, width, dark=dark)
        window.set_default_timeout(WAIT)
        page = window.new_page()
        log.watch(page)
        try:
            self.go(page, path)
            yield page
            assert log.foreign == []
            assert complaints or log.complaints == []
        finally:
            window.close()

    def go(self, page: Page, path: str) -> None:
        """Opens another page, and waits until it is connected."""
        page.goto(self.console + path)
        page.wait_for_function("window.did_handshake === true")

    def path_of(self, path: str) -> str:
        """A path of the table of pages, its variables filled with something that is there (`EXAMPLES`)."""
        if "{" not in path:
            return path
        if path not in self.made:
            self.made[path] = EXAMPLES[path](self)
        return self.made[path]


def _tree(stage: Stage) -> str:
    """The page of a request that a beam search has answered."""
    beams = {"name": "beam_search", "beams": 4, "width": 2}
    said = [{"role": "user", "content": "What is 3 + 4? The answer is 7."}]
    body = {"model": "demo", "messages": said, "strategy": beams, "thinking_budget": 3000}
    stage.ask("POST", "/v1/chat/completions", body)
    listed = stage.ask("GET", "/v1/traces")["data"]
    return f"/requests/{next(one['id'] for one in listed if one['strategy'] == 'beam_search')}"


EXAMPLES: dict[str, Callable[[Stage], str]] = {"/requests/{id}": _tree}
"""For a page with variables in its path: makes what it shows, and gives the path to it."""
