"""The tree of a request: every call of its trace is drawn, live while it runs; what others wrote is text."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from ponder.console import trees
from tests.console.stage import KEY, Stage, console_for, echo_server

HOSTILE = "<script>document.title = 'gone'</script> <img src=x onerror=alert(1)> The answer is 7."


def asked(stage: Stage, **body: Any) -> str:
    """Asks, and gives the id of the request."""
    response = httpx.post(
        f"{stage.server}/v1/chat/completions",
        headers={"authorization": f"Bearer {KEY}"},
        json={"model": "demo", "messages": [{"role": "user", "content": HOSTILE}], **body},
        timeout=120,
    )
    response.raise_for_status()
    return response.headers["x-request-id"]


def call(number: int, parent: int | None = None, **more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "number": number,
        "parent": parent,
        "purpose": "extend",
        "tokens": {"hidden": 10, "visible": 0, "prompt": 4, "cached": 0, "wasted": 0},
        "started": float(number),
        "seconds": 1.0,
        "ending": "step",
        "score": None,
        "vote": None,
        "chosen": False,
        "forced": False,
        "circled": None,
    }
    return facts | more


def test_calls_stand_behind_those_they_go_on_from_in_the_order_they_were_begun() -> None:
    calls = [call(0), call(1), call(2, 0), call(3, 1), call(4, 0), call(5, 2), call(6, 99)]
    found = [(row.call["number"], row.depth) for row in trees.rows(calls)]
    assert found == [(0, 0), (2, 1), (5, 2), (4, 1), (1, 0), (3, 1), (6, 0)]


@pytest.mark.parametrize(
    ("facts", "words", "kind"),
    [
        ({"chosen": True, "ending": "finished"}, "chosen; finished", "chosen"),
        ({}, "pruned: nothing went on from it; step over", "pruned"),
        ({"ending": "aborted"}, "cancelled", "cut"),
        ({"ending": "lost"}, "lost: its model went away", "cut"),
        ({"ending": "finished", "forced": True}, "finished; thought cut: closed by force, its tokens used up", "cut"),
        ({"circled": "answer", "ending": "finished"}, "finished; went in circles in its answer", "plain"),
        ({"seconds": None, "ending": None}, "being written", "open"),
    ],
)
def test_how_a_call_ended_is_said(facts: dict[str, Any], words: str, kind: str) -> None:
    assert trees.fate(call(0, **facts), continued=False, over=True) == (words, kind)


def test_a_call_is_pruned_only_when_the_request_is_over_and_nothing_goes_on_from_it() -> None:
    assert trees.fate(call(0), continued=True, over=True)[1] == "plain"
    assert trees.fate(call(0), continued=False, over=False)[1] == "plain"


def test_a_tree_is_escaped_and_bounded() -> None:
    calls = [call(number, purpose="<b>", ending="<i>", vote=number) for number in range(trees.MOST + 3)]
    made = trees.markup(calls, over=True)
    assert "<b>" not in made
    assert "&lt;b&gt;" in made
    assert "&lt;i&gt;" in made
    assert made.count('<tr class="was-') == trees.MOST
    assert "3 calls more are not shown" in made
    assert trees.markup([], over=True) == ""


def test_the_tree_of_a_beam_search_has_a_line_for_every_call_of_its_trace(stage: Stage) -> None:
    path = stage.path_of("/requests/{id}")
    trace = stage.ask("GET", f"/v1/traces/{path.rpartition('/')[2]}")
    calls = trace["choices"][0]["calls"]
    with stage.visit("/requests") as page:
        page.click(f"a[href='{path}']")
        page.wait_for_selector(".tree tbody tr")
        assert page.locator(".tree tbody tr").count() == len(calls)
        for one in calls:
            line = page.locator(f".tree tbody tr:has-text('#{one['number']} step')").first.inner_text()
            assert f"{one['tokens']['hidden']} token" in line
        assert page.locator(".was-chosen").count() == sum(one["chosen"] for one in calls)
        assert page.locator(".was-pruned").count() > 0
        assert f"{trace['choices'][0]['tokens']['hidden']} tokens" in page.inner_text("main")
        # Texts are not kept by this server.
        assert "Text" not in page.locator("h2").all_inner_texts()


def test_a_request_that_is_not_there_says_so(stage: Stage) -> None:
    with stage.visit("/requests/req_unknown") as page:
        page.wait_for_selector("[role=alert]")
        assert "there is no such trace" in page.inner_text("[role=alert]")


@pytest.fixture(scope="module")
def slow(browser: Browser) -> Generator[Stage]:
    """A server that takes its time, and keeps texts."""
    with echo_server(delay=0.03, retain_text=True) as server, console_for(server) as console:
        yield Stage(server, console, browser)


def test_a_tree_fills_while_its_request_runs_and_shows_text_as_text(slow: Stage) -> None:
    made: list[str] = []
    wish = {"strategy": {"name": "majority_vote", "n": 6, "first": 2, "mode": "rounds"}, "thinking_budget": 4000}
    asking = threading.Thread(target=lambda: made.append(asked(slow, **wish)))
    with slow.visit("/requests") as page:
        asking.start()
        page.click("section:has(h2:text-is('Running now')) a.id")
        page.wait_for_selector(".was-open")
        assert "It runs" in page.inner_text("[role=status]")
        assert not made
        page.wait_for_selector(".was-chosen")
        asking.join()
        page.wait_for_selector("pre.written")
        calls = slow.ask("GET", f"/v1/traces/{made[0]}")["choices"][0]["calls"]
        assert page.locator(".tree tbody tr").count() == len(calls)
        assert page.locator("pre.written").nth(1).inner_text() == HOSTILE
        assert page.title() != "gone"


def test_text_is_for_keys_that_may_see_it_alone(slow: Stage) -> None:
    made = slow.ask("POST", "/v1/keys", {"name": "blind", "scopes": ["infer", "trace", "admin"]})
    id = asked(slow, thinking_budget=200)
    with slow.visit(f"/requests/{id}", key=made["key"]) as page:
        page.wait_for_selector(".was-chosen")
        assert page.locator("pre.written").count() == 0
        assert "The question is read" not in page.content()
