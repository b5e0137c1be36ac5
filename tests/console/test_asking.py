"""The playground and the comparison in a browser: what a person does there, and what the server was asked by it."""

from __future__ import annotations

import re
import time

from playwright.sync_api import Page, expect

from tests.console.stage import Stage

QUESTION = "Question"
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"> [press](javascript:document.title='owned') "
    "$\\text{<img src=x onerror=alert(1)>}$ ![cat](http://203.0.113.1/cat.png)"
)


def choose(page: Page, field: str, value: str, place: int = 0) -> None:
    page.get_by_label(field, exact=True).nth(place).click()
    page.get_by_role("option", name=value, exact=True).click()


def ask(page: Page, question: str) -> None:
    page.get_by_label(QUESTION, exact=True).fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def test_a_question_is_answered_as_it_is_written(stage: Stage) -> None:
    """Half of it is there before the rest; then Markdown, formula and what was spent, as the server counts it."""
    question = "**Nine** and $\\frac{1}{2}$ " + "and more " * 8
    with stage.visit() as page:
        choose(page, "Strategy", "direct")
        ask(page, question)
        answer = page.locator(".prose")
        expect(answer.locator("strong")).to_have_text("Nine")
        assert not answer.inner_text().strip().endswith("and more " * 7 + "and more")
        expect(page.get_by_text("it finished")).to_be_visible()
        assert answer.locator("math mfrac").count() == 1
        used = stage.ask("GET", "/v1/usage/" + re.findall(r"req_\w+", page.inner_text(".hint a"))[0])
        told = page.locator(".amounts").inner_text()
        assert f"thinking {used['thinking']} tokens" in told.replace("\n", "")


def test_what_a_plan_says_is_what_is_asked(stage: Stage) -> None:
    """Strategy with parameters, budget, money, seed and schema reach the server as they stand in the form."""
    with stage.visit() as page:
        choose(page, "Strategy", "majority_vote")
        page.get_by_label("n", exact=True).fill("3")
        page.get_by_label("Tokens", exact=True).fill("300")
        expect(page.locator(".cost")).to_contain_text("At most 0.00235 USD: 300 tokens of thought 0.0003 USD")
        page.get_by_label("Money at most").fill("0.001")
        expect(page.locator(".cost")).to_contain_text("At most 0.001 USD")
        page.get_by_text("More: seed").click()
        page.get_by_label("Seed", exact=True).fill("7")
        page.get_by_label("JSON schema of the answer").fill('{"type": "object", "properties": {"a": {"type": "null"}}}')
        ask(page, "Is it?")
        expect(page.get_by_text("majority_vote: it finished")).to_be_visible()
        assert page.locator(".figures").get_by_text(re.compile(r"\d+ of 300 tokens")).count() == 1
        assert page.locator(".figures").get_by_text(re.compile(r"\d of 3$")).count() == 1
        assert page.locator(".prose").inner_text().strip().startswith("{")
        page.get_by_label("JSON schema of the answer").fill("{")
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("The JSON schema is no JSON")


def test_a_refusal_is_told_in_the_servers_words(stage: Stage) -> None:
    with stage.visit() as page:
        page.get_by_label("Money at most").fill("0.000000001")
        ask(page, "A question that costs more than that.")
        expect(page.get_by_role("alert")).to_contain_text("max_cost_usd is 0.000000001 USD, and this prompt")


def test_cancelling_hangs_up_and_the_server_stops(stage: Stage) -> None:
    with stage.visit() as page:
        ask(page, "A long one. " * 200)
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("Hung up after")).to_be_visible()
        disconnected(stage, before=0)
        ask(page, "Leaving the page hangs up, too. " * 100)
        expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    disconnected(stage, before=1)


def disconnected(stage: Stage, before: int) -> None:
    """The server counts one more request whose caller went away, within its time."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        lines = stage.metrics()
        found = [line for line in lines if line.startswith("ponder_requests_total") and "disconnected" in line]
        if sum(float(line.rpartition(" ")[2]) for line in found) > before:
            return
        time.sleep(0.1)
    raise AssertionError("the server did not notice the hang-up")


def test_a_hostile_answer_is_text(stage: Stage) -> None:
    """The model says what it was asked, word for word."""
    with stage.visit() as page:
        ask(page, HOSTILE)
        expect(page.get_by_text("it finished")).to_be_visible()
        answer = page.locator(".prose")
        expect(answer).to_contain_text("<img src=x onerror=")
        assert answer.locator("img, script, svg, iframe").count() == 0
        assert answer.locator("a").evaluate_all("all => all.map(one => one.href)") == ["http://203.0.113.1/cat.png"]
        assert "owned" not in page.title()


def test_four_plans_are_compared_and_again_with_another_seed(stage: Stage) -> None:
    with stage.visit("/compare") as page:
        page.get_by_role("button", name="Add a plan").click()
        page.get_by_role("button", name="Add a plan").click()
        expect(page.get_by_role("button", name="Add a plan")).to_be_disabled()
        page.get_by_label(QUESTION, exact=True).fill("What is 3 + 4? It is \\boxed{7}.")
        page.get_by_role("button", name="Ask all").click()
        rows = page.locator("table tbody tr")
        expect(rows).to_have_count(4)
        plans = rows.evaluate_all("all => all.map(one => one.cells[1].textContent)")
        assert plans == [f"{name}, 512 tokens" for name in ("direct", "majority_vote", "best_of_n", "beam_search")]
        cells = rows.nth(1).locator("td").all_inner_texts()
        assert cells[3] == "100 %"
        assert re.fullmatch(r"[\d\u2009]+ tokens", cells[4])
        assert re.fullmatch(r"0\.\d+ USD", cells[6])
        assert re.fullmatch(r"[\d.]+ m?s", cells[7])
        page.get_by_role("button", name="Again with another seed").click()
        expect(rows).to_have_count(8)
        seeds = rows.evaluate_all("all => all.map(one => one.cells[8].textContent)")
        assert seeds[4:] == ["1"] * 4
        assert seeds[0] != "1"


def test_the_keyboard_alone_asks(stage: Stage) -> None:
    """From the top: past the navigation with the skip link, into the question, and off with Ctrl + Enter."""
    with stage.visit() as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "To the content"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == QUESTION
        page.keyboard.type("By keys alone?")
        page.keyboard.press("Control+Enter")
        expect(page.get_by_text("it finished")).to_be_visible()
