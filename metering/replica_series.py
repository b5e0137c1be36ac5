"""What Prometheus is told of the replicas of models, read off them when it asks: those that were taken out leave no
series behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ponder.compute.replicas import ReplicaFacts

MOST = 256
"""Replicas of a model with series of their own; of the others there are none."""

GAUGES: Mapping[str, tuple[str, Callable[[ReplicaFacts], float | None]]] = {
    "up": ("1 where the replica is used, 0 where it is not.", lambda one: one.state in ("up", "trial")),
    "in_flight": ("Calls of this server that the replica works on.", lambda one: one.in_flight),
    "places": ("Calls that the replica works on at a time, as far as is known.", lambda one: one.places),
    "weight": ("The replica's share of what is new, of 1.", lambda one: one.weight),
    "running": ("Calls of anybody's that the replica works on, by its own word.", lambda one: one.running),
    "waiting": ("Calls of anybody's that wait for the replica, by its own word.", lambda one: one.waiting),
    "cache_ratio": ("The share of the replica's KV cache that is in use, of 1.", lambda one: one.cache),
}
COUNTERS: Mapping[str, tuple[str, Callable[[ReplicaFacts], int]]] = {
    "calls": ("Calls that the replica was given.", lambda one: one.calls),
    "spilled_calls": (
        "Of those, the ones that another should have had, which was full or away.",
        lambda one: one.spilled,
    ),
    "lost_calls": ("Calls that were gone on with elsewhere, as the replica went away or failed.", lambda one: one.lost),
    "falls": ("Times the replica went away.", lambda one: one.falls),
}
LABELS = ("model", "replica")


class ReplicaSeries(Collector):
    """The series of all pools."""

    def __init__(self) -> None:
        self._pools: dict[str, Callable[[], Sequence[ReplicaFacts]]] = {}

    def follow(self, model: str, facts: Callable[[], Sequence[ReplicaFacts]]) -> None:
        """Shows the replicas of a model from now on."""
        self._pools[model] = facts

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        if not self._pools:
            return
        told = [(model, one) for model, facts in self._pools.items() for one in list(facts())[:MOST]]
        for name, (words, of) in GAUGES.items():
            gauge = GaugeMetricFamily(f"ponder_replica_{name}", words, labels=LABELS)
            for model, one in told:
                if (value := of(one)) is not None:
                    gauge.add_metric((model, one.url), float(value))
            yield gauge
        for name, (words, of) in COUNTERS.items():
            counter = CounterMetricFamily(f"ponder_replica_{name}", words, labels=LABELS)
            for model, one in told:
                counter.add_metric((model, one.url), of(one))
            yield counter
