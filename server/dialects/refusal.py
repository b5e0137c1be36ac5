"""A refusal as an HTTP response: its body is the dialect's, its headers are the same in all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from ponder.server.answers import Failure


def refusal(failure: Failure, body: Mapping[str, Any]) -> Response:
    """The response, with the headers by which clients know whether a key is wanted and whether to send it again."""
    headers: dict[str, str] = {}
    if failure.wants_key:
        headers["www-authenticate"] = "Bearer"
    if not failure.again:
        headers["x-should-retry"] = "false"
    return Response(json.dumps(body).encode(), failure.status, headers, media_type="application/json")
