"""What stands before the pages: who is signed in, which names and origins are answered, what a browser may load."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from ponder.console.api import Api
from ponder.console.guard import HEADERS
from ponder.console.sessions import COOKIE, Full, Sessions
from tests.console.stage import KEY, Stage

FOREIGN = "http://elsewhere.example"


@contextmanager
def signed_in(stage: Stage) -> Generator[httpx.Client]:
    with httpx.Client(base_url=stage.console) as client:
        assert client.post("/login", data={"key": KEY}, headers={"origin": stage.console}).status_code == 303
        yield client


def test_a_page_runs_its_own_scripts_alone_and_is_in_no_frame(stage: Stage) -> None:
    with signed_in(stage) as client:
        pages = [client.get("/") for _ in range(2)]
    nonces = set[str]()
    for page in pages:
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        (nonce,) = re.findall(r"'nonce-([\w-]{24})'", policy["script-src"])
        nonces.add(nonce)
        assert policy == {
            "default-src": "'none'",
            "script-src": f"'self' 'nonce-{nonce}' 'unsafe-eval'",
            "style-src": "'self' 'unsafe-inline'",
            "img-src": "'self' data:",
            "font-src": "'self'",
            "connect-src": "'self'",
            "form-action": "'self'",
            "base-uri": "'none'",
            "frame-ancestors": "'none'",
            "object-src": "'none'",
        }
        assert {name: page.headers[name] for name in HEADERS} == HEADERS
        scripts = re.findall(r"<script\b[^>]*", page.text)
        assert scripts
        assert all(f'nonce="{nonce}"' in one for one in scripts)
        assert KEY not in page.text
        assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page.text)
    assert len(nonces) == 2


def test_signing_in_runs_no_script_at_all(stage: Stage) -> None:
    page = httpx.get(f"{stage.console}/login")
    assert "script-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text


def test_the_browser_has_an_id_and_nothing_else(stage: Stage) -> None:
    with stage.visit() as page:
        cookie: dict[str, Any]
        (cookie,) = [dict(one) for one in page.context.cookies()]
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == (COOKIE, True, "Strict")
        assert cookie["expires"] == -1
        assert len(cookie["value"]) >= 43
        kept = json.loads(page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])"))
        assert kept[0] == {}
        assert kept[1].keys() <= {"__nicegui_tab_id", "__nicegui_tab_closed"}
        assert page.evaluate("document.cookie") == ""
        assert KEY not in page.content()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": FOREIGN},
        {"origin": "null"},
        {"origin": "OWN", "sec-fetch-site": "cross-site"},
        {"origin": "OWN.elsewhere.example"},
    ],
    ids=str,
)
def test_a_form_of_another_site_changes_nothing(stage: Stage, headers: dict[str, str]) -> None:
    told = {name: value.replace("OWN", stage.console) for name, value in headers.items()}
    with signed_in(stage) as client:
        for path in ("/login", "/logout"):
            assert client.post(path, data={"key": KEY}, headers=told).status_code == 403
        assert client.get("/").status_code == 200


def test_a_name_that_is_not_its_own_is_not_answered(stage: Stage) -> None:
    """A name that somebody else has pointed here would be an origin of theirs."""
    port = stage.console.rpartition(":")[2]
    with signed_in(stage) as client:
        for host, status in ((f"elsewhere.example:{port}", 421), (f"localhost:{port}", 200), (f"[::1]:{port}", 200)):
            assert client.get("/", headers={"host": host}).status_code == status


def test_a_socket_is_for_pages_of_who_is_signed_in(stage: Stage) -> None:
    address = stage.console.replace("http", "ws", 1) + "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    with signed_in(stage) as client:
        own = {"cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        with connect(address, origin=Origin(stage.console), additional_headers=own) as socket:
            assert str(socket.recv(10)).startswith("0{")
        for origin, headers in (
            (FOREIGN, own),
            ("null", own),
            (stage.console, {}),
            (stage.console, {"cookie": COOKIE}),
        ):
            with pytest.raises(InvalidStatus, match="403"), asks(address, origin, headers):
                pass
        polled = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
        assert client.get(polled).status_code == 404


def test_signing_out_ends_the_session_in_all_its_pages(stage: Stage) -> None:
    with stage.visit() as page:
        other = page.context.new_page()
        stage.go(other, "/compare")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/login")
        other.wait_for_url("**/login")
        page.goto(stage.console)
        assert page.url.endswith("/login")


def test_a_key_the_server_does_not_know_begins_no_session(stage: Stage) -> None:
    with httpx.Client(base_url=stage.console) as client:
        for key, status in (("sk-wrong", 401), ("ключ", 400), ("x" * 5000, 413)):
            answer = client.post("/login", data={"key": key}, headers={"origin": stage.console})
            assert answer.status_code == status
            assert COOKIE not in client.cookies
            assert key not in answer.text


def test_colours_are_as_chosen_on_every_page(stage: Stage) -> None:
    with stage.visit() as page:
        page.get_by_role("button", name="as the system has them").click()
        page.get_by_role("button", name="Colours: light").click()
        expect(page.locator("body.body--dark")).to_be_attached()
        stage.go(page, "/compare")
        expect(page.locator("body.body--dark")).to_be_attached()


def asks(address: str, origin: str, headers: dict[str, str]) -> ClientConnection:
    return connect(address, origin=Origin(origin), additional_headers=headers)


def told(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On a loop in another thread: Playwright has one in this."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(story())).result()


class Watched(Api):
    """Tells whether it was closed."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", "sk-secret")
        self.closed = False

    async def close(self) -> None:
        self.closed = True
        await super().close()


def test_who_does_nothing_is_signed_out_and_the_key_forgotten() -> None:
    now, left = [0.0], list[bool]()

    async def story() -> None:
        sessions = Sessions(2, 100, lambda: now[0])
        api = Watched()
        one = await sessions.begin(api, "one")
        one.leave[1] = lambda: left.append(True)
        now[0] = 90
        sessions.touch(one)
        now[0] = 180
        assert sessions.of(one.id) is one
        now[0] = 191
        assert sessions.of(one.id) is None
        await sessions.tidy()
        assert (left, api.closed, one.over, len(sessions)) == ([True], True, True, 0)

    told(story)


def test_there_are_only_so_many_and_who_waits_longest_goes_first() -> None:
    now = [0.0]

    async def story() -> None:
        sessions = Sessions(2, 1000, lambda: now[0])
        first = await sessions.begin(Watched(), "first")
        now[0] = 30
        second = await sessions.begin(Watched(), "second")
        with pytest.raises(Full, match="2 sessions are open"):
            await sessions.begin(Watched(), "third")
        now[0] = 61
        third = await sessions.begin(Watched(), "third")
        assert [sessions.of(one.id) for one in (first, second, third)] == [None, second, third]
        assert len({first.id, second.id, third.id}) == 3

    told(story)
