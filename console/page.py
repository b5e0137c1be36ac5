"""What a page is: a path, what the navigation calls it, and a function that builds it for one visit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ponder.console.api import Api
from ponder.console.sessions import Session


@dataclass(frozen=True)
class Visit:
    """One page open in one browser."""

    session: Session
    path: dict[str, str]
    """The variables of its path."""
    query: dict[str, str]

    @property
    def api(self) -> Api:
        """The server, asked with the key of who looks at the page."""
        return self.session.api


@dataclass(frozen=True)
class Page:
    """One page. `path` begins with `/` and may have variables: `/traces/{id}`."""

    path: str
    title: str
    build: Callable[[Visit], Awaitable[None]]
    says: str = ""
    """A line below its title."""
    icon: str = ""
    """The name of a Material icon, in the navigation."""
    listed: bool = True
    """It is in the navigation; the page of one thing among many is not."""
