"""Pages of other sites that may use the server from a browser: those the operator lists (CORS; the Fetch standard)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

TOLD = (
    "x-request-id",
    "request-id",
    "retry-after",
    "x-should-retry",
    "x-ignored-parameters",
    "x-thinking-budget-clamped",
    "idempotent-replayed",
)
"""Headers of ours that a page may read."""


class CrossOrigin(CORSMiddleware):
    """Goes around the whole application, so that refusals can be read by a page, too."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        """No cookies are in play: a page sends its key in a header, as every caller does."""
        methods = ["GET", "POST", "DELETE"]
        super().__init__(app, allow_origins=origins, allow_methods=methods, allow_headers=["*"], expose_headers=TOLD)

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks beforehand. A refusal has the shape of all others."""
        response = super().preflight_response(request_headers)
        if response.status_code != 200:
            message = "the setting `cors_origins` does not list this page's origin, or this method is not served"
            kind = {"message": message, "type": "invalid_request_error", "param": None, "code": "origin_not_allowed"}
            response.body = json.dumps({"error": kind}).encode()
            response.headers["content-type"] = "application/json"
            response.headers["content-length"] = str(len(response.body))
        response.headers["x-request-id"] = response.headers["request-id"] = "req_" + secrets.token_hex(12)
        return response
