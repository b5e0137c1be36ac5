"""Responses as they are told where nobody is left to write them (cancelled, or failed with their server), and what of
their thoughts is kept and given."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ponder.server.dialect import Item

LOST = "the server that ran this response ended before it was complete: send the request again"
"""Why one has failed whose server is gone."""
THOUGHTS = "reasoning.encrypted_content"
"""What `include` calls sealed thoughts."""
SEALED = "encrypted_content"


def failed(response: Item, message: str) -> dict[str, Any]:
    """One that comes to no answer by the server's fault."""
    return {
        **response,
        "status": "failed",
        "error": {"code": "server_error", "message": message, "type": "server_error"},
    }


def ended(response: Item, status: str) -> dict[str, Any]:
    """What was told at its beginning, as it is when it has this status and nobody has written more."""
    return failed(response, LOST) if status == "failed" else {**response, "status": status}


def last_event(response: Item, number: int) -> bytes:
    """The end of a stream that its writer could not end. There is no event for one that was cancelled: the response in
    it says so."""
    kind = "response.failed" if response["status"] == "failed" else "response.incomplete"
    told = {"type": kind, "sequence_number": number, "response": response}
    return f"event: {kind}\ndata: {json.dumps(told)}\n\n".encode()


def parted(response: Item, sealed: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """A response without thoughts, and its sealed ones by the ids of their items. A thought in plain text, which a key
    with the scope for it was shown, is not kept."""
    found = {item["id"]: item[SEALED] for item in response["output"] if item.get(SEALED)}
    output = [_plain(item) if item.get("type") == "reasoning" else item for item in response["output"]]
    return {**response, "output": output}, {**found, **sealed}


def _plain(item: Item) -> Item:
    return {name: value for name, value in item.items() if name not in ("content", SEALED)}


def joined(items: Sequence[Item], sealed: Mapping[str, str]) -> list[Item]:
    """Items with their thoughts, sealed, where they belong."""
    return [{**item, SEALED: sealed[item["id"]]} if item.get("id") in sealed else item for item in items]


def listed(items: Sequence[Item], include: Collection[str]) -> list[Item]:
    """Items as they are given to whoever asks for them, with what `include` names."""
    if THOUGHTS in include:
        return list(items)
    return [{name: value for name, value in item.items() if name != SEALED} for item in items]
