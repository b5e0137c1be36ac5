"""Keys: which there are and what each may; made, changed and revoked. For keys with the scope `admin`."""

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from nicegui import ui

from ponder.clients.answers import AskError
from ponder.console import limits as shown_limits
from ponder.console import units
from ponder.console.frame import telling
from ponder.console.page import Page, Visit
from ponder.console.parts import button, empty, panel, text

__all__ = ["PAGE"]

SCOPES = {
    "infer": "ask models",
    "usage": "read what it used",
    "trace": "see the calls of its requests",
    "reveal": "see thoughts",
    "metrics": "read /metrics",
    "admin": "run the server",
}
LIMITS = {
    "thinking_tokens_per_minute": "Thinking tokens a minute",
    "thinking_tokens_per_day": "Thinking tokens a day",
    "thinking_tokens_per_month": "Thinking tokens a month",
    "usd_per_month": "USD a month",
    "max_inflight": "Requests at the same time",
    "max_thinking_budget": "Highest budget of a request, in tokens",
}
"""Limits that are numbers; those that are not shown here are left as they are."""
MOST = 1000
"""Keys that are shown."""

Key = Mapping[str, Any]
Reload = Callable[[], Awaitable[None]]


async def _keys(visit: Visit) -> None:
    place = ui.element("div").classes("stack")

    async def load() -> None:
        async with telling(place):
            page = await visit.api.get("/v1/keys", limit=MOST)
            near = await _near(visit)
            with place:
                _list(visit, page["data"], near, load)
                if page["has_more"]:
                    text(f"The first {units.whole(MOST)} keys are shown.", "p").classes("says")

    with panel("Make a key", "Its secret is shown once and kept nowhere."):
        _maker(visit, load)
    await load()


async def _near(visit: Visit) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Limits by the names of their keys; none where this key may not read them."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    try:
        told = (await visit.api.get("/v1/limits"))["data"]
    except AskError:
        return found
    for one in told:
        found.setdefault(one["key"], []).append(one)
    return found


# -- making ------------------------------------------------------------------------------------------------------------


def _maker(visit: Visit, load: Reload) -> None:
    with ui.element("div").classes("grid"):
        name = ui.input("Name").props("outlined dense autocomplete=off")
        owner = ui.input("Owner: a person, a team").props("outlined dense autocomplete=off")
        days = ui.number("Days until it ends; empty: never", min=1, precision=0).props("outlined dense")
    scopes = _scopes(("infer", "usage"))
    with ui.expansion("Limits").classes("limits"), ui.element("div").classes("grid"):
        limits = _limits({})
    said = ui.element("div").classes("stack").props('aria-live="polite"')

    async def make() -> None:
        async with telling(said):
            wish: dict[str, Any] = {"name": name.value or "", "scopes": _chosen(scopes), "limits": _given(limits)}
            if owner.value:
                wish["owner"] = owner.value
            if days.value:
                wish["expires_at"] = int(datetime.now(UTC).timestamp() + 86_400 * days.value)
            made = await visit.api.send("POST", "/v1/keys", wish)
            with said:
                _secret(made)
            name.value = ""
            await load()

    button("Make the key", make, main=True)


def _scopes(chosen: Sequence[str]) -> Mapping[str, ui.checkbox]:
    with ui.element("fieldset").classes("scopes"):
        text("What it may do", "legend")
        return {one: ui.checkbox(f"{one}: {says}", value=one in chosen) for one, says in SCOPES.items()}


def _chosen(scopes: Mapping[str, ui.checkbox]) -> list[str]:
    return [name for name, box in scopes.items() if box.value]


def _limits(values: Mapping[str, Any]) -> Mapping[str, ui.number]:
    return {
        name: ui.number(
            f"{says}; empty: no limit",
            value=None if values.get(name) is None else float(values[name]),
            min=0,
            precision=9 if name == "usd_per_month" else 0,
        ).props("outlined dense")
        for name, says in LIMITS.items()
    }


def _given(limits: Mapping[str, ui.number], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The limits as they stand in the fields, and those of `before` that have no field."""
    found = {name: value for name, value in (before or {}).items() if name not in LIMITS}
    for name, field in limits.items():
        if field.value is not None:
            found[name] = f"{field.value:.9f}".rstrip("0").rstrip(".") if name == "usd_per_month" else int(field.value)
    return found


def _secret(made: Key) -> None:
    """Shown once: no other page, and no server, has it afterwards."""
    with ui.element("div").classes("secret"):
        text(f"The secret of {made['name']}. It is not shown again: copy it now.", "p")
        with ui.element("div").classes("line"):
            text(made["key"], "code").props('tabindex="0"')
            button("Copy", lambda: ui.clipboard.write(made["key"])).props("icon=content_copy")


# -- the list ----------------------------------------------------------------------------------------------------------


def _list(visit: Visit, keys: Sequence[Key], near: Mapping[str, Sequence[Mapping[str, Any]]], load: Reload) -> None:
    if not keys:
        with panel():
            empty("This server has no keys: anybody on its machine may ask. `ponder keys create NAME --scopes admin`.")
        return
    with panel("Keys", "Those of the configuration are changed there."):
        said = ui.element("div").classes("stack").props('aria-live="polite"')
        around = ui.element("div").classes("scrolls").props('tabindex="0" role="region" aria-label="Keys"')
        with around, ui.element("table").classes("table"):
            text("Keys of the configuration, then those of the ledger", "caption")
            with ui.element("thead"), ui.element("tr"):
                for column in ("Name", "Owner", "Status", "May", "Limits", "Ends", "Change"):
                    text(column, "th").props('scope="col"')
            with ui.element("tbody"):
                for key in keys:
                    _row(visit, key, near.get(key["name"], ()), said, load)


def _row(visit: Visit, key: Key, near: Sequence[Mapping[str, Any]], said: ui.element, load: Reload) -> None:
    with ui.element("tr").classes("" if key["status"] == "active" else "gone"):
        with ui.element("th").props('scope="row"'):
            text(key["name"])
        text(key["owner"] or "", "td")
        text(key["status"], "td")
        text(", ".join(key["scopes"]), "td")
        with ui.element("td").classes("wide-cell"):
            for limit in near:
                used, most = (
                    shown_limits.amount(limit["used"], limit["unit"]),
                    shown_limits.amount(limit["limit"], limit["unit"]),
                )
                said_ = f"{shown_limits.named(limit)}: {used} of {most}, {units.percent(limit['share'])}"
                text(said_, "div").classes("near" if limit["share"] >= 0.8 else "")
            told = {one["name"] for one in near}
            for name, value in key["limits"].items():
                if name not in told:
                    text(f"{name.replace('_', ' ')}: {_shown(value)}", "div")
        text(_until(key), "td")
        with ui.element("td"):
            if key["source"] == "ledger" and key["status"] != "revoked":
                with ui.element("div").classes("line"):
                    _button(f"Limits of {key['name']}", "Limits", lambda: _change(visit, key, said, load))
                    _button(f"Revoke {key['name']}", "Revoke", lambda: _revoke(visit, key, said, load))
            elif key["source"] == "configuration":
                text("in the configuration").classes("tag")


def _shown(value: object) -> str:
    return ", ".join(map(str, cast("list[object]", value))) if isinstance(value, list) else str(value)


def _button(label: str, shown: str, act: Callable[[], None]) -> None:
    made = button(shown, act).props("dense").classes("small")
    made.props["aria-label"] = label


def _until(key: Key) -> str:
    at = key["revoked_at"] or key["expires_at"]
    if at is None:
        return "never"
    word = "revoked " if key["revoked_at"] else ""
    return f"{word}{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _revoke(visit: Visit, key: Key, said: ui.element, load: Reload) -> None:
    async def end() -> None:
        dialog.close()
        async with telling(said):
            await visit.api.send("DELETE", f"/v1/keys/{key['id']}")
            await load()

    with said, ui.dialog() as dialog, ui.card():
        text(f"Revoke {key['name']}?", "h2")
        text("Whoever uses it is refused within a second, for ever: a key that was revoked does not come back.", "p")
        with ui.element("div").classes("line"):
            button("Keep it", dialog.close)
            button("Revoke it", end, main=True)
    dialog.open()


def _change(visit: Visit, key: Key, said: ui.element, load: Reload) -> None:
    async def keep() -> None:
        wish = _given(fields, key["limits"])
        dialog.close()
        async with telling(said):
            await visit.api.send("POST", f"/v1/keys/{key['id']}", {"limits": wish})
            await load()

    with said, ui.dialog() as dialog, ui.card().classes("wide"):
        text(f"Limits of {key['name']}", "h2")
        fields = _limits(key["limits"])
        with ui.element("div").classes("line"):
            button("Leave them", dialog.close)
            button("Keep these", keep, main=True)
    dialog.open()


PAGE = Page("/keys", "Keys", _keys, says="Who may ask, for what, and how much.", icon="key")
