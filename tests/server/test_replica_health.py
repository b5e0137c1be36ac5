"""What a server over replicas tells of them: whether it is ready, how each stands, and in which series."""

from __future__ import annotations

import asyncio

import httpx

from ponder.compute.lengths import Lengths
from ponder.server.app import create_app
from ponder.server.registry import ServedModel
from ponder.server.settings import ModelSettings, Settings
from tests.engines.replica_fakes import Cluster


def test_a_server_is_ready_as_long_as_one_replica_can_be_used_and_tells_how_each_stands() -> None:
    cluster = Cluster.of(2, takes=float("inf"))

    async def go() -> None:
        async with cluster.pool(interval=0.1) as pool:
            served = ServedModel(pool, Lengths(20, 40), ModelSettings(path="scripted"))
            app = create_app(Settings(), {"scripted": served})
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                body = {"model": "scripted", "messages": [{"role": "user", "content": "?"}]}
                assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
                await until(lambda: [one.state for one in pool.replicas] == ["up", "up"])
                assert (await client.get("/readyz")).status_code == 200
                told = (await client.get("/healthz")).json()["models"]["scripted"]
                assert [one["url"] for one in told["replicas"]] == ["http://a:1", "http://b:1"]
                assert sum(one["weight"] for one in told["replicas"]) == 1.0
                assert sum(one["calls"] for one in told["replicas"]) >= 1
                cluster.all[0].kill()
                await until(lambda: pool.replicas[0].state == "away")
                assert (await client.get("/readyz")).status_code == 200
                series = (await client.get("/metrics")).text
                assert 'ponder_replica_up{model="scripted",replica="http://a:1"} 0.0' in series
                assert 'ponder_replica_up{model="scripted",replica="http://b:1"} 1.0' in series
                assert 'ponder_replica_falls_total{model="scripted",replica="http://a:1"} 1.0' in series
                cluster.all[1].kill()
                await until(lambda: pool.state == "restarting")
                away = await client.get("/readyz")
                assert away.status_code == 503
                assert int(away.headers["retry-after"]) >= 1
                assert "no replica of a model can be used" in away.text
                hurried = {"x-request-timeout": "0.5"}
                refused = await client.post("/v1/chat/completions", json=body, headers=hurried)
                assert refused.status_code == 503
                assert "no replica of the model can be used now" in refused.json()["error"]["message"]
                assert (await client.get("/livez")).status_code == 200

    asyncio.run(go())


async def until(holds: object) -> None:
    assert callable(holds)
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 (the pool looks at an interval)
            await asyncio.sleep(0.02)
