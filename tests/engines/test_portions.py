"""How many tokens of a chain come in one output depends on what else the server does, and nothing else does on that."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Sampling
from ponder.compute.errors import Lost
from ponder.compute.text import Candidate, Message, Prompt
from ponder.compute.transcript import Transcript
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm, engine
from tests.engines.stand_in import Call

WISHES: dict[str, dict[str, Any]] = {
    "logit bias": {"logit_bias": ((7, -1.0),)},
    "log-probabilities": {"logprobs": 0},
    "stop string": {"stop": ("nobody says this",)},
}


class Recording(ScriptedVllm):
    """Remembers what each of its calls goes on with."""

    def begin(self, number: str, prompt: list[int], params: Any) -> Call:
        self.prompts = [*getattr(self, "prompts", []), self.text(prompt)]
        return super().begin(number, prompt, params)


def written(family: str, portion: int, letters: bool, **wishes: Any) -> tuple[Candidate, list[str], int]:
    """The chain, the prompts of its calls, its visible tokens."""
    llm = Recording(FAMILIES[family], Nature(letters=letters), portions=(portion,))

    async def go() -> Candidate:
        spending = Spending(Budget(1000, 1000))
        spending.hash_ids(b"salt", keep=True)
        reservation = spending.reserve("test", thinking=300, answer=200, bound=True)
        prompt = Prompt((Message("user", "How many?"),))
        transcript = Transcript(reservation, prompt)
        sampling = Sampling(thinking=300, answer=200, **wishes)
        async with aclosing(engine(llm).generate(prompt, sampling, transcript)) as stream:
            async for _ in stream:
                pass
        made = reservation.made and reservation.made.ids
        assert made is not None
        # A receipt has the ids of all that was made, also of what nobody uses.
        assert len(made.unseal()) == reservation.tokens
        return transcript.candidate()

    return (chain := asyncio.run(go())), llm.prompts, chain.visible


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("letters", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_comes_with_the_end_of_a_thought_is_no_part_of_an_answer_drawn_by_itself(
    family: str, letters: bool, wish: str
) -> None:
    one, prompts, visible = written(family, 1, letters, **WISHES[wish])
    assert one.complete
    assert len(prompts) == 1 + FAMILIES[family].thinks
    for portion in (2, 5, 1000):
        many, same, same_visible = written(family, portion, letters, **WISHES[wish])
        assert (many.text, many.ids.unseal()) == (one.text, one.ids.unseal())
        assert (same, same_visible) == (prompts, visible)


class GivesUp(Recording):
    """Ends its first call in the middle, unasked."""

    def begin(self, number: str, prompt: list[int], params: Any) -> Call:
        call = super().begin(number, prompt, params)
        call.reason = "abort"
        get = call.get

        async def cut() -> Any:
            out = await get()
            out.outputs[0].finish_reason, out.finished = "abort", True
            call.over = True
            return out

        call.get = cut  # pyright: ignore[reportAttributeAccessIssue]
        return call


def test_a_call_that_the_engine_gives_up_on_is_lost_and_not_asked_again() -> None:
    llm = GivesUp(FAMILIES["ids"], Nature(), portions=(2,))
    reservation = Spending(Budget(1000, 1000)).reserve("test", thinking=300, answer=200, bound=True)
    prompt = Prompt((Message("user", "How many?"),))
    transcript = Transcript(reservation, prompt)

    async def go() -> None:
        sampling = Sampling(thinking=300, answer=200)
        async with aclosing(engine(llm).generate(prompt, sampling, transcript)) as stream:
            async for _ in stream:
                pass

    with pytest.raises(Lost):
        asyncio.run(go())
    assert len(llm.prompts) == 1
    assert transcript.candidate().ending == "lost"
    assert reservation.tokens == 2


def test_a_call_that_is_given_up_before_it_is_read_has_read_nothing() -> None:
    reservation = Spending(Budget(1000, 1000)).reserve("test", thinking=300, answer=200, bound=True)
    prompt = Prompt((Message("user", "How many?"),))

    class Silent(ScriptedVllm):
        def begin(self, number: str, prompt: list[int], params: Any) -> Call:
            call = super().begin(number, prompt, params)
            call.ids = []
            call.get = asyncio.Event().wait  # pyright: ignore[reportAttributeAccessIssue]
            return call

    llm = Silent(FAMILIES["ids"])

    async def go() -> None:
        async with asyncio.timeout(0.01):
            async for _ in engine(llm).generate(
                prompt, Sampling(thinking=300, answer=200), Transcript(reservation, prompt)
            ):
                pass

    with pytest.raises(TimeoutError):
        asyncio.run(go())
    assert (reservation.calls, reservation.prompt) == (1, 0)
