"""Tables whose lines lead to pages of their own."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui

from ponder.console.parts import headed, text

__all__ = ["linked"]


def linked(
    says: str, columns: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]], numbers: Sequence[int] = ()
) -> None:
    """A table as `parts.table` makes one. Each line is an address within the console and the texts of its cells, of
    which the first is the link."""
    with headed(says, columns, numbers):
        for address, values in lines:
            with ui.element("tr"):
                with ui.element("td"):
                    link = ui.element("a").classes("id")
                    link.props["href"] = address
                    with link:
                        text(values[0])
                for place, value in enumerate(values[1:], 1):
                    text(value, "td").classes("number" if place in numbers else "")
