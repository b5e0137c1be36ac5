"""What the doctor says of replicas: which answer, what they are, and what they are started without."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ponder.server.commands import doctor
from ponder.server.commands.doctor import Finding
from ponder.server.settings import ModelSettings
from ponder.server.settings.replicas import ReplicaSettings
from tests.engines.scripted_server import ScriptedServer
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm

DEMO = str(Path(__file__).parents[2] / "models" / "demo")


def server(**more: object) -> ScriptedServer:
    return ScriptedServer(ScriptedVllm(FAMILIES["ids"], Nature()), **more)  # type: ignore[arg-type]


async def told(replicas: ReplicaSettings) -> list[Finding]:
    settings = ModelSettings(path=DEMO, replicas=replicas)
    return await asyncio.to_thread(doctor.replicas, "demo", settings)


def test_each_replica_is_asked_and_what_it_lacks_is_said_with_its_flag() -> None:
    async def go() -> None:
        async with server(key="sesame", version="0.32.0").serving() as url:
            away = "http://127.0.0.1:1"
            found = await told(ReplicaSettings(urls=[url, away], key="sesame"))  # type: ignore[arg-type]
            good, *lacking, bad = found
            assert (good.ok, good.words) == (
                True,
                f"demo: the replica at {url} is vLLM 0.32.0 with a context of 2048 tokens",
            )
            assert all(one.ok is None and url in one.words for one in lacking)
            assert "vllm serve ... --enable-scale-out" in [one.mend for one in lacking]
            assert (bad.ok, bad.mend) == (False, f"curl -i {away}/v1/models")
            assert "127.0.0.1:1" in bad.words
            (locked,) = await told(ReplicaSettings(urls=[url]))
            assert locked.ok is False
            assert "key" in locked.words

    asyncio.run(go())


def test_a_file_without_addresses_is_said(tmp_path: Path) -> None:
    file = tmp_path / "replicas"
    file.write_text("# none yet\n")
    (found,) = asyncio.run(told(ReplicaSettings(file=file)))
    assert (found.ok, found.words) == (False, "demo: there is no address of a replica now")


def test_a_model_whose_engines_are_here_has_none() -> None:
    assert doctor.replicas("demo", ModelSettings(path=DEMO)) == []
