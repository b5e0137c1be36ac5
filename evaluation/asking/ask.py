"""One question to a running server: asked again where that may help, and timed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from ponder.clients.client import AskError, AsyncClient, CutOff, Refused, Reply, Unreachable
from ponder.compute.groups import TaskGroup

BUSY = (429, 503)
"""Statuses of a server that may answer later."""
BROKEN = (500, 502, 504)
"""Statuses of a server that may have failed by chance."""
TRIES = 3
"""Of a question that a server fails at, or whose answer breaks off."""
FIRST, LONGEST = 0.5, 60.0
"""Seconds before a question is asked again where the server does not say, the first time and at most."""

OnWait = Callable[[AskError, float], None]
"""Told why a question is asked again, and in how many seconds."""


class Stopped(Exception):
    """The whole run has to stop: nobody answers, or what is asked cannot be meant. What is done is kept."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer, and when it came. Seconds are of the last try; `first` is to the first visible text."""

    reply: Reply
    first: float
    seconds: float
    tries: int


def connected(url: str, api_key: str | None, at_once: int) -> AsyncClient:
    """A client for so many questions at the same time."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=at_once)
    return AsyncClient(url, api_key, httpx.AsyncHTTPTransport(limits=limits))


async def ask(
    client: AsyncClient,
    messages: Sequence[Mapping[str, Any]],
    fields: Mapping[str, Any],
    *,
    patience: float,
    on_wait: OnWait,
) -> Asked:
    """The answer to a question; `fields` are those of `AsyncClient.stream`.

    A server that is busy or away is asked again, as it says or ever less often, for up to `patience` seconds in all;
    then, and where a key is refused, it raises `Stopped`. What is the fault of this question is raised as the client
    has it.
    """
    waited, failed, tries = 0.0, 0, 0
    while True:
        tries += 1
        try:
            return await _once(client, messages, fields, tries)
        except Unreachable as error:
            silent = isinstance(error.__cause__, httpx.ReadTimeout)
            failed += silent
            last, again = error, failed < TRIES
            wait = _growing(tries)
        except CutOff as error:
            last, failed = error, failed + 1
            again, wait = failed < TRIES, _growing(failed)
        except Refused as error:
            if error.status in (401, 403):
                raise Stopped(f"the server refuses the key: {error.message}") from error
            busy = error.status in BUSY or error.retry_after is not None
            failed += not busy
            last, again = error, busy or (error.status in BROKEN and failed < TRIES)
            wait = _growing(tries) if error.retry_after is None else error.retry_after
        if not again:
            raise last
        if waited + wait > patience:
            raise Stopped(f"after {waited:.0f} s of waiting, and {wait:.0f} s more to come: {last}") from last
        waited += wait
        on_wait(last, wait)
        await asyncio.sleep(wait)


async def side_by_side(work: Callable[[], Any], at_once: int) -> None:
    """So many of the same at once. Raises the error of the first that fails, as it is."""
    try:
        async with TaskGroup() as workers:
            for _ in range(at_once):
                workers.create_task(work())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _once(
    client: AsyncClient, messages: Sequence[Mapping[str, Any]], fields: Mapping[str, Any], tries: int
) -> Asked:
    clock = asyncio.get_running_loop().time
    begun = clock()
    first: float | None = None
    async with aclosing(client.stream(messages, **fields)) as stream:
        async for part in stream:
            now = clock() - begun
            if isinstance(part, Reply):
                return Asked(part, now if first is None else first, now, tries)
            first = now if first is None else first
    raise CutOff("the stream ended before the answer did")


def _growing(tried: int) -> float:
    """Twice as long each time, and never all of those who wait at the same moment."""
    return min(LONGEST, FIRST * 2 ** (tried - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def seed_of(seed: int, question: str, draw: int) -> int:
    """A seed for a question and a draw: another for each, the same on every machine."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, question, draw]).encode()).digest()[:4])


def with_instruction(messages: Sequence[Mapping[str, Any]], instruction: str | None) -> list[Mapping[str, Any]]:
    """The conversation with a paragraph behind its last turn."""
    if instruction is None:
        return list(messages)
    *before, last = messages
    content: Any = last["content"]
    if isinstance(content, str):
        return [*before, {**last, "content": f"{content}\n\n{instruction}"}]
    return [*before, {**last, "content": [*content, {"type": "text", "text": instruction}]}]
