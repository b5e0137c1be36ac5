"""Takes the pictures of `docs/console/`: every page over the demo models, some of them dark or on a phone.

    python -m tests.console.screenshots                      # starts `ponder serve demo`
    python -m tests.console.screenshots --only /,/compare

What a page shows is asked for first: questions under several strategies, so that there is something to draw.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from ponder.console.pages import PAGES
from ponder.server.auth.keys import digest
from tests.console.stage import KEY, WAIT, Stage, console_for
from tests.needs import tool
from tests.pages import ROOT
from tests.server.test_serve import ponder_serve

FOLDER = ROOT / "docs" / "console"
QUESTIONS = (
    "Tom has 12 apples and gets 7 more. How many now?",
    "A shelf holds 9 books and 4 are taken. How many are left?",
    "Ann buys 3 boxes of 6 pens. How many pens has she?",
)
STRATEGIES = ("direct", "majority_vote", "best_of_n", "beam_search", "revision")
SETTINGS = """
require_key = true

[[keys]]
name = "ann"
hash = "{ann}"
scopes = ["infer", "usage", "trace", "metrics", "admin"]
thinking_tokens_per_day = 50000
usd_per_month = 1

[[keys]]
name = "bob"
hash = "{bob}"
scopes = ["infer"]
"""
OTHER = "sk-console-other-0123456789"


@contextmanager
def demo() -> Generator[str]:
    """The demo models, with two keys."""
    with tempfile.TemporaryDirectory(prefix="ponder-pictures-") as folder:
        config = Path(folder) / "ponder.toml"
        ledger = f'[ledger]\nurl = "sqlite:///{folder}/ledger.db"\n'
        config.write_text(SETTINGS.format(ann=digest(KEY), bob=digest(OTHER)) + ledger)
        with ponder_serve(Path(folder), "--config", str(config), "demo") as (_, address):
            yield address


def lived_in(stage: Stage) -> None:
    """Questions of two keys, so that there is something to show."""
    for number, question in enumerate(QUESTIONS):
        for strategy in STRATEGIES[number * 2 :]:
            body = {
                "model": "demo",
                "messages": [{"role": "user", "content": question}],
                "thinking_budget": 128 << number,
                "strategy": strategy,
                "seed": number,
            }
            stage.ask("POST", "/v1/chat/completions", body, KEY if number else OTHER)


def _asked(page: Page) -> None:
    page.get_by_label("Question", exact=True).fill(QUESTIONS[0])
    page.get_by_label("Strategy", exact=True).click()
    page.get_by_role("option", name="majority_vote", exact=True).click()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_text(re.compile("majority_vote: "))).to_be_visible()


def _compared(page: Page) -> None:
    for _ in range(2):
        page.get_by_role("button", name="Add a plan").click()
    page.get_by_label("Question", exact=True).fill(QUESTIONS[1])
    page.get_by_role("button", name="Ask all").click()
    expect(page.locator("table tbody tr")).to_have_count(4)


def _evaluated(page: Page) -> None:
    sums = [{"question": f"What is {n} + {2 * n + 3}?", "answer": str(3 * n + 3)} for n in range(2, 26)]
    lines = "".join(json.dumps(one) + "\n" for one in sums).encode()
    page.set_input_files("input[type=file]", {"name": "sums.jsonl", "mimeType": "text/plain", "buffer": lines})
    page.wait_for_selector("[role=status]:has-text('24 questions')")
    page.fill("input[aria-label^='Budgets']", "16 64 256")
    page.click("button:has-text('Run')")
    page.wait_for_selector("caption:has-text('Plans, with 95 % intervals')", timeout=300_000)


FIRST: dict[str, Callable[[Page], None]] = {"/": _asked, "/compare": _compared, "/evaluate": _evaluated}
"""What is done on a page before its picture is taken."""
ALSO = {"/": ("dark", "phone"), "/requests/{id}": ("dark",)}
"""Pages that have more than one."""


def picture(stage: Stage, path: str, kind: str) -> Path:
    """One picture of a page: `light`, `dark` or `phone`."""
    name = re.sub(r"\W+", "-", path).strip("-").replace("requests-id", "request") or "playground"
    file = FOLDER / f"{name}{'' if kind == 'light' else f'-{kind}'}.png"
    with stage.visit(stage.path_of(path), width=390 if kind == "phone" else 1280, dark=kind == "dark") as page:
        if path in FIRST:
            FIRST[path](page)
        page.wait_for_load_state("networkidle")
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        page.wait_for_timeout(600)
        page.screenshot(path=file, full_page=True, animations="disabled")
    return file


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.console.screenshots", description=__doc__)
    parser.add_argument("--server", help="one that serves `demo` to the keys of `SETTINGS`; left out: one is started")
    parser.add_argument("--only", help="paths of pages, with commas between")
    given = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        server = given.server or stack.enter_context(demo())
        console = stack.enter_context(console_for(server))
        playwright = stack.enter_context(sync_playwright())
        expect.set_options(timeout=WAIT)
        path = tool("chromium", "chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        stage = Stage(server, console, browser)
        lived_in(stage)
        for page in PAGES:
            if not given.only or page.path in given.only.split(","):
                for kind in ("light", *ALSO.get(page.path, ())):
                    file = picture(stage, page.path, kind)
                    print(f"{file.relative_to(ROOT)} {file.stat().st_size // 1024} KiB", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
