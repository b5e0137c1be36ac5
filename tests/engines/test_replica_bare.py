"""A machine without torch, vLLM and xgrammar, which is what the extra `server` brings: a replica is used from there."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.engines.scripted_server import ScriptedServer
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio, json, sys
for missing in ("torch", "vllm", "xgrammar"):
    sys.modules[missing] = None  # Python's way to say that there is none.
from contextlib import aclosing
from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Grammar, Sampling
from ponder.compute.errors import RequestError
from ponder.compute.text import Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.replicas.server import open_server

async def main(url, folder):
    engine = await open_server(url, folder, name="demo")
    prompt = Prompt((Message("user", "How many?"),))
    with Spending(Budget(240, 40)).reserve("test", thinking=200, answer=40) as reservation:
        transcript = Transcript(reservation, prompt)
        async with aclosing(engine.generate(prompt, Sampling(200, 40), transcript)) as stream:
            async for _ in stream:
                pass
    try:
        await engine.accept(Sampling(9, 9, grammar=Grammar()))
        refused = ""
    except RequestError as error:
        refused = error.message
    await engine.close()
    chain = transcript.candidate()
    print(json.dumps([chain.text, chain.ending, chain.tokens, refused]))

asyncio.run(main(*sys.argv[1:]))
"""


def test_without_torch_a_replica_answers_and_refuses_schemas_in_plain_words() -> None:
    async def go() -> tuple[list[object], int]:
        llm = ScriptedVllm(FAMILIES["ids"], Nature())
        async with ScriptedServer(llm).serving() as url:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                PROGRAM,
                url,
                str(ROOT / "models" / "demo"),
                stdout=asyncio.subprocess.PIPE,
                cwd=ROOT,
            )
            out, _ = await process.communicate()
            assert process.returncode == 0
            return json.loads(out), llm.made

    (text, ending, tokens, refused), made = asyncio.run(go())
    # One was drawn at the start, to see whether it gives log-probabilities.
    assert (text, ending, tokens) == ("The answer is 7.", "finished", made - 1)
    assert "pip install --no-deps xgrammar" in str(refused)
