"""A process reward model that another vLLM server serves, reached over HTTP.

Token ids go out, a row of numbers for each of them comes back: how a chain is laid out and judged is the same as for a
model in this process. So its tokenizer has to be here, though its weights are elsewhere. Over HTTP vLLM does not read
its prefix cache for scores of single tokens: what is not known yet is read from its beginning.
"""

from __future__ import annotations

import asyncio
import importlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

import httpx
from pydantic import BaseModel, Field, SecretStr, ValidationError

from ponder.compute.errors import EngineError, PonderError
from ponder.engines.reward import ProcessRewardModel
from ponder.engines.reward_profiles import RewardProfile, find_reward_profile
from ponder.engines.reward_reader import LIKELIEST, Reading, of_labels

POOLING = """--runner pooling --pooler-config '{"tok_pooling_type": "ALL"}'"""
"""What a server of a reward model is started with, so that it scores every token."""

TIMEOUT = httpx.Timeout(connect=5, write=30, read=120, pool=120)
"""Seconds. A chain that is not judged by then is not judged; the request's own time may be over before."""

EXCHANGE_SECONDS = 300.0
"""For one exchange, waiting for a connection included. However slowly an answer comes in, it is over then."""

REPLY, REPLY_FOR_TOKEN = 2**22, 2**9
"""Bytes of an answer at most: so many, and so many more for each token that is scored. A row of two numbers has 50."""

LOOK_SECONDS = 15.0
"""A server that does not say in this time what it serves is not there."""

LIMITS = httpx.Limits(max_connections=256, max_keepalive_connections=64, keepalive_expiry=2)
"""vLLM's server closes a connection that was idle for 5 s: one that it may just be closing is not used again."""

MODELS, POOL, COMPLETE = "/v1/models", "/pooling", "/v1/completions"
WANTED = {
    MODELS: "the address of a vLLM server is wanted",
    POOL: f"a reward model's server is vLLM's, started with {POOLING}",
    COMPLETE: "a reward model of this family writes its verdicts, so its vLLM server is started without --runner",
}
"""What to mend where the answer is not the one that was asked for."""


class _Card(BaseModel):
    """A model as vLLM lists it: `root` is the folder or hub id it was loaded from, `parent` the model of an adapter."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int


class _Cards(BaseModel):
    data: list[_Card]


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens_details: _PromptDetails | None = None


class _Rows(BaseModel):
    data: list[list[float]]


class _Pooled(BaseModel):
    data: Annotated[list[_Rows], Field(min_length=1, max_length=1)]
    usage: _Usage | None = None


class _Likeliest(BaseModel):
    top_logprobs: Annotated[list[dict[str, float]], Field(min_length=1, max_length=1)]


class _Choice(BaseModel):
    logprobs: _Likeliest


class _Completed(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1)]
    usage: _Usage | None = None


_Shape = TypeVar("_Shape", bound=BaseModel)


async def connect_reward(
    url: str,
    *,
    model: str | None,
    key: SecretStr | None,
    locate: Callable[[str], str],
    profile: RewardProfile | None = None,
) -> ProcessRewardModel:
    """The process reward model served at `url`. Raises `EngineError` in plain words where it cannot be used.

    `model` is the folder or hub id with its tokenizer, None: what its server says it was loaded from; `locate` finds it
    on this machine, or raises `PonderError`. Without a profile, its family is told by its name.
    """
    reader = await reach(url, model=model, key=key, profile=profile)
    try:
        tokenizer = await asyncio.to_thread(_tokenizer, reader, locate)
        judge = ProcessRewardModel(reader, tokenizer, reader.profile, reader.name)
        await judge.check()
    except BaseException:
        await reader.close()
        raise
    return judge


async def reach(
    url: str,
    *,
    model: str | None,
    key: SecretStr | None,
    profile: RewardProfile | None = None,
    seconds: float = EXCHANGE_SECONDS,
) -> RemoteReader:
    """The model served at `url`, whose answers may each take so long. Raises `EngineError`: there is no server, or it
    is not clear which of its models."""
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key.get_secret_value()}"} if key else {})
    client = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, limits=LIMITS)
    who = f"the reward model at {url}"
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            cards = await _ask(client, who, MODELS, None, _Cards, seconds=seconds, tokens=0)
        return RemoteReader(client, url, _chosen(cards.data, model, who), model, profile, seconds)
    except BaseException as error:
        await client.aclose()
        if isinstance(error, TimeoutError):
            raise EngineError(f"{who} does not answer {MODELS} within {LOOK_SECONDS:.0f} s") from None
        raise


class RemoteReader:
    """Reads with a model that another vLLM serves."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        card: _Card,
        model: str | None,
        profile: RewardProfile | None,
        seconds: float,
    ) -> None:
        self._client = client
        self._seconds = seconds
        self._card = card
        self.files = model or card.root or card.id
        """The folder or hub id that tells its family and has its tokenizer."""
        self.profile = profile or find_reward_profile(self.files)
        self.who = f"the reward model {PurePath(card.id).name} at {url}"

    @property
    def name(self) -> str:
        return PurePath(self._card.id).name

    @property
    def context(self) -> int:
        return self._card.max_model_len

    async def read(self, ids: Sequence[int], labels: Sequence[int], tenant: str | None, name: str = "check") -> Reading:
        """One request; see the contract. Scores of single tokens are read without a cache there."""
        if labels:
            return await self._likeliest(ids, labels, tenant, name)
        asked = {"model": self._card.id, "task": "token_classify", "input": list(ids), "encoding_format": "float"}
        pooled = await self._ask(POOL, asked, _Pooled, len(ids), name)
        rows = pooled.data[0].data
        if len(rows) != len(ids):
            raise EngineError(f"{self.who} gives {len(rows)} rows for {len(ids)} tokens: {WANTED[POOL]}")
        return Reading(rows, _cached(pooled.usage))

    async def _likeliest(self, ids: Sequence[int], labels: Sequence[int], tenant: str | None, name: str) -> Reading:
        asked: dict[str, Any] = {
            "model": self._card.id,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": LIKELIEST,
            "return_tokens_as_token_ids": True,
        }
        if tenant is not None:
            asked["cache_salt"] = tenant
        completed = await self._ask(COMPLETE, asked, _Completed, 0, name)
        told = completed.choices[0].logprobs.top_logprobs[0]
        numbers = {token.removeprefix("token_id:"): value for token, value in told.items()}
        likely = {int(number): value for number, value in numbers.items() if number.isdecimal()}
        if not likely:
            raise EngineError(f"{self.who} gives no token ids with the likelihoods: {WANTED[COMPLETE]}")
        return Reading((of_labels(labels, likely),), _cached(completed.usage))

    async def check(self) -> None:
        """Returns when the server reads in this model's way; raises `EngineError` when it does not. Any three tokens
        will do: no tokenizer is needed."""
        await self.read((1, 2, 3), (1, 2) if self.profile.verdict == "labels" else (), None)

    async def _ask(self, path: str, asked: dict[str, Any], shape: type[_Shape], tokens: int, name: str) -> _Shape:
        if self._client.is_closed:
            raise EngineError(f"{self.who} is closed")
        return await _ask(self._client, self.who, path, asked, shape, seconds=self._seconds, tokens=tokens, name=name)

    async def close(self) -> None:
        """Closes the connections. Idempotent."""
        await self._client.aclose()


async def _ask(
    client: httpx.AsyncClient,
    who: str,
    path: str,
    asked: dict[str, Any] | None,
    shape: type[_Shape],
    *,
    seconds: float,
    tokens: int,
    name: str = "check",
) -> _Shape:
    """One exchange, in which so many tokens are scored. Cancelling it closes the connection, by which vLLM stops. vLLM
    takes the id of the call from the header, and calls of one name may run side by side, from several servers: each
    has a number more. What a server says of an error may quote the chain, so it is not repeated, and not even read."""
    headers = {"x-request-id": f"{name}-{secrets.token_hex(4)}"}
    try:
        async with (
            asyncio.timeout(seconds),
            client.stream("GET" if asked is None else "POST", path, json=asked, headers=headers) as response,
        ):
            _check(response, who, path)
            answer = await _whole(response, who, path, REPLY + REPLY_FOR_TOKEN * tokens)
    except TimeoutError:
        raise EngineError(f"{who} has not answered {path} within {seconds:.0f} s") from None
    except httpx.TimeoutException as error:
        raise EngineError(f"{who} does not answer in time ({type(error).__name__})") from None
    except httpx.HTTPError as error:
        raise EngineError(f"{who} cannot be reached ({type(error).__name__})") from None
    try:
        return shape.model_validate_json(answer)
    except ValidationError:
        raise EngineError(f"{who} answers {path} in a shape that does not fit: {WANTED[path]}") from None


def _check(response: httpx.Response, who: str, path: str) -> None:
    """Raises `EngineError` unless an answer follows that can be read."""
    status = response.status_code
    if status in (401, 403):
        raise EngineError(f"{who} wants another key than prm_key (status {status})")
    if status != 200:
        mend = f": {WANTED[path]}" if status < 500 else ""
        raise EngineError(f"{who} answers {path} with status {status}{mend}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        # A few bytes may stand for any number of them.
        raise EngineError(f"{who} answers {path} compressed, which was not asked for: is there a proxy that does it?")


async def _whole(response: httpx.Response, who: str, path: str, limit: int) -> bytes:
    """The body, which may have so many bytes."""
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > limit:
            raise EngineError(f"{who} answers {path} with more than {limit} bytes: {WANTED[path]}")
    return bytes(body)


def _chosen(cards: Sequence[_Card], model: str | None, who: str) -> _Card:
    """The one model that is served, by whatever names; of several the one asked for."""
    whole = [card for card in cards if card.parent is None]
    fits = [card for card in whole if model in (card.id, card.root)] or whole
    if not fits:
        raise EngineError(f"{who} is not there: the server lists no model")
    if len({card.root or card.id for card in fits}) > 1:
        raise EngineError(f"{who} is one of {', '.join(card.id for card in fits)}: say which by prm_model")
    return fits[0]


def _tokenizer(reader: RemoteReader, locate: Callable[[str], str]) -> Any:
    try:
        place = locate(reader.files)
        return importlib.import_module("transformers").AutoTokenizer.from_pretrained(place)
    except PonderError as error:
        why = error.message
    except Exception as error:  # noqa: BLE001 (the hub's client and the tokenizers raise a dozen kinds)
        why = type(error).__name__
    raise EngineError(
        f"{reader.who} is read with its own tokenizer, and {reader.files} has none here ({why}): "
        "set prm_model to a folder or hub id that has it"
    )


def _cached(usage: _Usage | None) -> int:
    details = usage and usage.prompt_tokens_details
    return (details and details.cached_tokens) or 0
