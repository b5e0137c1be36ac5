"""Tables whose lines lead to pages of their own."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui

from ponder.console.parts import text

__all__ = ["linked"]


def linked(
    says: str, columns: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]], numbers: Sequence[int] = ()
) -> None:
    """A table as `parts.table` makes one. Each line is an address within the console and the texts of its cells, of
    which the first is the link."""
    around = ui.element("div").classes("scrolls").props('tabindex="0" role="region"')
    around.props["aria-label"] = says
    with around, ui.element("table").classes("table"):
        text(says, "caption")
        with ui.element("thead"), ui.element("tr"):
            for place, name in enumerate(columns):
                text(name, "th").props('scope="col"').classes("number" if place in numbers else "")
        with ui.element("tbody"):
            for address, values in lines:
                with ui.element("tr"):
                    with ui.element("td"):
                        link = ui.element("a").classes("id")
                        link.props["href"] = address
                        with link:
                            text(values[0])
                    for place, value in enumerate(values[1:], 1):
                        text(value, "td").classes("number" if place in numbers else "")
