"""The page of operations says of the server what its health page and its metrics say."""

from __future__ import annotations

import httpx

from ponder.console.metrics import series
from tests.console.stage import KEY, Stage


def test_models_errors_and_the_drift_of_the_meter_are_those_of_the_server(stage: Stage) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    asked = {"model": "nobody", "messages": [{"role": "user", "content": "?"}]}
    assert httpx.post(f"{stage.server}/v1/chat/completions", headers=headers, json=asked).status_code == 404
    health = stage.ask("GET", "/healthz")
    with stage.visit("/operations") as page:
        page.wait_for_selector("caption:has-text('Engines of this server')")
        whole = page.inner_text("main")
        assert "All is well" in whole
        assert health["version"] in whole
        assert "0 tokens" in whole
        engines = page.locator("table:has(caption:has-text('Engines')) tbody tr").all_inner_texts()
        assert len(engines) == 2
        assert engines[0].startswith("demo\tup\t0 times")
        told = {one["code"]: one["count"] for one in health["errors"]}
        line = page.locator("table:has(caption:has-text('Errors')) tbody tr:has-text('model_not_found')").inner_text()
        assert "HTTP 404" in line
        assert f"{told['model_not_found']} time" in line


def test_series_are_read_with_their_labels_whatever_stands_in_them() -> None:
    text = 'a{x="1",y="b \\" c"} 2.5\na 3\nab{x="1"} 4\n'
    assert series(text, "ab") == [({"x": "1"}, 4.0)]
    assert series(text, "a") == [({"x": "1", "y": 'b \\" c'}, 2.5), ({}, 3.0)]


def test_a_key_without_the_scope_is_told_so(stage: Stage) -> None:
    made = stage.ask("POST", "/v1/keys", {"name": "not-ops"})
    with stage.visit("/operations", key=made["key"]) as page:
        page.wait_for_selector("[role=alert]")
        assert "has not the scope admin" in page.inner_text("[role=alert]")
