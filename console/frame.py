"""What is around every page: navigation, light and dark, signing out, and errors in the server's words."""

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from nicegui import Client, ui

from ponder.clients.answers import AskError
from ponder.console.api import words
from ponder.console.page import Page, Visit
from ponder.console.parts import problem, text
from ponder.console.sessions import Session, Sessions

__all__ = ["guarded", "register", "telling"]

_HEAD = '<link rel="stylesheet" href="/console.css">'


def register(page: Page, pages: Sequence[Page], sessions: Sessions) -> None:
    """Makes NiceGUI serve a page."""

    async def show(request: Request) -> Response | None:
        session: Session | None = getattr(request.state, "session", None)
        if session is None:
            return RedirectResponse("/login", 303)
        client = ui.context.client
        session.leave[id(client)] = lambda: client.open("/login")
        client.on_delete(lambda: session.leave.pop(id(client), None))
        ui.add_head_html(_HEAD)
        visit = Visit(session, dict(request.path_params), dict(request.query_params))
        main = _around(page, pages, session)
        with main:
            await guarded(client, lambda: page.build(visit))
        return None

    # The annotations are strings here, and FastAPI looks them up among the names of this module.
    ui.page(page.path, title=f"{page.title} · Ponder console", response_timeout=20.0)(show)


def _around(page: Page, pages: Sequence[Page], session: Session) -> ui.element:
    """The header, the navigation and the place for what a page has."""
    dark = ui.dark_mode(session.dark)
    ui.html('<a class="skip" href="#main">To the content</a>', sanitize=False)
    listed = [one for one in pages if one.listed]
    with ui.element("header").classes("top"):
        with ui.element("a").props('href="/" aria-label="Ponder console, first page"').classes("brand"):
            ui.html("Ponder <span>console</span>", sanitize=False)
        with ui.element("nav").props('aria-label="Pages"').classes("nav"):
            for one in listed:
                link = ui.element("a").props(f'href="{one.path}"')
                if one is page:
                    link.props('aria-current="page"')
                with link:
                    ui.icon(one.icon).props('aria-hidden="true"')
                    text(one.title)
        with ui.element("div").classes("who"):
            text(session.named).classes("named")
            _dark_switch(dark, session)
            ui.html(
                '<form method="post" action="/logout"><button class="plain" title="Sign out" aria-label="Sign out">'
                '<i class="material-icons" aria-hidden="true">logout</i></button></form>',
                sanitize=False,
            )
    # NiceGUI's page is in an element `main` already.
    main = ui.element("div").props('id="main" tabindex="-1"').classes("page")
    with main:
        text(page.title, "h1")
        if page.says:
            text(page.says, "p").classes("says")
    return main


def _dark_switch(dark: ui.dark_mode, session: Session) -> None:
    """As the system has it, light, dark: in turn."""
    order: dict[bool | None, tuple[bool | None, str, str]] = {
        None: (False, "brightness_auto", "Colours: as the system has them"),
        False: (True, "light_mode", "Colours: light"),
        True: (None, "dark_mode", "Colours: dark"),
    }

    def show() -> None:
        _, icon, says = order[session.dark]
        button.props(f'icon={icon} aria-label="{says}" title="{says}"')

    def turn() -> None:
        session.dark = order[session.dark][0]
        dark.value = session.dark
        show()

    button = ui.button(on_click=turn).props("flat dense round").classes("quiet")
    show()


@asynccontextmanager
async def telling(place: ui.element) -> AsyncGenerator[None]:
    """What goes wrong in here is said in `place`, which is cleared first: the server's own words."""
    place.clear()
    try:
        yield
    except AskError as error:
        with place:
            problem(words(error))


async def guarded(client: Client, build: Callable[[], Awaitable[Any]]) -> None:
    """Builds a page, or says why the server refused what it needs."""
    try:
        await build()
    except AskError as error:
        problem(words(error))
