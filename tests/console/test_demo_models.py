"""The pages over the demo models in vLLM, as one asks a server of one's own."""

from __future__ import annotations

from collections.abc import Generator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from ponder.console import units
from tests.console.screenshots import FIRST, demo, lived_in
from tests.console.stage import Stage, console_for


@pytest.fixture(scope="module")
def stage(browser: Browser) -> Generator[Stage]:
    with demo() as server, console_for(server) as console:
        stage = Stage(server, console, browser)
        lived_in(stage)
        yield stage


def test_a_question_is_answered_and_four_plans_are_compared(stage: Stage) -> None:
    for path in ("/", "/compare"):
        with stage.visit(path) as page:
            FIRST[path](page)


def test_the_tree_of_a_beam_search_has_each_of_its_calls(stage: Stage) -> None:
    path = stage.path_of("/requests/{id}")
    trace = stage.ask("GET", f"/v1/traces/{path.rpartition('/')[2]}")
    (choice,) = trace["choices"]
    assert len(choice["calls"]) > 2
    with stage.visit(path) as page:
        for number in range(len(choice["calls"])):
            expect(page.get_by_text(f"#{number} step", exact=True)).to_be_visible()


def test_costs_are_those_of_the_usage_api(stage: Stage) -> None:
    (day,) = stage.ask("GET", "/v1/usage?group_by=day")["data"]
    with stage.visit("/cost") as page:
        page.wait_for_selector(".figures")
        told = page.inner_text("main")
    for shown in (units.usd(day["cost_usd"]), units.tokens(day["thinking"]), units.tokens(day["answer"])):
        assert shown in told


def test_a_key_is_used_on_a_page_and_refused_when_it_is_revoked(stage: Stage) -> None:
    made = stage.ask("POST", "/v1/keys", {"name": "new"})
    with stage.visit("/keys") as page:
        expect(page.get_by_text("new", exact=True).first).to_be_visible()
    with stage.visit("/", key=made["key"]) as page:
        FIRST["/"](page)
    stage.ask("DELETE", f"/v1/keys/{made['id']}")
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        stage.ask("GET", "/v1/models", key=made["key"])
