"""How soon a page of the console is there, and whether a server is slower while ten of them are open.

    python -m bench.console

One machine, one server over the test engine, one `ponder console`, one Chromium. First paint: from the navigation on,
as the browser itself says, for every page; the first load fetches all files, the others have them. The server's
latency: requests without thinking, one after the other, in turns without and with ten pages open that show what runs;
the ratio is that of the medians of each pair of turns. Results: bench/results/console.json.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from playwright.sync_api import BrowserContext, sync_playwright

from bench import machine
from ponder.console.pages import PAGES
from tests.console.stage import KEY, Stage, console_for, echo_server
from tests.needs import tool

OUT = Path(__file__).parent / "results" / "console.json"
LOADS = 5
TURNS = 6
REQUESTS = 40
"""Of a turn."""
CONSOLES = 10
PAINT = "performance.getEntriesByType('paint').find(one => one.name === 'first-contentful-paint')?.startTime ?? null"


def painted(window: BrowserContext, stage: Stage, path: str) -> float:
    """Milliseconds until a page shows something."""
    page = window.new_page()
    stage.go(page, path)
    page.wait_for_function(f"({PAINT}) !== null")
    told = float(page.evaluate(PAINT))
    page.close()
    return told


def latency(stage: Stage) -> list[float]:
    """Milliseconds of each request of a turn."""
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hello?"}], "thinking_budget": 0}
    took: list[float] = []
    with httpx.Client(base_url=stage.server, headers={"authorization": f"Bearer {KEY}"}) as client:
        for _ in range(REQUESTS):
            begun = time.perf_counter()
            client.post("/v1/chat/completions", json=body).raise_for_status()
            took.append((time.perf_counter() - begun) * 1000)
    return took


def main() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(echo_server())
        console = stack.enter_context(console_for(server))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=tool("chromium", "chromium"), args=["--no-sandbox"])
        stage = Stage(server, console, browser)
        paints: dict[str, dict[str, float]] = {}
        for path in [page.path for page in PAGES if page.listed]:
            colds: list[float] = []
            for _ in range(LOADS):
                window = stage.signed_in()
                colds.append(painted(window, stage, path))
                if len(colds) == LOADS:
                    warm = [painted(window, stage, path) for _ in range(LOADS)]
                    paints[path] = {
                        "first_ms": round(statistics.median(colds)),
                        "again_ms": round(statistics.median(warm)),
                    }
                window.close()
            print(path, paints[path], flush=True)
        latency(stage)
        pairs: list[tuple[float, float]] = []
        for _ in range(TURNS):
            alone = statistics.median(latency(stage))
            windows = [stage.signed_in() for _ in range(CONSOLES)]
            for window in windows:
                stage.go(window.new_page(), "/requests")
            beside = statistics.median(latency(stage))
            for window in windows:
                window.close()
            pairs.append((alone, beside))
            print(f"alone {alone:.2f} ms, beside {CONSOLES} consoles {beside:.2f} ms", flush=True)
        browser.close()
    found = {
        **machine.describe(),
        "load": [round(one, 1) for one in os.getloadavg()],
        "first_paint": paints,
        "latency": {
            "consoles": CONSOLES,
            "requests": TURNS * REQUESTS,
            "alone_ms": round(statistics.median(one for one, _ in pairs), 2),
            "beside_ms": round(statistics.median(other for _, other in pairs), 2),
            "ratio": round(statistics.median(other / one for one, other in pairs), 3),
        },
    }
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["latency"]))


if __name__ == "__main__":
    main()
