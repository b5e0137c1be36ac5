"""The server on Ray Serve before real engines: vLLM's own servers of the demo reasoner and of its reward model."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from ponder.server.ray.building import application
from tests.ray.cluster import Cluster, a_cluster
from tests.ray.test_serve import asked, body, read, streaming

pytestmark = pytest.mark.soak

CONFIG = """
model = "demo"
prm = "demo-prm"
drain_timeout = 8
[ledger]
url = "none"
[engine]
max_model_len = 2048
kv_cache_memory_bytes = 268435456
[prm_engine]
max_model_len = 2048
kv_cache_memory_bytes = 134217728
[ray]
cpus = 0.1
[prm_ray]
cpus = 0.1
"""
SCHEMA = {"type": "object", "properties": {"n": {"enum": [7, 19]}}, "required": ["n"], "additionalProperties": False}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    def build(config: Path, folder: Path) -> object:
        return application(config)

    with a_cluster(CONFIG, build) as one:
        yield one


def test_a_real_engine_answers_and_streams_the_same_for_a_seed(cluster: Cluster) -> None:
    assert len(cluster.up()) == 1
    whole = asked(cluster, 1, seed=7, max_tokens=64)
    with streaming(cluster, 1, seed=7, max_tokens=64) as response:
        parts = read(response)
    assert whole.text
    assert parts.text == whole.text


def test_an_answer_is_held_to_a_schema(cluster: Cluster) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    assert json.loads(asked(cluster, 2, response_format=wanted).text)["n"] in (7, 19)


def test_a_real_reward_model_judges_a_search(cluster: Cluster) -> None:
    wanted = body(3, strategy="beam_search", verifier="prm", thinking_budget=400)
    response = httpx.post(f"{cluster.url}/v1/chat/completions", json=wanted, timeout=300)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"]
    health = httpx.get(f"{cluster.url}/healthz", timeout=30).json()
    assert health["models"]["demo"]["reward_model"]["answers"], health
