"""The pages, in the order of the navigation: each is one file, and stands in this table."""

from __future__ import annotations

from collections.abc import Sequence

from ponder.console.page import Page
from ponder.console.pages import compare, cost, evaluate, keys, operations, playground, requests

__all__ = ["PAGES"]

PAGES: Sequence[Page] = (
    playground.PAGE,
    compare.PAGE,
    requests.PAGE,
    requests.TREE,
    evaluate.PAGE,
    cost.PAGE,
    operations.PAGE,
    keys.PAGE,
)
