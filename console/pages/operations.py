"""Operations: how the server, its models and their replicas are, and what went wrong lately."""

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from ponder.clients.answers import AskError, Refused
from ponder.console import units
from ponder.console.api import Api, passes, words
from ponder.console.metrics import series
from ponder.console.page import Page, Visit
from ponder.console.parts import empty, figure, figures, panel, problem, table, text

__all__ = ["PAGE"]

EVERY = 5.0
"""Seconds between two looks."""
STATES = {
    "ok": "All is well",
    "degraded": "A reward model is away: answers are judged by another verifier",
    "draining": "The server is going down, and takes no new requests",
    "unavailable": "A model does not answer, or the ledger cannot be written to",
}


async def _operations(visit: Visit) -> None:
    place = ui.element("div").classes("stack")
    before: dict[str, Any] = {}

    async def look() -> None:
        try:
            health = await visit.api.health()
            metrics = await _text(visit.api, "/metrics")
            engine = await _text(visit.api, "/metrics/engine")
        except AskError as error:
            timer.active = passes(error)
            if before.get("wrong") != words(error):
                before.clear()
                before["wrong"] = words(error)
                place.clear()
                with place:
                    problem(words(error))
            return
        # What changes with the clock alone is no reason to draw anew: who reads keeps their place.
        seen = json.dumps([health | {"uptime_seconds": 0}, _drift(metrics), _cache(engine)], sort_keys=True)
        if before.get("seen") == seen:
            return
        before.clear()
        before["seen"] = seen
        place.clear()
        with place:
            _server(health, metrics)
            _models(health, engine, metrics)
            for name, model in health["models"].items():
                if model.get("replicas"):
                    _replicas(name, model["replicas"])
            _errors(health["errors"])

    timer = ui.timer(EVERY, look, immediate=False)
    await look()


async def _text(api: Api, path: str) -> str:
    """The series of a page of metrics; none where this key may not read them."""
    try:
        return await api.text(path)
    except Refused as error:
        if error.status == 403:
            return ""
        raise


def _drift(metrics: str) -> float | None:
    found = series(metrics, "ponder_meter_drift_tokens_total") or series(metrics, "ponder_meter_drift_tokens")
    return sum(value for _, value in found) if found else None


def _cache(engine: str) -> dict[str, float]:
    """The share of the KV cache that is in use, by model."""
    found = series(engine, "vllm:kv_cache_usage_perc") or series(engine, "vllm:gpu_cache_usage_perc")
    return {labels.get("model_name", ""): value for labels, value in found}


def _server(health: Mapping[str, Any], metrics: str) -> None:
    with panel("Server"):
        said = text(STATES.get(health["status"], str(health["status"])), "p").props('role="status"')
        said.classes("good" if health["status"] == "ok" else "bad")
        drift = _drift(metrics)
        with figures():
            figure("Version", str(health["version"]))
            figure("Up for", units.seconds(health["uptime_seconds"]))
            figure("Running", units.counted(health["inflight"], "request"))
            figure("Waiting", units.counted(health["queued"], "request"))
            figure("Drift of the meter", units.tokens(drift))
        if drift:
            problem("Tokens were made that no row of the ledger has: docs/metering.md says how that can be.")


def _models(health: Mapping[str, Any], engine: str, metrics: str) -> None:
    cache, cached = _cache(engine), _cached(metrics)
    columns = ("Model", "Engine", "Restarts", "Calls", "Waiting", "Tokens a second", "KV cache", "Prompts from cache")
    lines: list[list[str]] = []
    for name, model in health["models"].items():
        lines.append(_line(name, model, cache.get(name), cached.get(name)))
        if (reward := model.get("reward_model")) is not None:
            lines.append(_line(f"{reward['name']} (judges {name})", reward, None, None))
    with panel("Models", "Tokens a second: with all its places taken, as calls were lately."):
        table(columns, lines, says="Engines of this server", numbers=(2, 3, 4, 5, 6, 7))


def _line(name: str, model: Mapping[str, Any], cache: float | None, cached: float | None) -> list[str]:
    calls = model.get("calls")
    state = model.get("engine", "up")
    return [
        name,
        state if model["answers"] else f"{state}, does not answer",
        units.counted(model.get("restarts", 0), "time"),
        units.NONE if calls is None else f"{units.whole(calls['held'])} of {units.whole(calls['places'])} places",
        units.NONE if calls is None else units.counted(calls["waiting"], "call"),
        units.NONE if calls is None else units.rate(calls["tokens_per_second"] or None),
        units.percent(cache),
        units.percent(cached),
    ]


def _cached(metrics: str) -> dict[str, float]:
    """The share of what models read that was in the prefix cache, by model, since the server began."""
    found: dict[str, dict[str, float]] = {}
    for labels, value in series(metrics, "ponder_engine_tokens_total"):
        if labels.get("role") == "generator" and labels.get("kind") in ("prompt", "cached"):
            found.setdefault(labels["model"], {})[labels["kind"]] = value
    return {model: kinds.get("cached", 0.0) / total for model, kinds in found.items() if (total := sum(kinds.values()))}


def _replicas(model: str, replicas: Sequence[Mapping[str, Any]]) -> None:
    with panel(f"Replicas of {model}"):
        table(
            ("Address", "State", "Calls", "Waiting", "KV cache", "Share", "Spilled", "Lost", "Falls"),
            [
                [
                    one["url"],
                    f"{one['state']}: {one['why']}" if one.get("why") else one["state"],
                    f"{units.whole(one['in_flight'])} of {units.whole(one['places'])} places",
                    units.NONE if one.get("waiting") is None else units.counted(one["waiting"], "call"),
                    units.percent(one.get("cache")),
                    units.percent(one["weight"]),
                    units.counted(one["spilled"], "call"),
                    units.counted(one["lost"], "call"),
                    units.counted(one["falls"], "time"),
                ]
                for one in replicas
            ],
            says=f"Servers that run {model}",
            numbers=(2, 3, 4, 5, 6, 7, 8),
        )


def _errors(errors: Sequence[Mapping[str, Any]]) -> None:
    with panel("Errors of the last hour", "What callers were told, by code."):
        if not errors:
            empty("Nobody was told of an error in the last hour.")
            return
        table(
            ("Code", "Status", "How often", "Last"),
            [
                [
                    one["code"],
                    f"HTTP {one['status']}",
                    units.counted(one["count"], "time"),
                    f"{datetime.fromtimestamp(one['last_at'], UTC):%H:%M:%S} UTC",
                ]
                for one in errors
            ],
            says="Errors, the most frequent first",
            numbers=(2, 3),
        )


PAGE = Page(
    "/operations",
    "Operations",
    _operations,
    says="How the server is; looked at every five seconds.",
    icon="monitor_heart",
)
