"""What vLLM is told of a call, and what becomes of a chain whose engine dies. The vLLM here is scripted."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Sampling
from ponder.compute.errors import EngineError, Lost
from ponder.compute.text import Candidate, Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.vllm_process import Seen, VllmProcess
from tests.engines.scripted_vllm import FAMILIES, ScriptedVllm, engine
from tests.engines.stand_in import Call

PROMPT = Prompt((Message("user", "How many?"),))


class Named(ScriptedVllm):
    """Remembers what its calls are called."""

    def begin(self, number: str, prompt: list[int], params: Any) -> Call:
        self.numbers = [*getattr(self, "numbers", []), number]
        return super().begin(number, prompt, params)


def chain(llm: ScriptedVllm, **wishes: Any) -> tuple[Candidate, Spending, EngineError | None]:
    """The third chain of a second answer, and the error it came to."""
    spending = Spending(Budget(5000, 1000), "req_1", 1)
    for _ in range(2):
        spending.reserve("sample", thinking=1, answer=1)

    async def go() -> tuple[Candidate, EngineError | None]:
        with spending.reserve("sample", thinking=300, answer=200) as reservation:
            transcript = Transcript(reservation, PROMPT)
            sampling = Sampling(thinking=300, answer=200, **wishes)
            try:
                async with aclosing(engine(llm).generate(PROMPT, sampling, transcript)) as stream:
                    async for _ in stream:
                        pass
            except EngineError as error:
                return transcript.candidate(), error
        return transcript.candidate(), None

    candidate, error = asyncio.run(go())
    return candidate, spending, error


def test_its_logs_and_traces_name_the_request_the_place_in_its_tree_and_the_purpose() -> None:
    """A chain of two calls has one identity; what vLLM calls them differs."""
    llm = Named(FAMILIES["ids"])
    *_, error = chain(llm, logprobs=0)
    assert error is None
    assert [number.rpartition("-")[0] for number in llm.numbers] == ["req_1/1.2/sample"] * 2
    assert len(set(llm.numbers)) == 2


@pytest.mark.parametrize("died", [EngineDeadError(), EngineGenerateError()])
def test_a_chain_whose_engine_dies_is_lost_with_the_tokens_that_came(died: Exception) -> None:
    llm = ScriptedVllm(FAMILIES["ids"], portions=(2,), error=died)
    half, spending, error = chain(llm)
    assert isinstance(error, Lost)
    assert half.ending == "lost"
    assert not half.complete
    assert half.tokens == spending.reservations[2].tokens == llm.made > 0


def test_a_request_that_an_engine_gives_up_on_has_no_end_either() -> None:
    class GivesUp(ScriptedVllm):
        def begin(self, number: str, prompt: list[int], params: Any) -> Call:
            call = super().begin(number, prompt, params)
            call.reason = "error"
            return call

    half, _, error = chain(GivesUp(FAMILIES["ids"], portions=(1000,)))
    assert error is not None
    assert half.ending == "lost"


def test_who_waits_for_an_engine_of_vllms_is_told_that_it_was_ended() -> None:
    class Llm:
        """Stands for an `AsyncLLM` that is ended before it has noticed the death of its engine."""

        errored = False
        told: Exception | None = None

        @property
        def output_processor(self) -> Llm:
            return self

        def shutdown(self, timeout: float) -> None:
            pass

        def propagate_error(self, error: Exception) -> None:
            self.told = error

    async def taken(llm: object) -> None:
        pass

    llm = Llm()
    process = VllmProcess("demo", {}, llm, 1.0, Seen(), taken)
    asyncio.run(process.end())
    assert isinstance(llm.told, EngineDeadError)
