"""Playground."""

from __future__ import annotations

from ponder.console.page import Page, Visit
from ponder.console.parts import empty

__all__ = ["PAGE"]


async def _build(visit: Visit) -> None:
    empty("Nothing was asked yet.")


PAGE = Page("/", "Playground", _build, icon="forum")
