"""One server, one console and one browser for all tests of a process."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.console.stage import WAIT, Stage, console_for, echo_server
from tests.needs import tool


@pytest.fixture(scope="package")
def browser() -> Generator[Browser]:
    """Debian's Chromium."""
    path = tool("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        expect.set_options(timeout=WAIT)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def stage(browser: Browser) -> Generator[Stage]:
    """The whole of it, over an engine that repeats what it is asked, 10 ms a token: so slow that one can
    look at it while it writes."""
    with echo_server(delay=0.01) as server, console_for(server) as console:
        yield Stage(server, console, browser)
