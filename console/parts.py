"""What pages are put together from: panels, figures with units, empty states, tables, forms with labels."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

__all__ = ["Text", "button", "empty", "figure", "figures", "headed", "panel", "problem", "table", "text"]


def panel(title: str = "", says: str = "") -> ui.element:
    """A bordered part of a page, with a heading where it has a title. Used in a `with`."""
    whole = ui.element("section").classes("panel")
    with whole:
        if title:
            text(title, "h2")
        if says:
            text(says, "p").classes("says")
    return whole


class Text(TextElement):
    """Words in an element of HTML. Nothing in them is markup; `set_text` changes them."""

    def __init__(self, words: str, tag: str = "span") -> None:
        super().__init__(tag=tag, text=words)


def text(words: str, tag: str = "span") -> Text:
    """`Text`, in the words of this file."""
    return Text(words, tag)


def empty(words: str) -> Text:
    """What stands where there is nothing yet: why, and what would bring something."""
    said = text(words, "p")
    said.classes("empty")
    return said


def figures() -> ui.element:
    """A row of figures. Used in a `with`."""
    return ui.element("dl").classes("figures")


def figure(name: str, value: str) -> Text:
    """A figure of a row: its name, and a value with its unit, as `units` writes it. Gives the element of the value, to
    be changed by `set_text`."""
    with ui.element("div"):
        text(name, "dt")
        return text(value, "dd")


@contextmanager
def headed(says: str, columns: Sequence[str], numbers: Sequence[int] = ()) -> Generator[ui.element]:
    """A table without lines, which are made within the block; what is around it, which scrolls in itself where it is
    wide. Screen readers read it as one. `says` is its caption, `numbers` are the places of columns set to the right."""
    around = ui.element("div").classes("scrolls").props('tabindex="0" role="region"')
    around.props["aria-label"] = says
    with around, ui.element("table").classes("table"):
        text(says, "caption")
        with ui.element("thead"), ui.element("tr"):
            for place, name in enumerate(columns):
                text(name, "th").props('scope="col"').classes("number" if place in numbers else "")
        with ui.element("tbody"):
            yield around


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], says: str, numbers: Sequence[int] = ()) -> ui.element:
    """A plain table of texts; `says` and `numbers` are as for `headed`."""
    with headed(says, columns, numbers) as around:
        for row in rows:
            with ui.element("tr"):
                for place, value in enumerate(row):
                    text(value, "td").classes("number" if place in numbers else "")
    return around


def button(words: str, on_click: Callable[..., Any] | None = None, *, main: bool = False) -> ui.button:
    """A button; the `main` one of a page is filled."""
    made = ui.button(words, on_click=on_click, color=None).props("flat no-caps")
    return made.classes("main" if main else "second")


def problem(words: str) -> ui.element:
    """An error, in the page and read out."""
    with ui.element("div").props('role="alert"').classes("problem") as around:
        ui.icon("error_outline").props('aria-hidden="true"')
        text(words)
    return around
