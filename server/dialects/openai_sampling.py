"""How OpenAI's APIs say how tokens are drawn and where an answer stops: the same fields in all of them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from ponder.compute.errors import RequestError
from ponder.server.dialects.wire import Several, Wire
from ponder.server.request import SamplingWish


class SamplingFields(Wire):
    """Inherited by the requests of OpenAI's dialects."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Several[str] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None


def sampling(fields: SamplingFields) -> SamplingWish:
    """All but where it stops and what is biased."""
    return SamplingWish(
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=fields.top_k,
        min_p=fields.min_p,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        seed=fields.seed,
    )


def stops(fields: SamplingFields) -> tuple[str, ...]:
    """The stop strings, whichever way they were written."""
    if fields.stop is None:
        return ()
    return (fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop)


def biases(fields: SamplingFields) -> tuple[tuple[int, float], ...]:
    """(token id, bias), of those that bend anything. Raises `RequestError` for a key that is no token id."""
    given = {token: bias for token, bias in (fields.logit_bias or {}).items() if bias}
    if not all(re.fullmatch(r"[0-9]{1,9}", token) for token in given):
        raise RequestError("the keys of logit_bias are token ids", param="logit_bias", code="invalid_value")
    return tuple((int(token), bias) for token, bias in given.items())
