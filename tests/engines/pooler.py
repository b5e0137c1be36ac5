"""A vLLM server of a reward model, scripted: what it answers is chosen by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

PRM = Path(__file__).parents[2] / "models" / "demo-prm"


def score(ids: list[int]) -> float:
    """What the scripted reward model thinks of a prefix."""
    return (sum(ids) % 89 + 1) / 100


def rows(ids: list[int]) -> list[list[float]]:
    scores = [score(ids[: end + 1]) for end in range(len(ids))]
    return [[1 - good, good] for good in scores]


Answer = Callable[[list[int]], Any]
"""What `/pooling` answers to token ids: a response, or the `data` of one."""


@dataclass
class Pooler:
    """A scripted vLLM server of a reward model."""

    answer: Answer = rows
    likely: dict[str, float] = field(default_factory=dict[str, float])
    cards: Any = None
    usage: Any = None
    key: str | None = None
    hang: bool = False
    """Does not answer until the caller has hung up."""
    asked: list[Any] = field(default_factory=list[Any])
    names: list[str] = field(default_factory=list[str])
    """By which vLLM's logs would know each of them."""
    hung_up: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models(request: Request) -> Response:
            if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
                return JSONResponse({"error": "Unauthorized"}, 401)
            own = {"id": "judge", "root": str(PRM), "parent": None, "max_model_len": 512}
            return JSONResponse(self.cards or {"object": "list", "data": [own]})

        @app.post("/pooling")
        async def pooling(request: Request) -> Response:
            asked = await request.json()
            self.asked.append(asked)
            self.names.append(request.headers["x-request-id"])
            while self.hang:
                if await request.is_disconnected():
                    self.hung_up += 1
                    return Response()
                await asyncio.sleep(0.01)
            data = self.answer(asked["input"])
            if isinstance(data, Response):
                return data
            return JSONResponse({"data": [{"index": 0, "data": data}], "usage": self.usage})

        @app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            self.asked.append(await request.json())
            self.names.append(request.headers["x-request-id"])
            choice = {"index": 0, "text": "+", "logprobs": {"tokens": ["token_id:5"], "top_logprobs": [self.likely]}}
            return JSONResponse({"choices": [choice], "usage": self.usage})

        _ = models, pooling, completions
        return app
