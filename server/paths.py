"""Paths as callers write them: with a slash too many, without `/v1`, for what this server does not offer."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

ELSEWHERE = {
    "/v1/embeddings": "this server makes no embeddings",
    "/v1/batches": "this server takes no batches: send the requests themselves, it queues them",
    "/v1/files": "this server keeps no files",
    "/v1/images": "this server makes no images",
    "/v1/audio": "this server neither hears nor speaks",
    "/v1/moderations": "this server moderates nothing",
    "/v1/fine_tuning": "this server trains no models",
    "/v1/assistants": "this server has no assistants",
    "/v1/threads": "this server has no threads",
    "/v1/vector_stores": "this server has no vector stores",
    "/v1/rerank": "this server ranks nothing",
    "/v1/score": "this server scores no texts",
    "/v1/messages/batches": "this server takes no batches: send the messages themselves, it queues them",
    "/v1/complete": "Anthropic's text completions are not served: POST /v1/messages",
    "/tokenize": "this server gives out no tokens; POST /v1/messages/count_tokens counts those of a prompt",
    "/detokenize": "this server gives out no tokens",
    "/api/chat": "this server does not speak Ollama's API; POST /v1/chat/completions",
    "/api/generate": "this server does not speak Ollama's API; POST /v1/chat/completions",
    "/api/tags": "this server does not speak Ollama's API; GET /v1/models",
}
"""What other servers have, and what is to be said of it here."""
LONGEST = 128


def tidy(path: str) -> str:
    """The path with single slashes and none at its end: a base address is written with one, or without."""
    return re.sub("//+", "/", path).rstrip("/") or "/"


def hint(path: str, known: Iterable[str]) -> str:
    """What to say of a path that is none. It is not repeated."""
    path = tidy(path)[:LONGEST]
    for place, words in ELSEWHERE.items():
        if path == place or path.startswith(place + "/") or path == "/v1" + place or "/v1" + path == place:
            return words
    plain = {one: one.partition("/{")[0] for one in known if one != path}
    versioned = path if path.startswith("/v1/") else "/v1" + path
    close = [one for one in plain if plain[one] in (path, versioned)] or [
        one for one in plain if plain[one] in difflib.get_close_matches(versioned, plain.values(), n=1, cutoff=0.75)
    ]
    return f"there is no such route; did you mean {min(close, key=len)}?" if close else "there is no such route"
