"""Keys are made, shown once, changed, revoked: what the page says is true at the server."""

from __future__ import annotations

import httpx

from tests.console.stage import Stage


def works(stage: Stage, key: str) -> int:
    return httpx.get(f"{stage.server}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code


def test_a_key_is_made_and_used_and_revoked_and_refused(stage: Stage) -> None:
    with stage.visit("/keys") as page:
        page.fill("input[aria-label='Name']", "page-made")
        page.click(".limits .q-item")
        page.fill("input[aria-label^='Thinking tokens a day']", "5000")
        page.click("button:has-text('Make the key')")
        secret = page.locator(".secret code").inner_text()
        assert secret.startswith("pk-")
        assert works(stage, secret) == 200
        line = page.locator("tbody tr:has-text('page-made')")
        line.wait_for()
        assert "thinking tokens per day: 0 tokens of 5\u2009000 tokens" in line.inner_text()
        stage.go(page, "/keys")
        assert secret not in page.content(), "it is shown once"

        page.click("button[aria-label='Limits of page-made']")
        page.fill(".q-dialog input[aria-label^='Thinking tokens a day']", "700")
        page.click("text=Keep these")
        page.locator("tbody tr:has-text('of 700 tokens')").wait_for()
        (kept,) = [one for one in stage.ask("GET", "/v1/keys")["data"] if one["name"] == "page-made"]
        assert kept["limits"] == {"thinking_tokens_per_day": 700}

        page.click("button[aria-label='Revoke page-made']")
        page.click("text=Revoke it")
        page.locator("tbody tr:has-text('page-made'):has-text('revoked')").wait_for()
        assert works(stage, secret) == 401


def test_what_the_server_refuses_is_said_in_its_words(stage: Stage) -> None:
    with stage.visit("/keys") as page:
        page.fill("input[aria-label='Name']", "test")
        page.click("button:has-text('Make the key')")
        page.wait_for_selector("[role=alert]")
        assert "a key of the configuration has this name" in page.inner_text("[role=alert]")


def test_a_key_that_may_not_make_keys_is_told_so(stage: Stage) -> None:
    made = stage.ask("POST", "/v1/keys", {"name": "no-admin"})
    with stage.visit("/keys", key=made["key"]) as page:
        page.wait_for_selector("[role=alert]")
        assert "has not the scope admin" in page.inner_text("[role=alert]")
