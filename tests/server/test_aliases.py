"""A model under several names: one model to keys, prices and metrics, whichever name it was asked by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from ponder.server.settings import Settings
from ponder.testing.scripted import CARD
from tests.server.serving import answered, ask, chat, counted, door, refused, scripted

NAMES = ["gpt-4o-mini", "house/best"]


def named(settings: Settings | None = None) -> Any:
    return door(scripted(card=replace(CARD, name="demo")), settings, aliases=NAMES)


def ids(app: Any) -> list[str]:
    return [one["id"] for one in ask(app, "GET", "/v1/models").json()["data"]]


def test_a_model_is_asked_by_all_its_names_and_counted_by_its_own() -> None:
    app = named()
    for name in ("demo", *NAMES, "gpt-4o-mini:majority_vote"):
        assert answered(app, model=name)["model"] == name
    assert counted(app, 'ponder_requests_total{model="demo"}') == 4
    assert counted(app, "ponder_requests_total") == 4


def test_all_names_are_listed_and_strategies_behind_them() -> None:
    app = named()
    listed = ids(app)
    assert listed[:3] == ["demo", *NAMES]
    assert all(one.startswith("demo:") for one in listed[3:])
    for name in (*listed, "house/best:revision"):
        assert ask(app, "GET", f"/v1/models/{name}").json()["id"] == name


def test_strategies_need_not_be_listed_to_be_asked_for() -> None:
    app = named(Settings(list_strategies=False))
    assert ids(app) == ["demo", *NAMES]
    assert answered(app, model="demo:majority_vote")["thinking"]["strategy"] == "majority_vote"
    assert ask(app, "GET", "/v1/models/demo:direct").status_code == 200


def test_a_name_that_nobody_has_is_none() -> None:
    refused(chat(named(), model="gpt-4o"), 404, code="model_not_found")
    refused(chat(named(), model="gpt-4o:direct"), 404, code="model_not_found")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"models": {"a": {"path": "x", "aliases": ["b"]}, "b": {"path": "y"}}}, "two models are called b"),
        ({"models": {"a": {"path": "x", "aliases": ["c", "c"]}}}, "two models are called c"),
        ({"models": {"a": {"path": "x", "adapters": {"c": "z"}, "aliases": ["c"]}}}, "two models are called c"),
        ({"models": {"a": {"path": "x", "aliases": ["c:d"]}}}, "cannot be a name"),
        ({"models": {"a": {"path": "x"}}, "aliases": ["c"]}, "stand in the table of their model"),
    ],
)
def test_names_that_do_not_fit_together_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings(**given)


def test_the_one_model_may_have_other_names() -> None:
    (model,) = Settings(model="demo", aliases=["x"]).served().values()
    assert model.aliases == ["x"]
