"""What the console makes of a server that answers with errors, or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ponder.clients.answers import Refused, Unreachable
from ponder.console.api import Api, passes

AWAY: dict[str, Any] = {
    "error": {"message": "the ledger cannot be written to", "code": "ledger_unavailable"},
    "status": "unavailable",
    "models": {"demo": {"answers": True}},
}


async def health(answer: Response) -> dict[str, Any]:
    """What the console knows of a server that says this."""

    async def page(_: Request) -> Response:
        return answer

    api = Api("http://server", None, httpx.ASGITransport(Starlette(routes=[Route("/healthz", page)])))
    try:
        return await api.health()
    finally:
        await api.close()


def test_how_a_server_is_is_known_also_where_it_is_not_well() -> None:
    assert asyncio.run(health(JSONResponse(AWAY, 503))) == AWAY


@pytest.mark.parametrize(
    "answer",
    [
        PlainTextResponse("no server here", 503),
        JSONResponse({"error": {"message": "no server here"}}, 503),
        JSONResponse({"error": {"message": "for admins"}}, 403),
    ],
)
def test_what_says_nothing_of_the_server_is_an_error(answer: Response) -> None:
    with pytest.raises(Refused) as refused:
        asyncio.run(health(answer))
    assert refused.value.status == answer.status_code


@pytest.mark.parametrize(
    ("status", "again"), [(401, False), (403, False), (404, False), (429, True), (500, True), (503, True)]
)
def test_pages_that_look_again_and_again_stop_where_it_stays_as_it_is(status: int, again: bool) -> None:
    assert passes(Refused("no", status=status)) is again


def test_pages_look_again_for_a_server_that_is_being_started_anew() -> None:
    assert passes(Unreachable("nobody answers"))
