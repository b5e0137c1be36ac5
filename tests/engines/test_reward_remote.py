"""A process reward model on another vLLM server: judged as in this process, and every failure of that server is said.

Most servers here are scripted, behind real sockets; the last tests ask a real vLLM.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import SecretStr

from ponder.compute.errors import EngineError
from ponder.compute.text import Candidate, Hidden, Message, Prompt
from ponder.engines.launch import EngineOptions
from ponder.engines.reward import ProcessRewardModel
from ponder.engines.reward_profiles import RewardProfile
from ponder.engines.reward_remote import connect_reward, reach
from ponder.engines.reward_vllm import start_reward
from ponder.server.model_paths import locate
from tests.engines.pooler import PRM, Answer, Pooler, rows, score
from tests.engines.vllm_server import vllm_serving
from tests.fakes import Told
from tests.server.serving import ASK, door, scripted, serving, until

PROMPT = Prompt((Message("user", "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"),))
LINES = ("12 + 7 = 19", "19 - 4 = 15", "15 * 2 = 30", "30 / 3 = 10", "10 + 1 = 11")
KEY = SecretStr("sesame-open")
SECRET = "what the chain says"


def chain(*lines: str) -> Candidate:
    thought = "".join(line + "\n" for line in lines)
    return Candidate(0, PROMPT, Hidden(()), Hidden(thought), "", 0, 0, True, "step")


async def connected(url: str, model: str | None = None, key: SecretStr | None = None) -> ProcessRewardModel:
    return await connect_reward(url, model=model, key=key, locate=locate)


def refusal(url: str, model: str | None = None, key: SecretStr | None = None) -> str:
    """Why the model at this address cannot be used."""
    with pytest.raises(EngineError) as caught:
        asyncio.run(connected(url, model, key))
    return caught.value.message


# -- what is asked, and what is made of the answer ---------------------------------------------------------------------


def test_the_family_of_a_reward_model_may_be_said() -> None:
    async def go(url: str) -> str:
        model = await connect_reward(url, model=None, key=None, locate=locate, profile=RewardProfile(name="mine"))
        await model.close()
        return model.profile.name

    with serving(Pooler().app()) as place:
        assert asyncio.run(go(place.url)) == "mine"


def test_steps_are_scored_by_the_rows_behind_them_and_what_is_known_is_not_asked_again() -> None:
    pooler = Pooler(usage={"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 7}})

    async def go(url: str) -> None:
        model = await connected(url)
        assert (model.name, model.profile.name, model.reader.context) == ("judge", "demo-prm", 512)
        pooler.asked.clear()

        told = Told()
        [found] = await model.reward(PROMPT, [chain(*LINES[:3])], read=told)
        prefixes = model.prefixes(PROMPT, LINES[:3])
        assert found.steps == pytest.approx([score(ids) for ids in prefixes])
        assert (told.tokens, told.cached, found.truncated) == (len(prefixes[-1]), 7, False)
        [asked] = pooler.asked
        assert asked == {
            "model": "judge",
            "task": "token_classify",
            "input": prefixes[-1],
            "encoding_format": "float",
        }

        again, longer, nothing = await model.reward(PROMPT, [chain(*LINES[:2]), chain(*LINES[:4]), chain()], read=told)
        assert again.steps == found.steps[:2]
        assert told.calls == 2
        assert longer.steps[:3] == found.steps
        assert nothing.steps == ()
        assert len(pooler.asked) == 2
        assert model.aggregate((0.9, 0.2)) == 0.2

        [cut] = await model.reward(PROMPT, [chain(*LINES * 20)], read=Told())
        assert cut.truncated
        assert max(len(asked["input"]) for asked in pooler.asked) < 512
        await model.close()
        await model.close()
        with pytest.raises(EngineError, match=r"judge at .* is closed"):
            await model.reward(PROMPT, [chain("1 + 1 = 2")], read=Told())

    with serving(pooler.app()) as place:
        asyncio.run(go(place.url))


def test_a_family_that_writes_its_verdicts_is_asked_for_the_likelihood_of_its_labels(tmp_path: Path) -> None:
    folder = tmp_path / "math-shepherd"
    shutil.copytree(PRM, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    pooler = Pooler()

    async def go(url: str) -> None:
        reader = await reach(url, model=str(folder), key=None)
        pooler.likely = {"token_id:7": math.log(0.5)}
        await reader.check()
        [asked] = pooler.asked
        assert asked["prompt"] == [1, 2, 3]
        assert (asked["max_tokens"], asked["return_tokens_as_token_ids"]) == (1, True)
        pooler.likely = {"token_id:7": math.log(0.6), "token_id:8": math.log(0.2), "token_id:9": math.log(0.1)}
        [[good, bad]] = (await reader.read((1, 2, 3), (7, 8), None)).rows
        assert (good, bad) == pytest.approx((math.log(0.6), math.log(0.2)))
        [[good, bad]] = (await reader.read((1, 2, 3), (7, 5), None, "req_1/0.2/reward")).rows
        assert [name.rpartition("-")[0] for name in pooler.names] == ["check", "check", "req_1/0.2/reward"]
        assert len(set(pooler.names)) == 3
        assert (good, bad) == pytest.approx((math.log(0.6), math.log(0.1)))
        pooler.likely = {" +": -0.1}
        with pytest.raises(EngineError, match="no token ids"):
            await reader.read((1, 2, 3), (7, 8), None)
        await reader.close()

        pooler.likely = {"token_id:1": -1.0, "token_id:2": -2.0}
        model = await connected(url, str(folder))
        [found] = await model.reward(PROMPT, [chain("one")], read=Told())
        assert found.steps == (0.5,)
        await model.close()

    with serving(pooler.app()) as place:
        asyncio.run(go(place.url))


def test_the_key_is_sent_and_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with serving(Pooler(key=KEY.get_secret_value()).app()) as place:

        async def go() -> str:
            model = await connected(place.url, key=KEY)
            await model.close()
            return f"{model!r} {vars(model)!r} {vars(model.reader)!r}"

        told = asyncio.run(go())
        told += refusal(place.url, key=SecretStr("wrong-key"))
        assert "wants another key than prm_key (status 401)" in told
        told += refusal(place.url) + caplog.text
        assert KEY.get_secret_value() not in told
        assert "wrong-key" not in told


# -- what can be wrong with the server ---------------------------------------------------------------------------------


def cards(*roots: str, **more: Any) -> Any:
    listed = [{"id": f"m{n}", "root": root, "max_model_len": 512, **more} for n, root in enumerate(roots)]
    return {"data": listed}


def test_no_server_and_no_vllm_at_the_address_are_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert f"the reward model at http://127.0.0.1:{port} cannot be reached" in refusal(f"http://127.0.0.1:{port}")
    with serving(FastAPI()) as place:
        assert "answers /v1/models with status 404: the address of a vLLM server is wanted" in refusal(place.url)
    with serving(Pooler(cards={"models": []}).app()) as place:
        assert "answers /v1/models in a shape that does not fit" in refusal(place.url)
    with serving(Pooler(cards={"data": []}).app()) as place:
        assert "the server lists no model" in refusal(place.url)


def test_of_several_models_the_one_asked_for_is_taken() -> None:
    async def files(url: str, model: str | None) -> tuple[str, str]:
        reader = await reach(url, model=model, key=None)
        await reader.close()
        return reader.name, reader.files

    with serving(Pooler(cards=cards("org/a", str(PRM))).app()) as place:
        assert "is one of m0, m1: say which by prm_model" in refusal(place.url)
        assert asyncio.run(files(place.url, str(PRM))) == ("m1", str(PRM))
        assert asyncio.run(files(place.url, "org/a")) == ("m0", "org/a")
    with serving(Pooler(cards=cards("/theirs", "/theirs")).app()) as place:
        assert asyncio.run(files(place.url, None)) == ("m0", "/theirs")
        assert asyncio.run(files(place.url, str(PRM))) == ("m0", str(PRM))


def test_a_tokenizer_that_is_not_here_is_asked_for(tmp_path: Path) -> None:
    with serving(Pooler(cards=cards("/there/demo-prm")).app()) as place:
        told = refusal(place.url)
        assert "/there/demo-prm has none here (/there/demo-prm: no such folder" in told
        assert "set prm_model to a folder or hub id that has it" in told
        assert f"{tmp_path} has none here" in refusal(place.url, str(tmp_path))

        async def go() -> str:
            model = await connected(place.url, str(PRM))
            await model.close()
            return model.profile.name

        assert asyncio.run(go()) == "demo-prm"


def broken_off(ids: list[int]) -> Response:
    async def half() -> AsyncIterator[bytes]:
        yield b'{"data": [{"data": [[0.1,'
        raise ConnectionResetError

    return StreamingResponse(half(), media_type="application/json")


WRONG: dict[str, tuple[Answer, str]] = {
    "fails": (lambda ids: JSONResponse({"error": SECRET}, 500), r"answers /pooling with status 500$"),
    "is busy": (lambda ids: Response(SECRET, 503), r"answers /pooling with status 503$"),
    "has no pooling": (
        lambda ids: JSONResponse({"detail": SECRET}, 404),
        "status 404: .* started with --runner pooling",
    ),
    "refuses": (lambda ids: JSONResponse({"error": SECRET}, 400), "status 400: .* started with --runner pooling"),
    "leads elsewhere": (lambda ids: Response(status_code=307, headers={"location": "/x"}), "status 307"),
    "breaks off": (broken_off, r"cannot be reached \(RemoteProtocolError\)"),
    "gives no JSON": (lambda ids: Response(SECRET), "in a shape that does not fit: .* --runner pooling"),
    "gives one score for all": (lambda ids: [0.2, 0.8], "in a shape that does not fit: .* --runner pooling"),
    "gives words": (lambda ids: [[SECRET, SECRET] for _ in ids], "in a shape that does not fit"),
    "gives nothing": (lambda ids: [[None, None] for _ in ids], "in a shape that does not fit"),
    "gives a row less": (lambda ids: rows(ids)[1:], r"gives \d+ rows for \d+ tokens: .* --runner pooling"),
    "gives a row more": (lambda ids: [*rows(ids), [0.5, 0.5]], r"gives \d+ rows for \d+ tokens"),
    "has three numbers": (lambda ids: [[0.2, 0.3, 0.5] for _ in ids], r"3 numbers .* family \(demo-prm\) has 2"),
    "has one number": (lambda ids: [[0.5] for _ in ids], "1 numbers"),
    "gives no probability": (lambda ids: [[-3.0, 3.0] for _ in ids], r"a score of 3\.0, outside 0 to 1"),
    "gives no number": (
        lambda ids: Response(f'{{"data": [{{"data": [{", ".join(["[0.5, NaN]"] * len(ids))}]}}]}}'),
        "a score of nan, outside 0 to 1|in a shape that does not fit",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_answer_is_an_error_that_repeats_nothing_of_it(what: str) -> None:
    """At the start, and of one judging while requests are served: the next is asked for again."""
    answer, words = WRONG[what]
    pooler = Pooler()

    async def go(url: str) -> None:
        model = await connected(url)
        pooler.answer = answer
        with pytest.raises(EngineError, match=words) as caught:
            await model.reward(PROMPT, [chain(*LINES[:2]), chain(LINES[2])], read=Told())
        assert SECRET not in caught.value.message
        pooler.answer = rows
        assert len((await model.reward(PROMPT, [chain(*LINES[:2])], read=Told()))[0].steps) == 2
        await model.close()

    with serving(pooler.app()) as place:
        asyncio.run(go(place.url))
        pooler.answer = answer
        assert SECRET not in refusal(place.url)


def test_a_server_that_goes_away_fails_the_judging_until_it_is_back() -> None:
    async def go(model: ProcessRewardModel) -> None:
        with pytest.raises(EngineError, match=r"judge at .* cannot be reached"):
            await model.reward(PROMPT, [chain(*LINES)], read=Told())
        await model.close()

    with asyncio.Runner() as runner:
        with serving(Pooler().app()) as place:
            model = runner.run(connected(place.url))
        runner.run(go(model))


def test_cancelling_hangs_up() -> None:
    pooler = Pooler()

    async def go(url: str) -> None:
        model = await connected(url)
        pooler.hang = True
        pooler.asked.clear()
        async with asyncio.TaskGroup() as tasks:
            judging = tasks.create_task(model.reward(PROMPT, [chain(line) for line in LINES], read=Told()))
            await asyncio.to_thread(until, lambda: len(pooler.asked) == len(LINES))
            judging.cancel()
        assert judging.cancelled()
        await asyncio.to_thread(until, lambda: pooler.hung_up == len(LINES))
        pooler.hang = False
        assert (await model.reward(PROMPT, [chain(LINES[0])], read=Told()))[0].steps
        await model.close()

    with serving(pooler.app()) as place:
        asyncio.run(go(place.url))


def test_a_request_whose_judge_fails_is_answered_all_the_same() -> None:
    pooler = Pooler()

    async def told(client: httpx.AsyncClient, question: str) -> dict[str, Any]:
        asked = ASK | {"strategy": "best_of_n", "verifier": "prm", "thinking_budget": 600}
        asked["messages"] = [{"role": "user", "content": question}]
        response = await client.post("/v1/chat/completions", json=asked)
        assert response.status_code == 200, response.text
        return response.json()["thinking"]

    async def go(url: str) -> None:
        model = await connected(url)
        transport = httpx.ASGITransport(door(scripted(), reward_model=model))
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
            judged = await told(client, "What is 3 + 4?")
            assert judged["verifier"] == "prm"
            assert judged["verifier_tokens"] == sum(len(asked["input"]) for asked in pooler.asked[1:])
            pooler.answer = lambda ids: Response(status_code=500)
            judged = await told(client, "What is 4 + 3?")
            assert (judged["verifier"], judged["verifier_degraded"]) == ("agreement", True)
        await model.close()

    with serving(pooler.app()) as place:
        asyncio.run(go(place.url))


# -- a real one --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a vLLM server of the demo's reward model, on the CPU."""
    flags = {
        "--served-model-name": "judge",
        "--runner": "pooling",
        "--pooler-config": '{"tok_pooling_type": "ALL"}',
        "--api-key": KEY.get_secret_value(),
        "--kv-cache-memory-bytes": str(1 << 27),
    }
    with vllm_serving(PRM, tmp_path_factory.mktemp("vllm") / "log", flags) as url:
        yield url


def test_a_real_server_scores_as_the_model_in_this_process(vllm_server: str) -> None:
    chains = [
        chain(*LINES),
        chain("12 + 7 = 20", "20 - 4 = 16"),
        chain("12 + 7 = 19"),
        chain("12 + 7 = 19", "19 - "),
        chain(*LINES * 80),
    ]

    async def go() -> None:
        options = EngineOptions(dtype="float32", kv_cache_memory_bytes=1 << 27, max_model_len=2048)
        near = await start_reward(str(PRM), name="near", profile=None, options=options)
        here, there = Told(), Told()
        try:
            wanted = await near.reward(PROMPT, chains, read=here)
        finally:
            await near.close()
        far = await connected(vllm_server, key=KEY)
        assert (far.name, far.reader.context) == ("judge", 2048)
        lost = asyncio.create_task(far.reward(Prompt((Message("user", "1 + 1?"),)), chains, read=Told()))
        await asyncio.sleep(0.01)
        lost.cancel()
        found = await far.reward(PROMPT, chains, read=there)
        assert there.tokens == here.tokens
        for one, other in zip(found, wanted, strict=True):
            assert len(one.steps) == len(other.steps)
            assert one.steps == pytest.approx(other.steps, abs=1e-2)
            assert one.truncated == other.truncated
        assert found[0].steps[0] > 0.5 > found[1].steps[0]
        assert found[4].truncated
        await far.close()

    asyncio.run(go())


def test_a_real_server_without_the_key_is_told(vllm_server: str) -> None:
    assert "wants another key than prm_key (status 401)" in refusal(vllm_server)
