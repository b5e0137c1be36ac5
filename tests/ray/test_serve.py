"""The server on Ray Serve, two doors on a cluster of this machine: answers, streams, hang-ups, killed replicas, scaling
by backlog, and the end. Its engines write without a model, and what they write follows from what they are asked."""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ponder.server.ray.building import application
from tests.metering.databases import PostgreSQL, postgresql
from tests.ray.cluster import Cluster, a_cluster, until, writer
from tests.ray.light import Light

CONFIG = """
model = "demo"
ray_doors = 2
drain_timeout = 8
[ledger]
url = "{ledger}"
[engine]
max_num_seqs = 2
[ray]
min_replicas = 2
max_replicas = 3
backlog_seconds = 1
up_after = 0.2
down_after = 2
cpus = 0.1
"""
PACE = 0.03
"""Seconds for a token; a chain has 52 to 92."""
KILLED = 3
PRICES = "\n[prices]\nversion = '{version}'\n[prices.default]\ninput = 1\nthinking = 1\n"


@pytest.fixture(scope="module")
def ledger() -> Generator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(ledger: PostgreSQL) -> Generator[Cluster]:
    writes = writer(PACE)
    with a_cluster(
        CONFIG.format(ledger=ledger.new()),
        lambda config, folder: application(config, programs=lambda _, __: Light(str(folder), writes)),
        cpus=3,
    ) as one:
        yield one


@dataclass(frozen=True)
class Answer:
    """What came of a request."""

    text: str
    usage: Any
    id: str


def body(number: int, **more: Any) -> dict[str, Any]:
    question = [{"role": "user", "content": f"Number {number}?"}]
    return {"model": "demo", "messages": question, "thinking_budget": 200, "strategy": "direct"} | more


def asked(cluster: Cluster, number: int, **more: Any) -> Answer:
    response = httpx.post(f"{cluster.url}/v1/chat/completions", json=body(number, **more), timeout=60)
    assert response.status_code == 200, response.text
    told = response.json()
    return Answer(told["choices"][0]["message"]["content"], told["usage"], response.headers["request-id"])


@contextmanager
def streaming(cluster: Cluster, number: int, **more: Any) -> Generator[httpx.Response]:
    wanted = body(number, stream=True, stream_options={"include_usage": True}, **more)
    with httpx.stream("POST", f"{cluster.url}/v1/chat/completions", json=wanted, timeout=60) as response:
        assert response.status_code == 200
        yield response


def read(response: httpx.Response) -> Answer:
    """A stream to its end."""
    texts, usage, done = list[str](), None, False
    for line in response.iter_lines():
        if line == "data: [DONE]":
            done = True
        elif line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            texts += [choice["delta"].get("content") or "" for choice in event["choices"]]
            usage = event.get("usage") or usage
    assert done
    return Answer("".join(texts), usage, response.headers["request-id"])


def billed(cluster: Cluster, answer: Answer) -> dict[str, Any]:
    """The row of its request in the ledger."""
    return httpx.get(f"{cluster.url}/v1/usage/{answer.id}", timeout=30).raise_for_status().json()


def of_tokens(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if "token" in name}


def test_an_answer_is_the_same_streamed_and_counted_once(cluster: Cluster) -> None:
    until(lambda: len(cluster.up()) == 2)
    whole = asked(cluster, 1)
    with streaming(cluster, 1) as response:
        parts = read(response)
    assert whole.text.split()
    assert (parts.text, parts.usage) == (whole.text, whole.usage)
    assert of_tokens(billed(cluster, parts)) == of_tokens(billed(cluster, whole))


def test_an_answer_has_one_request_id_the_one_of_the_ledger(cluster: Cluster) -> None:
    response = httpx.get(f"{cluster.url}/v1/models", timeout=30)
    assert response.headers.get_list("x-request-id") == [response.headers["request-id"]]


def doors_of(cluster: Cluster, series: str) -> set[str]:
    """The doors that a series of `/metrics` is of."""
    text = httpx.get(f"{cluster.url}/metrics", timeout=30).raise_for_status().text
    return {
        sample.labels["door"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == series
    }


def test_the_metrics_are_those_of_all_doors_and_all_read_the_configuration_again(cluster: Cluster) -> None:
    assert len(doors_of(cluster, "ponder_build_info")) == 2

    def reloaded() -> list[str]:
        return httpx.post(f"{cluster.url}/v1/reload", timeout=30).raise_for_status().json()["changed"]

    cluster.config.write_text(cluster.config.read_text() + PRICES.format(version="two"))
    assert reloaded() == ["prices"]
    # Whichever door answers, it has it already.
    assert [reloaded() for _ in range(8)] == [[]] * 8


def test_who_asks_by_a_name_of_another_machine_is_refused_where_there_is_no_key(cluster: Cluster) -> None:
    response = httpx.get(f"{cluster.url}/v1/models", headers={"Host": "example.com"}, timeout=30)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "host_not_allowed")


def test_a_hang_up_reaches_the_engine(cluster: Cluster) -> None:
    """Sixteen chains on four places would take four times as long as one."""
    with streaming(cluster, 2, strategy={"name": "majority_vote", "n": 16}, thinking_budget=3200) as response:
        begun = response.iter_raw()
        next(begun)
        until(lambda: cluster.busy)
    until(lambda: not cluster.busy, 3.0)


@pytest.mark.parametrize("what", [pytest.param("server", marks=pytest.mark.soak), "replica"])
def test_a_replica_that_is_killed_amid_a_stream_leaves_no_gap_and_is_counted_once(cluster: Cluster, what: str) -> None:
    until(lambda: len(cluster.up()) == 2)
    undisturbed = asked(cluster, KILLED)
    with streaming(cluster, KILLED) as response:
        [pid] = until(lambda: cluster.busy)
        process = psutil.Process(pid)
        victim = process if what == "server" else process.parent()
        assert victim is not None
        victim.kill()
        answer = read(response)
    assert (answer.text, answer.usage) == (undisturbed.text, undisturbed.usage)
    assert of_tokens(billed(cluster, answer)) == of_tokens(billed(cluster, undisturbed))
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_door_that_is_killed_ends_its_own_requests_alone_and_another_settles_them(cluster: Cluster) -> None:
    until(lambda: len(cluster.up()) == 2 and len(cluster.doors) == 2)
    undisturbed = asked(cluster, KILLED)

    def whole(response: httpx.Response) -> bool:
        try:
            return read(response).text == undisturbed.text
        except (httpx.TransportError, AssertionError):
            return False

    with ExitStack() as open_, ThreadPoolExecutor(6) as readers:
        streams = [open_.enter_context(streaming(cluster, KILLED)) for _ in range(6)]
        psutil.Process(cluster.doors[0]).kill()
        ended = list(readers.map(whole, streams))
    assert 0 < sum(ended) < 6
    for stream, answered in zip(streams, ended, strict=True):
        answer = Answer("", None, stream.headers["request-id"])
        row = until(lambda answer=answer: (found := billed(cluster, answer))["outcome"] and found)
        assert row["outcome"] == ("answered" if answered else "lost")
        assert row["thinking"] + row["answer"] <= undisturbed.usage["completion_tokens"]
    assert asked(cluster, KILLED).text == undisturbed.text


def test_replicas_come_with_seconds_of_backlog_and_go_without_cutting_a_chain(cluster: Cluster) -> None:
    until(lambda: len(cluster.up()) == 2)
    undisturbed, grown = asked(cluster, 5), threading.Event()

    def caller() -> None:
        while not grown.is_set():
            assert asked(cluster, 5).text == undisturbed.text

    with ThreadPoolExecutor(16) as callers:
        calling = [callers.submit(caller) for _ in range(16)]
        try:
            until(lambda: len(cluster.up()) == 3)
        finally:
            grown.set()
        for one in calling:
            one.result()
        while len(cluster.up()) > 2:
            streams = [callers.submit(asked, cluster, 5) for _ in range(2)]
            assert all(one.result().text == undisturbed.text for one in streams)


def test_in_place_of_the_door_that_was_killed_there_is_another(cluster: Cluster) -> None:
    until(lambda: len(doors_of(cluster, "ponder_build_info")) == 2)


def test_what_runs_when_the_application_is_deleted_is_answered(cluster: Cluster) -> None:
    until(lambda: len(cluster.up()) >= 2)
    undisturbed = asked(cluster, 6)
    serve: Any = importlib.import_module("ray.serve")
    vote: Any = {"strategy": {"name": "majority_vote", "n": 48}, "thinking_budget": 9600}
    with streaming(cluster, 6) as response, streaming(cluster, 7, **vote) as long, ThreadPoolExecutor(1) as beside:
        until(lambda: cluster.busy)
        deleted = beside.submit(serve.delete, "ponder")
        assert read(response).text == undisturbed.text
        # The door has been told nothing, and yet it answers with its best before its time is over.
        assert read(long).text
        deleted.result()
    assert not cluster.servers
