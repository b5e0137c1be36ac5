"""What `/openapi.json` says is what is answered: schemathesis makes requests of it, valid and not, with a key, streamed
and not, and finds no failure and no status of a server that failed.

CI runs 2,000 of them; `make soak` 20,000.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.conformance.environments import HERE, environment
from tests.conformance.served import served

KEY = "sk-fuzzed"
PHASES = "coverage,fuzzing"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served("demo", key=KEY) as url:
        yield url


def fuzz(url: str, *, streamed: bool, each: int, seed: int) -> int:
    """How many requests were made, `each` at most of every operation and kind; of operations that stream alone where
    they are to be `streamed`. Each operation whose path names a model has answered one at least: what is in the body is
    too much for some to be valid by chance."""
    st = environment("schemathesis") / "bin" / "st"
    words = ["run", f"{url}/openapi.json", "--url", url, "--header", f"Authorization: Bearer {KEY}"]
    words += ["--max-examples", str(each), "--seed", str(seed), "--phases", PHASES, "--continue-on-failure"]
    words += ["--request-timeout", "500", "--suppress-health-check", "all"]
    if streamed:
        words += [word for path in streaming(url) for word in ("--include-path", path)]
        # Its own check of streams wants a schema of each event's fields (OpenAPI 3.2); ours, in hooks.py, holds the
        # data of each event to the schema.
        words += ["--exclude-checks", "response_schema_conformance"]
    config = HERE / "fuzz"
    with tempfile.NamedTemporaryFile("r") as told:
        done = subprocess.run(
            [str(st), "--config-file", str(config / "schemathesis.toml"), *words],
            cwd=config,
            env={
                **os.environ,
                "PONDER_STREAMED": str(int(streamed)),
                "PONDER_ANSWERED": told.name,
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        answered = {tuple(line.split("\t")) for line in told.read().splitlines()}
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    wanted = [path for path in (streaming(url) if streamed else asking(url)) if "{model}" in path]
    media = {"text/event-stream"} if streamed else {"application/json", "text/event-stream"}
    assert set(wanted) == {path for path, status, kind in answered if status == "200" and kind in media} & set(wanted)
    return int(re.findall(r"([0-9]+) generated", done.stdout)[-1])


def paths(url: str) -> dict[str, Any]:
    answer = httpx.get(f"{url}/openapi.json", headers={"authorization": f"Bearer {KEY}"}, timeout=60)
    return answer.json()["paths"]


def asking(url: str) -> list[str]:
    """The paths at which a model is asked, of every dialect."""
    return [path for path, item in paths(url).items() if item.get("post", {}).get("x-asks-a-model")]


def streaming(url: str) -> list[str]:
    """The paths at which a stream may be asked for."""
    return [
        path
        for path, item in paths(url).items()
        if "text/event-stream" in item.get("post", {}).get("responses", {}).get("200", {}).get("content", {})
    ]


def test_hundreds_of_requests_made_of_the_document_are_answered_as_it_says(url: str) -> None:
    """The longer forms are below."""
    assert fuzz(url, streamed=False, each=4, seed=7) + fuzz(url, streamed=True, each=2, seed=7) >= 600


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 6))
def test_four_thousand_more(seed: int, url: str, record_property: Callable[[str, object], None]) -> None:
    made = [fuzz(url, streamed=False, each=60, seed=seed), fuzz(url, streamed=True, each=150, seed=seed)]
    record_property("requests", made)
    assert sum(made) >= 4000
