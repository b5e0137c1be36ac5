"""What is asked of each page, whatever it shows: every one that stands in the table is looked at here."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from ponder.console.page import Page
from ponder.console.pages import PAGES
from tests.console.stage import Stage
from tests.needs import npm

AXE = ("axe-core", "4.14.1")
SERIOUS = ("serious", "critical")
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@cache
def axe() -> str:
    return (npm(*AXE) / "axe-core" / "axe.min.js").read_text()


def violations(page: Any) -> list[str]:
    """What axe-core finds to be serious or worse: the rule, and where."""
    page.evaluate(axe())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {node['html'][:200]} ({node['failureSummary'][:200]})"
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("shown", PAGES, ids=lambda one: one.path)
def test_a_page_is_for_everybody(stage: Stage, shown: Page) -> None:
    """Light, dark and as wide as a phone: axe-core finds nothing serious, nothing is wider than the window, and each
    control that Tab reaches shows that it has the focus. Nothing is asked of another host, nor complained of."""
    with stage.visit(stage.path_of(shown.path)) as page:
        assert page.locator("h1").count() == 1
        assert violations(page) == []
        page.emulate_media(color_scheme="dark")
        page.wait_for_function("document.body.classList.contains('body--dark')")
        assert violations(page) == []
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate(FITS), "it scrolls sideways on a phone"
        assert violations(page) == []
        seen = set[str]()
        for _ in range(12):
            page.keyboard.press("Tab")
            at = page.evaluate(
                "(() => { const at = document.activeElement; const s = getComputedStyle(at);"
                " const field = at.closest('.q-field--focused, .q-focusable, .q-slider, .q-checkbox, .q-toggle');"
                " return [at.tagName + (at.id || at.textContent.slice(0, 20)), at === document.body"
                " || s.outlineStyle !== 'none' || !!field]; })()"
            )
            assert at[1], f"{at[0]} has the focus and does not show it"
            seen.add(at[0])
        assert len(seen) > 4


def test_the_first_page_is_for_who_is_signed_in(stage: Stage) -> None:
    window = stage.browser.new_context()
    page = window.new_page()
    page.goto(stage.console)
    assert page.url == f"{stage.console}/login"
    assert violations(page) == []
    page.fill("#key", "sk-console-nobody-knows")
    page.press("#key", "Enter")
    assert "does not know that API key" in page.inner_text("[role=alert]")
    window.close()
