"""A load client that costs little and the same for every server: raw HTTP/1.1 over kept connections, one per worker.

On a small machine the client shares the cores with the server it measures, so it parses no JSON while an answer comes
in; a few byte patterns find what is measured.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

VISIBLE = re.compile(rb'"content":\s*"(?!(?:\\[nrt]|\s)*")')
"""Text that is more than the white space some servers leave before an answer."""
COMPLETION_TOKENS = re.compile(rb'"completion_tokens":\s*(\d+)')
REASONING_TOKENS = re.compile(rb'"reasoning_tokens":\s*(\d+)')


class LoadError(Exception):
    """A server did not answer as a server should; the figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One request, as its caller saw it. Times in seconds from the first byte sent."""

    seconds: float
    first: float | None
    """To the first visible text; None where the answer had none, or was not streamed."""
    tokens: int
    """Completion tokens by the server's own usage, the hidden ones included."""
    reasoning: int


@dataclass(frozen=True, slots=True)
class Volley:
    """Many requests at one concurrency."""

    shots: Sequence[Shot]
    seconds: float

    @property
    def per_second(self) -> float:
        return len(self.shots) / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return sum(s.tokens for s in self.shots) / self.seconds

    @property
    def tokens_per_request(self) -> float:
        return sum(s.tokens for s in self.shots) / len(self.shots)

    def latency(self, share: float) -> float:
        return percentile([s.seconds for s in self.shots], share)

    def first(self, share: float) -> float | None:
        """Of the time to the first visible text; None where no answer had any."""
        seen = [s.first for s in self.shots if s.first is not None]
        return percentile(seen, share) if seen else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def stories(count: int, seed: int) -> Iterator[str]:
    """Arithmetic stories as the bundled reasoner knows them; any other model can answer them as well."""
    rng = random.Random(seed)
    for _ in range(count):
        name = rng.choice(["Tom", "Anna", "Ben", "Mia", "Sam", "Lucy"])
        thing = rng.choice(["apples", "books", "coins", "pens", "stamps"])
        start, more, less = rng.randint(20, 60), rng.randint(2, 30), rng.randint(2, 20)
        yield (
            f"{name} has {start} {thing}. {name} gets {more} more. {name} gives away {less}. "
            f"How many {thing} does {name} have now?"
        )


def bodies(model: str, questions: Iterable[str], *, streamed: bool, **fields: object) -> list[bytes]:
    """Chat completion requests, one for each question, each with a seed of its own."""
    made: list[bytes] = []
    for seed, question in enumerate(questions):
        body: dict[str, object] = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 1.0,
            "seed": seed,
            **fields,
        }
        if streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        made.append(json.dumps(body).encode())
    return made


async def chunks(reader: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    """The chunks of a chunked body."""
    while size := int(await reader.readline(), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readline()


class Caller:
    """One connection, kept open from request to request."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, body: bytes) -> Shot:
        """Raises `LoadError` for anything but a whole answer with status 200 and its usage."""
        if self.reader is None or self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=1 << 22)
        began = time.perf_counter()
        self.writer.write(self.head + b"%d\r\n\r\n" % len(body) + body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        first: float | None = None
        text = b""
        if b"chunked" in head.lower():
            async for chunk in chunks(self.reader):
                text += chunk
                if first is None and VISIBLE.search(chunk):
                    first = time.perf_counter() - began
        else:
            length = re.search(rb"(?i)content-length:\s*(\d+)", head)
            text = await self.reader.readexactly(int(length[1])) if length else b""
        seconds = time.perf_counter() - began
        tokens = COMPLETION_TOKENS.findall(text)
        if not head.startswith(b"HTTP/1.1 200") or not tokens:
            raise LoadError(f"no usable answer: {head[:80].decode(errors='replace')} {text[-300:].decode()}")
        reasoning = REASONING_TOKENS.findall(text)
        streamed = b"text/event-stream" in head.lower()
        return Shot(seconds, first if streamed else None, int(tokens[-1]), int(reasoning[-1]) if reasoning else 0)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


async def volley(url: str, requests: Sequence[bytes], concurrency: int) -> Volley:
    """Sends them all, `concurrency` at a time."""
    waiting = iter(requests)
    shots: list[Shot] = []

    async def work() -> None:
        caller = Caller(url)
        try:
            for body in waiting:
                shots.append(await caller.ask(body))
        finally:
            caller.close()

    began = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except* (LoadError, OSError, EOFError) as failed:
        raise SystemExit(f"{url} failed under load: {failed.exceptions[0]}") from None
    return Volley(shots, time.perf_counter() - began)
