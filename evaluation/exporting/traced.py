"""Rollouts of a running server: the traces that it keeps of an API key's own requests, where their texts are kept and
the key may see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ponder.clients.exchange import Exchange, Request, checked
from ponder.clients.sending import AsyncSender
from ponder.evaluation.exporting.rollouts import Asked, Rollout, together

PAGE = 1000
WHOLE = ("finished", "stop")
"""Endings of chains that are over as the model wanted it."""


async def from_server(
    sender: AsyncSender,
    *,
    model: str | None,
    forced: bool,
    left_out: Counter[str],
) -> list[Asked]:
    """The questions of all traces, of one `model` where it is named. `forced`: also chains whose thought was closed by
    force. What cannot be used is counted in `left_out` by its reason. Raises what `ponder.clients` does."""
    listed = [one for one in await sender.result(_listed()) if model in (None, one["model"])]
    shown = [one["id"] for one in listed if one["text"]]
    left_out["traces without text"] += len(listed) - len(shown)
    found: list[Asked] = []
    for id in shown:
        found += await sender.result(_questions(id, forced, left_out))
    return together(found)


def _listed() -> Exchange[list[dict[str, Any]]]:
    """All traces of the key, the newest first."""
    found: list[dict[str, Any]] = []
    more = True
    while more:
        after = f"&after={quote(found[-1]['id'])}" if found else ""
        response = yield Request("GET", f"/v1/traces?own=true&limit={PAGE}{after}")
        if found and response.status_code == 404:
            break  # The oldest have gone meanwhile.
        page = checked(response).json()
        found += page["data"]
        more = page["has_more"]
    return found


def _questions(id: str, forced: bool, left_out: Counter[str]) -> Exchange[list[Asked]]:
    """The choices of a request."""
    response = yield Request("GET", f"/v1/traces/{quote(id)}")
    if response.status_code == 404:
        left_out["traces that have gone meanwhile"] += 1
        return []
    trace = checked(response).json()
    if "markers" not in trace:
        left_out["traces without text"] += 1
        return []
    before, behind = trace["markers"]["before"], trace["markers"]["behind"]
    found: list[Asked] = []
    for choice in trace["choices"]:
        asked: dict[str, Any] = choice.get("prompt", {})
        reason = "raw texts" if "messages" not in asked else "conversations with tools" if asked["tools"] else ""
        reason = reason or ("conversations with images" if asked["images"] else "")
        if reason:
            left_out[reason] += 1
            continue
        rollouts: list[Rollout] = []
        for call in choice["calls"]:
            text = call.get("text")
            if text is None or not text["own_prompt"] or call["ending"] not in WHOLE:
                continue
            if text["forced"] and not forced:
                left_out["chains whose thought was closed by force"] += 1
                continue
            rollouts.append(
                Rollout(
                    text=written(text["thought"], text["answer"], before, behind),
                    answer=text["answer"],
                    tokens=sum(one["tokens"]["hidden"] + one["tokens"]["visible"] for one in _line(choice, call)),
                    score=call["score"],
                    chosen=call["chosen"],
                )
            )
        found.append(Asked(tuple(asked["messages"]), tuple(rollouts)))
    return found


def written(thought: str, answer: str, before: str, behind: str) -> str:
    """A chain as its model writes it. One without a thought is its answer."""
    return before + thought.strip() + behind + answer.strip() if thought.strip() else answer.strip()


def _line(choice: Mapping[str, Any], call: dict[str, Any]) -> list[dict[str, Any]]:
    """A call and those that it continues."""
    line = [call]
    while (parent := line[-1]["parent"]) is not None:
        line.append(choice["calls"][parent])
    return line
