"""No way in: every route, with every key that must not open it, by every name a request can be sent to; and no key in
what comes back, in the log or in the metrics."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import Route

from ponder.server.auth.access import AuthenticatedRoute
from ponder.server.auth.keys import digest
from ponder.server.http.hosts import Hosts
from ponder.server.pages import Page
from ponder.server.settings import KeySettings, Scope, Settings
from tests.server.keyed import ROOT, Keyed, keyed
from tests.server.serving import ASK, refused

OPEN = {"/livez", "/readyz", "/health"}
"""Routes for everybody."""
NEEDED: dict[str, Scope] = {
    "/v1/chat/completions": "infer",
    "/v1/messages": "infer",
    "/v1/messages/count_tokens": "infer",
    "/v1/completions": "infer",
    "/v1/responses": "infer",
    "/v1beta/models/{model:path}:generateContent": "infer",
    "/v1beta/models/{model:path}:streamGenerateContent": "infer",
    "/v1beta/models/{model:path}:countTokens": "infer",
    "/v1/models/{model:path}:generateContent": "infer",
    "/v1/models/{model:path}:streamGenerateContent": "infer",
    "/v1/models/{model:path}:countTokens": "infer",
    "/v1beta/models": "infer",
    "/v1beta/models/{id:path}": "infer",
    "/v1/models": "infer",
    "/v1/models/{id:path}": "infer",
    "/v1/strategies": "infer",
    "/v1/traces": "trace",
    "/v1/traces/{id}": "trace",
    "/v1/usage": "usage",
    "/v1/limits": "usage",
    "/v1/requests": "trace",
    "/v1/requests/{id}/events": "trace",
    "/v1/usage/requests": "usage",
    "/v1/usage/{id}": "usage",
    "/v1/receipts/{id}": "usage",
    "/v1/receipts/key": "infer",
    "/v1/organization/usage/completions": "usage",
    "/v1/organization/costs": "usage",
    "/v1/keys": "admin",
    "/v1/keys/{id}": "admin",
    "/v1/keys/{id}/rotate": "admin",
    "/v1/reload": "admin",
    "/v1/responses/input_tokens": "infer",
    "/v1/responses/{id}": "infer",
    "/v1/responses/{id}/cancel": "infer",
    "/v1/responses/{id}/input_items": "infer",
    "/healthz": "admin",
    "/metrics": "metrics",
    "/metrics/engine": "metrics",
    "/openapi.json": "infer",
}
"""Routes for keys, and the scope each wants: written down here by hand, so that a change of one is seen."""
WANTED: dict[str, tuple[str, ...]] = {"admin": ("admin",), "metrics": ("metrics", "admin")}
"""Scopes that open a route which wants one; left out: that one alone."""
SCOPES: tuple[Scope, ...] = ("infer", "usage", "metrics", "admin", "reveal", "trace")
HOSTILE = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "admin", "")
EACH = [KeySettings(name=f"only-{scope}", hash=digest(f"pk-{scope}"), scopes=frozenset({scope})) for scope in SCOPES]
SPOILT = ("pk-nobody", "pk-", "x" * 600, "pk-root ", "\u00ff", "null", "' OR 1=1 --", digest("pk-root"))
"""What no server has given anybody. (One with a space at its end is trimmed, as the header's rules are.)"""


def routes(on: Keyed) -> Iterator[tuple[str, str, str | None]]:
    """Every route: a method, its path, the scope it says it wants."""
    for route in on.app.router.routes:
        assert isinstance(route, Route)
        if isinstance(route, Page):
            scope = None if route.needs is None else route.needs.scope
        else:
            assert isinstance(route.app, AuthenticatedRoute)
            scope = route.app.scope
        for method in sorted(route.methods or ()):
            yield method, route.path, scope


def sent(method: str, path: str) -> dict[str, Any]:
    """What a request to a route has that does no harm where it is let in."""
    if path == "/v1/chat/completions":
        return {"json": ASK}
    return {"json": {}} if method == "POST" else {}


def url_of(path: str) -> str:
    return re.sub(r"\{id(:path)?\}", "demo", path)


async def answer(on: Keyed, secret: str | None, method: str, path: str, **headers: str) -> Any:
    wire = {"authorization": f"Bearer {secret}".encode("latin-1")} if secret is not None else {}
    return await on.ask(None, method, url_of(path), headers={**wire, **headers}, **sent(method, path))


def test_every_route_wants_the_scope_that_is_written_here(tmp_path: Any) -> None:
    async def go() -> None:
        async with keyed(f"sqlite:///{tmp_path}/ledger.db") as on:
            found = {path: scope for _, path, scope in routes(on)}
            assert {path for path, scope in found.items() if scope is None} == OPEN
            assert {path: scope for path, scope in found.items() if scope is not None} == NEEDED

    asyncio.run(go())


def test_nobody_gets_in_who_should_not(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Settings(keys=[ROOT, *EACH], access_log=True)

    async def go() -> None:
        now = time.time()
        async with keyed(f"sqlite:///{tmp_path}/ledger.db", settings, clock=lambda: now) as on:
            every: dict[str, Any] = {"scopes": ["infer", "usage", "metrics", "admin"]}
            gone = await on.made(name="gone", **every)
            late = await on.made(name="late", expires_at=int(now) + 60, **every)
            turned = await on.made(name="turned", **every)
            turned_new = (await on.root("POST", f"/v1/keys/{turned['id']}/rotate", json={})).json()
            await on.root("DELETE", f"/v1/keys/{gone['id']}")
            now += 61
            secrets = [made["key"] for made in (gone, late, turned, turned_new)]
            told: list[str] = []
            for method, path, scope in routes(on):
                if scope is None:
                    continue
                refusals: list[tuple[str | None, str]] = [
                    (None, "missing_api_key"),
                    (gone["key"], "revoked_api_key"),
                    (late["key"], "expired_api_key"),
                    (turned["key"], "expired_api_key"),
                    *((spoilt, "invalid_api_key") for spoilt in SPOILT if spoilt.strip() != "pk-root"),
                ]
                for secret, code in refusals:
                    for host in ("door", HOSTILE[0]):
                        got = await answer(on, secret, method, path, host=host)
                        assert got.status_code == 401, (method, path, secret, got.text)
                        assert method == "HEAD" or f'"{code}"' in got.text.lower()
                        told.append(got.text + str(got.headers))
                for other in set(SCOPES) - set(WANTED.get(scope, (scope,))):
                    got = await answer(on, f"pk-{other}", method, path)
                    assert got.status_code == 403, (method, path, other, got.text)
                    assert method == "HEAD" or '"missing_scope"' in got.text.lower()
                    told.append(got.text + str(got.headers))
            told.append((await on.root("GET", "/metrics")).text)
            told.append(caplog.text)
            everything = "\n".join(told)
            for secret in (*secrets, "pk-root", *(key for key in SPOILT if len(key) > 8)):
                assert secret not in everything
                assert digest(secret).removeprefix("sha256:") not in everything

    asyncio.run(go())


def test_a_key_sees_nothing_of_anothers(tmp_path: Any) -> None:
    """With another's id, of a request, of a trace, of a key."""

    async def go() -> None:
        async with keyed(f"sqlite:///{tmp_path}/ledger.db", Settings(keys=[ROOT, *EACH])) as on:
            ann, bob = await on.made(name="ann"), await on.made(name="bob")
            request = (await on.chat(ann["key"])).headers["x-request-id"]
            assert (await on.ask(ann["key"], "GET", f"/v1/usage/{request}")).status_code == 200
            refused(await on.ask(bob["key"], "GET", f"/v1/usage/{request}"), 404, "request_not_found")
            refused(await on.ask("pk-usage", "GET", f"/v1/usage/{request}"), 404, "request_not_found")
            refused(await on.ask("pk-trace", "GET", f"/v1/traces/{request}"), 404, "trace_not_found")
            for more in ("", "?group_by=key", "?group_by=key&key=ann"):
                lines = (await on.ask(bob["key"], "GET", f"/v1/usage{more}")).json()["data"]
                assert sum(line["requests"] for line in lines) == 0
            for url in ("usage/completions", "costs"):
                own = await on.ask(bob["key"], "GET", f"/v1/organization/{url}?start_time=1&api_key_ids=ann&limit=31")
                assert all(not bucket["results"] for bucket in own.json()["data"])
            refused(await on.ask(bob["key"], "GET", f"/v1/keys/{bob['id']}"), 403, "missing_scope")

    asyncio.run(go())


def test_without_keys_no_route_is_open_to_a_hostile_name(tmp_path: Any) -> None:
    """What `tests/server/test_http_door.py` shows over a socket for one route."""
    hosts = Hosts(Settings())

    async def go() -> None:
        async with keyed(f"sqlite:///{tmp_path}/ledger.db", Settings()) as on:
            for method, path, _ in routes(on):
                url = url_of(path).encode()
                for host in HOSTILE:
                    fault = hosts.fault(1, host.encode(), None, method.encode(), url, "1.1")
                    assert fault is not None, (method, path, host)
                    assert fault[0] in (400, 403)
                assert hosts.fault(1, b"localhost", None, method.encode(), url, "1.1") is None
                if method in ("POST", "DELETE"):
                    assert hosts.fault(1, b"localhost", b"https://evil.example", method.encode(), url, "1.1")
            # Nobody is told apart here, so nobody makes the key that would lock the others out.
            for method, path in (("POST", "/v1/keys"), ("DELETE", "/v1/keys/x"), ("POST", "/v1/keys/x/rotate")):
                refused(await on.ask(None, method, path, **sent(method, path)), 403, "not_permitted")

    asyncio.run(go())


def test_whether_a_name_is_asked_for_follows_the_keys(tmp_path: Any) -> None:
    async def go() -> None:
        async with keyed(f"sqlite:///{tmp_path}/ledger.db") as on:
            hosts = Hosts(Settings(), lambda: on.keyring.open)
            words = (1, b"evil.example", None, b"GET", b"/v1/models", "1.1")
            assert hosts.fault(*words) is None
            on.keyring.configure([])
            assert on.keyring.open
            assert hosts.fault(*words) is not None

    asyncio.run(go())
