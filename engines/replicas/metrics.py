"""What a vLLM server says of its work in `/metrics`: a few of its series, over all engines behind one address."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite

from ponder.compute.errors import EngineError
from ponder.engines.replicas.replica import Load

_LINE = re.compile(r"^(vllm:[a-z_]{1,64})(?:\{(.{0,4096})\})? ([0-9.eE+-]{1,32})$")
_LABEL = re.compile(r'([a-z_]{1,64})="([^"\\]{0,256})"')

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
CACHE = "vllm:kv_cache_usage_perc"
QUERIES, HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
CONFIG = "vllm:cache_config_info"


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """The series of vLLM's: name, labels, value."""
    for line in text.splitlines():
        if (found := _LINE.match(line)) is not None:
            try:
                value = float(found[3])
            except ValueError:
                continue
            if isfinite(value):
                yield found[1], dict(_LABEL.findall(found[2] or "")), value


def load_of(text: str, who: str) -> Load:
    """Raises `EngineError` where it says nothing of requests: another program's, or statistics are off."""
    sums: dict[str, list[float]] = {}
    for name, _, value in samples(text):
        if name in (RUNNING, WAITING, CACHE, QUERIES, HITS):
            sums.setdefault(name, []).append(max(0.0, value))
    if RUNNING not in sums or WAITING not in sums:
        raise EngineError(
            f"{who} does not say in /metrics how many requests it has: was it started with statistics off?"
        )
    total = {name: int(sum(values)) for name, values in sums.items()}
    cache = sums.get(CACHE, [0.0])
    return Load(
        total[RUNNING], total[WAITING], min(1.0, sum(cache) / len(cache)), total.get(QUERIES, 0), total.get(HITS, 0)
    )


def caches_prefixes(text: str) -> bool | None:
    """Whether it keeps what it has read of prompts; None where it does not say."""
    for name, labels, _ in samples(text):
        if name == CONFIG and "enable_prefix_caching" in labels:
            return labels["enable_prefix_caching"] == "True"
    return None
