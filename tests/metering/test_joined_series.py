"""The series of several servers as one text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ponder.metering.joined_series import joined


def told(requests: int, odd: str, *, waits: bool) -> bytes:
    registry = CollectorRegistry()
    counter = Counter("requests", "Of \\ all\nkinds.", ["model"], registry=registry)
    counter.labels(odd).inc(requests)
    Gauge("up", "1.", registry=registry).set(1)
    if waits:
        Histogram("seconds", "Of each.", ["model"], registry=registry).labels("a b").observe(requests)
    return generate_latest(registry)


def test_each_series_has_the_name_of_its_server_and_a_metric_stands_once() -> None:
    odd = 'a } "{b} \\n'
    text = joined({"one": told(3, odd, waits=False), "two": told(4, odd, waits=True)}, "door")
    families = list(text_string_to_metric_families(text.decode()))
    assert len({family.name for family in families}) == len(families)
    found = {
        (sample.name, sample.labels["door"], sample.labels.get("model")): sample.value
        for family in families
        for sample in family.samples
    }
    assert (found["requests_total", "one", odd], found["requests_total", "two", odd]) == (3, 4)
    assert (found["up", "one", None], found["up", "two", None]) == (1, 1)
    assert found["seconds_sum", "two", "a b"] == 4
    assert ("seconds_sum", "one", "a b") not in found


def test_a_server_that_tells_nothing_is_in_it_with_nothing() -> None:
    assert joined({}, "door") == b""
    assert joined({"one": b""}, "door") == b""
    assert joined({"one": b"bare 1\nempty{} 2\n"}, "door") == b'bare{door="one"} 1\nempty{door="one"} 2\n'
