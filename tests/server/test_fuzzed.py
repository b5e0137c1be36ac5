"""Random and broken requests over all routes and the raw socket, and long mixed load: no status of a server that
failed, nothing left behind, no word of a caller in the log.

CI runs some hundred requests and a few seconds; `make soak` 20,000 and half an hour.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ponder.compute.pool import KEPT
from ponder.server.app import PAGES
from tests.server.attacked import Attacked, attacked

SECRET = "zqxjkv"
"""In every text that a caller sends; in nothing of ours."""
CHAT = "/v1/chat/completions"
PATHS = [CHAT, *(page.replace("{id}", SECRET).replace("{name}", "swagger-ui.css") for page in PAGES)]
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"]
STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
ROUGH = (b"\x00", b"\xff\xfe", b"\r\n", b"\n", b"\r\n\r\n", b"%0a", b" ", b":", b"\t", b"{", b"]", b"\\ud800", b"1e999")
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, 2**63, 10**20, "", SECRET, f"{SECRET}\n\r\x1b[2J", "\u2028", [], {}, [[]],
    {"$ref": f"#/{SECRET}"}, {"name": SECRET}, [{"role": "user", "content": SECRET}], "direct", "auto", 0.5, 64,
]  # fmt: skip
FIELDS: dict[str, list[Any]] = {
    "stream": [True, False],
    "thinking_budget": [0, 1, 64, -1, "auto"],
    "n": [1, 2, 3],
    "strategy": ["direct", "majority_vote", {"name": "best_of_n", "n": 3}, "revision", "beam_search"],
    "verifier": ["confidence", {"name": "rules", "pattern": f"{SECRET}|7"}, {"name": "rules", "json_schema": {}}],
    "temperature": [0, 1],
    "seed": [1, 2],
    "stop": ["7", [SECRET]],
    "response_format": [{"type": "json_object"}, {"type": "text"}],
    "tools": [[{"type": "function", "function": {"name": SECRET, "parameters": {"type": "object"}}}]],
    "max_completion_tokens": [1, 8, 100],
    "logprobs": [True],
    "metadata": [{SECRET: SECRET}],
    "stream_options": [{"include_usage": True}],
}


def body(dice: random.Random) -> bytes:
    """A request, often a wrong one."""
    asked: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": f"{SECRET} 3 + 4?"}]}
    for name in dice.sample(sorted(FIELDS), dice.randrange(4)):
        asked[name] = dice.choice(FIELDS[name])
    for _ in range(dice.choice((0, 0, 1, 2))):
        asked[dice.choice([*FIELDS, "model", "messages", SECRET, "extra_body"])] = dice.choice(VALUES)
    raw = json.dumps(asked).encode()
    if dice.random() < 0.1:
        raw = spoilt(dice, raw)
    return b"[" * 1000 + raw if dice.random() < 0.01 else raw


def spoilt(dice: random.Random, raw: bytes) -> bytes:
    """The same with bytes put in, left out or turned."""
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(raw) + 1)
        raw = raw[:at] + dice.choice((*ROUGH, bytes([dice.randrange(256)]))) + raw[at + dice.choice((0, 0, 1, 9)) :]
    return raw


def request(dice: random.Random) -> bytes:
    """One request as it goes over the wire, well made or not."""
    chats = dice.random() < 0.6
    method, path = ("POST", CHAT) if chats else (dice.choice(METHODS), dice.choice(PATHS))
    if dice.random() < 0.2:
        path += f"?api_key={SECRET}&{SECRET}"
    content = body(dice) if method in ("POST", "PUT", "PATCH") or dice.random() < 0.05 else b""
    headers = ["host: localhost", f"x-{SECRET}: {SECRET}", f"authorization: Bearer {SECRET}"]
    if content:
        headers.append(dice.choice(("content-type: application/json",) * 9 + (f"content-type: {SECRET}",)))
    chunked = content and dice.random() < 0.2
    if chunked:
        size = dice.randrange(1, len(content) + 1)
        parts = [content[i : i + size] for i in range(0, len(content), size)]
        content = b"".join(b"%x;%s\r\n%s\r\n" % (len(part), SECRET.encode(), part) for part in parts) + b"0\r\n\r\n"
        headers.append("transfer-encoding: chunked")
    elif content:
        headers.append(f"content-length: {len(content) + dice.choice((0,) * 30 + (1, -1))}")
    dice.shuffle(headers)
    version = dice.choice(("1.1",) * 9 + ("1.0", "2.0"))
    raw = "\r\n".join([f"{method} {path} HTTP/{version}", *headers, "", ""]).encode() + content
    return spoilt(dice, raw) if dice.random() < 0.15 else raw


async def sent(address: tuple[str, int], dice: random.Random, told: Counter[str]) -> None:
    """A connection with one to three requests, sent in pieces; some hang up at once, or do not wait for an answer."""
    *more, last = [request(dice) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
    ends = dice.random() < 0.7
    if ends:
        last = last.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
    raw = b"".join([*more, last])
    if dice.random() < 0.02:
        raw = dice.randbytes(dice.randrange(1, 3000)) + SECRET.encode()
    reader, writer = await asyncio.open_connection(*address)
    answer = b""
    try:
        pieces = sorted(dice.randrange(len(raw) + 1) for _ in range(dice.choice((0, 0, 1, 3))))
        for first, last in zip([0, *pieces], [*pieces, len(raw)], strict=True):
            writer.write(raw[first:last])
            await writer.drain()
            await asyncio.sleep(0)
        if dice.random() < 0.15:
            await asyncio.sleep(dice.random() * 0.02)
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(5 if ends else 0.25):
                    while part := await reader.read(1 << 16):
                        answer += part
    except ConnectionError:
        told["cut"] += 1
    finally:
        writer.close()
    told.update(status.decode() for status in STATUS.findall(answer))
    told["connections"] += 1


def attack(server: Attacked, seed: int, count: int, at_once: int = 16) -> Counter[str]:
    """How many answers of each status `count` connections got."""
    told: Counter[str] = Counter()

    async def some(part: int) -> None:
        dice = random.Random(f"{seed}/{part}")
        for _ in range(count // at_once):
            await sent(server.address, dice, told)

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for part in range(at_once):
                group.create_task(some(part))

    asyncio.run(all_of_them())
    return told


def true(fact: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)


def check_log(server: Attacked) -> int:
    """Every line of the log is one of ours, and has nothing of a caller in it; how many there are."""
    lines = server.log.read_text().splitlines()
    for line in lines:
        told = json.loads(line)
        assert {"time", "level", "logger", "message"} <= told.keys()
        assert SECRET not in line
        assert "Traceback" not in line
    return len(lines)


def fuzz(folder: Path, seed: int, count: int, record_property: Callable[[str, object], None]) -> None:
    with attacked(folder, access_log=True, traces=50, limits={"body_timeout": 2, "header_timeout": 2}) as server:
        true(lambda: server.inflight == 0)
        files = server.files
        told = attack(server, seed, count)
        for status in told:
            assert not status.startswith("5") or status == "503", told
        assert told["200"] > 0
        assert told["400"] > 0
        true(lambda: server.inflight == 0)
        true(lambda: server.files <= files + KEPT + 1)
    lines = check_log(server)
    for name, value in {**told, "log_lines": lines}.items():
        record_property(name, value)


def test_a_few_hundred_broken_requests_leave_nothing_behind(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    fuzz(tmp_path, 0, 480, record_property)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 21))
def test_a_thousand_broken_requests_leave_nothing_behind(
    seed: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    fuzz(tmp_path, seed, 1008, record_property)


# -- load -------------------------------------------------------------------------------------------------------------


async def loaded(server: Attacked, seconds: float, told: Counter[str]) -> list[tuple[float, int, int]]:
    """Eight callers of every kind for so long; what the server took meanwhile, as (seconds, bytes, descriptors)."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    samples: list[tuple[float, int, int]] = []

    async def one(number: int) -> None:
        dice = random.Random(number)
        while loop.time() < end:
            await sent(server.address, dice, told)
            await asyncio.sleep(dice.random() / 10)
            # Waits for the answer, over a connection that is kept for some.
            reader, writer = await asyncio.open_connection(*server.address)
            for _ in range(dice.choice((1, 5, 20))):
                asked = {"model": "demo", "messages": [{"role": "user", "content": f"{SECRET} {dice.random()}"}]}
                strategy = dice.choice(("direct", "direct", "majority_vote", "best_of_n", "revision", "beam_search"))
                content = json.dumps(asked | {"strategy": strategy, "stream": dice.random() < 0.5}).encode()
                head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: "
                writer.write(head.encode() + b"%d\r\n\r\n" % len(content) + content)
                if dice.random() < 0.1:
                    break
                first = await reader.readuntil(b"\r\n\r\n")
                told.update(status.decode() for status in STATUS.findall(first))
                if b"chunked" in first:
                    await reader.readuntil(b"0\r\n\r\n")
                else:
                    await reader.readexactly(int(re.findall(rb"content-length: ([0-9]+)", first)[0]))
            writer.close()

    async def watch() -> None:
        while loop.time() < end:
            await asyncio.sleep(seconds / 120)
            samples.append((loop.time(), server.memory, server.files))
            if len(samples) % 4 == 0:
                server.tell_heap()

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(one(number))
        group.create_task(watch())
    return samples


def load(folder: Path, seconds: float, record_property: Callable[[str, object], None]) -> None:
    with attacked(folder, traces=50) as server:
        true(lambda: server.inflight == 0)
        files, told = server.files, Counter[str]()
        samples = asyncio.run(loaded(server, seconds, told))
        true(lambda: server.inflight == 0)
        true(lambda: server.files <= files + KEPT + 1, 60)
        for status in told:
            assert not status.startswith("5") or status == "503", told
    lines = check_log(server)
    # The first third fills caches and the heap; behind it the server is as large as it will be.
    steady = samples[len(samples) // 3 :]
    half = len(steady) // 2
    descriptors = [statistics.median(count for _, _, count in part) for part in (steady[:half], steady[half:])]
    heap = [json.loads(line) for line in server.heap.read_text().splitlines()]
    heap = heap[len(heap) // 3 :]
    record_property("answers", dict(told))
    record_property("rss_mb", [round(size / 2**20, 1) for _, size, _ in samples[:: max(1, len(samples) // 30)]])
    record_property("descriptors", descriptors)
    record_property("log_lines", lines)
    assert abs(descriptors[0] - descriptors[1]) <= 8
    # What lives, Python's part and the libraries': it does not grow at all.
    for what, values in zip(("python_blocks", "malloc_bytes"), zip(*heap, strict=True), strict=True):
        middle = len(values) // 2
        levels = [round(statistics.median(part)) for part in (values[:middle], values[middle:])]
        record_property(what, levels)
        if seconds > 600:
            assert levels[1] < levels[0] * 1.01
    if seconds > 600:
        # What is resident never falls, and rises by a step when more is wanted at a time than ever before.
        ends = samples[len(samples) * 2 // 3 :]
        slope = statistics.linear_regression([at for at, _, _ in ends], [size for _, size, _ in ends]).slope
        record_property("rss_kb_an_hour_in_the_last_third", round(slope * 3600 / 1024))
        assert slope * seconds < 2**20


def test_a_few_seconds_of_mixed_load_leave_nothing_behind(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    load(tmp_path, 4, record_property)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_half_an_hour_of_mixed_load_takes_no_more_memory_at_its_end(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    load(tmp_path, 1800, record_property)
