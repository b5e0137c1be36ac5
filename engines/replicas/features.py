"""What a vLLM server can do, asked at the start by calls of a token or two; what it cannot do is said by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ponder.compute.errors import EngineError, RequestError
from ponder.engines.fast_tokenizers import SAMPLES
from ponder.engines.model import Model
from ponder.engines.proving import BARE
from ponder.engines.replicas.completions import COMPLETIONS, streamed
from ponder.engines.replicas.connection import Connection
from ponder.engines.replicas.events import Events
from ponder.engines.replicas.known import KnownModel
from ponder.engines.replicas.metrics import caches_prefixes

TEXT = "\n".join(SAMPLES)
"""What shows that a server has the tokenizer that is here."""
LOGPROBS = (20, 10, 5, 2, 1, 0)
"""How many log-probabilities beside the drawn token's are asked for, until the server gives them."""
ABORT = "/inference/v1/abort_requests"
VERSION = "0.10.2"
"""The first of vLLM's that tells token ids with a completion."""
TRIAL = 1 << 20
"""Bytes of the answer to one of these calls at most."""


@dataclass(frozen=True, slots=True)
class Features:
    """A server, as far as it was asked."""

    version: str
    served: str
    """The name it serves the model by."""
    context: int
    """Tokens of prompt and output together."""
    counts_cached: bool = True
    """It says how much of a prompt was in its prefix cache."""
    caches: bool | None = True
    """It has a prefix cache; None where it does not say."""
    logprobs: int | None = 20
    """Of so many likeliest tokens; None where it gives none at all."""
    holds: bool = True
    """It holds answers to a grammar."""
    continues: bool = False
    """It goes on with a half-written answer that is held to one, and looks itself for chains that go in circles: it
    runs `ponder.engines.scheduling`."""
    aborts: bool = False
    """It ends a call by its name, and tells then all that it has made."""

    @property
    def shortcomings(self) -> Sequence[str]:
        """What it cannot do, each with what it should be started with."""
        wanting: list[str] = []
        if self.caches is False:
            wanting.append("it keeps no prefixes, so each step of a chain is read anew: --enable-prefix-caching")
        if not self.counts_cached:
            wanting.append("what it reads from its prefix cache counts as read anew: --enable-prompt-tokens-details")
        if self.logprobs is None:
            wanting.append("it gives no log-probabilities: --max-logprobs 20")
        elif self.logprobs < LOGPROBS[0]:
            wanting.append(f"it gives {self.logprobs} log-probabilities a token, not {LOGPROBS[0]}: --max-logprobs 20")
        if not self.holds:
            wanting.append(
                "it does not hold answers to a grammar: --structured-outputs-config.backend xgrammar, and a "
                "--reasoning-parser, if any, of this model's family"
            )
        elif not self.continues:
            wanting.append(
                "an answer held to a schema cannot be gone on with when it was cut, nor here when its caller has read "
                "a part of it: install ponder-server there, and --scheduler-cls ponder.engines.scheduling.scheduler"
            )
        if not self.aborts:
            wanting.append("of a chain that is stopped, the tokens of the last moment are not seen: --enable-scale-out")
        return wanting


class _Card(BaseModel):
    id: str
    parent: str | None = None
    max_model_len: int | None = Field(default=None, ge=1)


class _Cards(BaseModel):
    data: list[_Card]


class _Version(BaseModel):
    version: str = Field(max_length=100)


async def look(connection: Connection, known: KnownModel, served: str | None) -> Features:
    """Asks a server what it can do for a model. `served`: the name it serves that by; None, where it serves one alone.
    Raises `EngineError` in plain words where it cannot be used, or not be reached."""
    who = connection.who
    version = await _version(connection)
    try:
        cards = _Cards.model_validate_json(await connection.short("/v1/models")).data
    except ValidationError:
        raise EngineError(f"{who} lists no models: the address of a vLLM server is wanted") from None
    card = _chosen(cards, served, known.name, who)
    if card.max_model_len is None:
        raise EngineError(f"{who} does not say how long its context is: a vLLM server of {VERSION} or newer is wanted")
    trial = Trial(connection, card.id)
    model = known.model(card.max_model_len)
    counts_cached = await _reads(trial, model, known.path, version)
    logprobs = await _logprobs(trial, model)
    holds = await _held(trial, model, 'root ::= "0"', "", "0")
    return Features(
        version,
        card.id,
        card.max_model_len,
        counts_cached=counts_cached,
        caches=await _caches(connection),
        logprobs=logprobs,
        holds=holds,
        continues=holds and await _held(trial, model, 'root ::= "0" "1"', "0", "1"),
        aborts=await _aborts(connection),
    )


class Trial:
    """Asks for completions of a token or two, and takes whatever comes."""

    def __init__(self, connection: Connection, served: str) -> None:
        self.connection, self._served = connection, served

    async def ask(self, prompt: str | Sequence[int], tokens: int = 1, **more: Any) -> list[dict[str, Any]]:
        """The events of the answer. Raises `RequestError` where the server refuses the call."""
        asked: dict[str, Any] = {
            "model": self._served,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "max_tokens": tokens,
            "temperature": 0.0,
            **streamed(),
        }
        who = self.connection.who
        events = Events(who, line=TRIAL, whole=TRIAL)
        told: list[dict[str, Any]] = []
        async with self.connection.call(COMPLETIONS, asked | more, {}) as exchange:
            while data := await self.connection.part(exchange.response):
                for event in events.feed(data):
                    if event == b"[DONE]":
                        continue
                    try:
                        told.append(json.loads(event))
                    except (ValueError, RecursionError):
                        raise EngineError(f"{who} answers {COMPLETIONS} with an event that is no JSON") from None
        if not told or not all(isinstance(one, dict) and "error" not in one for one in told):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EngineError(f"{who} cannot write: it answers {COMPLETIONS} with no token, or with an error")
        return told


async def _version(connection: Connection) -> str:
    try:
        return _Version.model_validate_json(await connection.short("/version")).version
    except (ValidationError, RequestError):
        return "of a version that it does not say"


def _chosen(cards: Sequence[_Card], served: str | None, name: str, who: str) -> _Card:
    if served is not None:
        found = next((card for card in cards if card.id == served), None)
        if found is None:
            raise EngineError(f"{who} does not serve {served}: it has {_names(cards)}")
        base = next((card for card in cards if card.id == found.parent), found)
        return (
            found if found.max_model_len is not None else found.model_copy(update={"max_model_len": base.max_model_len})
        )
    own = [card for card in cards if card.parent is None]
    fits = [card for card in own if card.id == name] or own
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise EngineError(f"{who} lists no model")
    raise EngineError(f"{who} serves {_names(fits)}: say which")


def _names(cards: Sequence[_Card]) -> str:
    return ", ".join(card.id[:100] for card in cards[:8]) or "none"


async def _reads(trial: Trial, model: Model, path: str, version: str) -> bool:
    """It reads texts as the tokenizer here does, and tells ids and counts; returns whether it counts what is cached."""
    who = trial.connection.who
    try:
        told = await trial.ask(TEXT, add_special_tokens=False)
    except RequestError:
        raise EngineError(
            f"{who} (vLLM {version}) refuses an ordinary completion: was it started to write text?"
        ) from None
    choices = [one["choices"][0] for one in told if one.get("choices")]
    read = next((one["prompt_token_ids"] for one in choices if one.get("prompt_token_ids") is not None), None)
    if read is None or not any(one.get("token_ids") for one in choices):
        raise EngineError(f"{who} (vLLM {version}) does not tell token ids: {VERSION} or newer is wanted")
    ids = model.prompts.tokenizer.encode(TEXT, add_special_tokens=False).ids
    if read != ids:
        raise EngineError(
            f"{who} reads text with another tokenizer than that of {path}: give the model's own folder or hub id"
        )
    usage: Any = next((one["usage"] for one in reversed(told) if one.get("usage")), None)
    if not isinstance(usage, Mapping) or "completion_tokens" not in usage:
        raise EngineError(f"{who} (vLLM {version}) does not count tokens at the end of a stream: {VERSION} is wanted")
    return usage.get("prompt_tokens_details") is not None  # pyright: ignore[reportUnknownMemberType]


async def _logprobs(trial: Trial, model: Model) -> int | None:
    ids = model.prompts.render(BARE, thinking=False).ids
    for wanted in LOGPROBS:
        try:
            told = await trial.ask(ids, logprobs=wanted, return_tokens_as_token_ids=True)
        except RequestError:
            continue
        for choice in (one["choices"][0] for one in told if one.get("choices")):
            if '"token_id:' in json.dumps(choice.get("logprobs")):
                return wanted
    return None


async def _held(trial: Trial, model: Model, grammar: str, begun: str, rest: str) -> bool:
    """An answer that begins so goes on as the grammar has it."""
    written = model.prompts.with_markers(begun)
    more: dict[str, Any] = {"vllm_xargs": {"continued": len(written)}} if written else {}
    ids = [*model.prompts.render(BARE, thinking=False).ids, *written]
    try:
        told = await trial.ask(ids, 4, structured_outputs={"grammar": grammar}, **more)
    except (RequestError, EngineError):
        return False
    made = [token for one in told if one.get("choices") for token in one["choices"][0].get("token_ids") or ()]
    return model.vocabulary.tokenizer.decode(made, skip_special_tokens=True).strip() == rest


async def _caches(connection: Connection) -> bool | None:
    try:
        return caches_prefixes((await connection.short("/metrics")).decode(errors="replace"))
    except (EngineError, RequestError):
        return None


async def _aborts(connection: Connection) -> bool:
    try:
        await connection.short(ABORT, {"request_ids": []})
    except (EngineError, RequestError):
        return False
    return True
