"""The models as Google's Gemini API lists them, for who sends its key header, and below `/v1beta`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from pydantic import BaseModel, Field
from starlette.requests import Request

from ponder.compute.errors import NotFound
from ponder.server.auth.access import Caller
from ponder.server.auth.keys import Key
from ponder.server.query import number
from ponder.server.registry import ServedModel

METHODS = ["generateContent", "countTokens"]
MOST = 1000
FAR = 999_999_999
"""Of numbers in a query, the greatest that is read."""
"""Models of a page at most, and where nothing is said."""


class GeminiModel(BaseModel):
    """A model that may be asked, or one with a strategy: `MODEL:STRATEGY`."""

    name: str = Field(description="models/ and what stands in the path of a request")
    baseModelId: str = Field(description="Without the strategy")
    version: str
    displayName: str
    description: str
    inputTokenLimit: int = Field(description="Tokens of prompt and output together")
    outputTokenLimit: int = Field(description="The same")
    supportedGenerationMethods: list[str]
    temperature: float
    topP: float
    topK: int
    thinking: bool = Field(description="A thinking budget above 0 has an effect")


class GeminiModels(BaseModel):
    """What a key may ask."""

    models: list[GeminiModel]
    nextPageToken: str = Field(default="", description="Left out in the last page")


def one(id: str, served: ServedModel) -> GeminiModel:
    """One model."""
    card = served.engine.card
    base, _, strategy = id.partition(":")
    return GeminiModel(
        name=f"models/{id}",
        baseModelId=base,
        version=str(card.created),
        displayName=id,
        description=f"With the strategy {strategy}" if strategy else "With the strategy that it is served with",
        inputTokenLimit=card.context,
        outputTokenLimit=card.context,
        supportedGenerationMethods=METHODS,
        temperature=card.temperature,
        topP=card.top_p,
        topK=card.top_k,
        thinking=card.thinks,
    )


def several(found: Sequence[tuple[str, ServedModel]], query: Mapping[str, str]) -> GeminiModels:
    """A page of them. Raises `RequestError`."""
    size = number("pageSize", query.get("pageSize") or None, MOST, most=FAR) or MOST
    begin = number("pageToken", query.get("pageToken") or None, 0, most=FAR)
    end = begin + min(size, MOST)
    models = [one(id, served) for id, served in found[begin:end]]
    if end >= len(found):
        return GeminiModels(models=models)
    return GeminiModels(models=models, nextPageToken=str(end))


class GeminiModelPages:
    """The models below `/v1beta`, whatever else a caller sends."""

    def __init__(self, ids: Callable[[Key], Iterator[tuple[str, ServedModel]]]) -> None:
        """`ids` are the models that a key may ask."""
        self._ids = ids

    async def gemini_models(self, request: Request, key: Caller) -> GeminiModels:
        """Lists the models, each alone and with each strategy, as Google does."""
        return several(list(self._ids(key)), request.query_params)

    async def gemini_model(self, id: str, key: Caller) -> GeminiModel:
        """Finds one of the models listed. Ids may hold slashes."""
        for name, served in self._ids(key):
            if name == id:
                return one(name, served)
        raise NotFound(
            "this server has no such model; GET /v1beta/models lists those it has", param="id", code="model_not_found"
        )
