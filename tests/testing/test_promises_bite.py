"""The public checks pass for what is right, and say in words what is wrong with what is not."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from vllm.v1.engine.exceptions import EngineDeadError

from ponder.compute.engine import Delta, Engine, Sampling
from ponder.compute.errors import EngineError, Lost
from ponder.compute.run import Run
from ponder.compute.text import Candidate, Hidden, Prompt, Score
from ponder.compute.transcript import Transcript
from ponder.server.answers import Failure, Summary, Whole
from ponder.server.dialect import Reading, Target
from ponder.server.request import ThinkingWish
from ponder.server.settings import Limits
from ponder.strategies.best_of_n import BestOfN
from ponder.testing import (
    Chain,
    JudgingEngine,
    ScriptedEngine,
    always,
    check_dialect,
    check_engine,
    check_profile,
    check_strategy,
    check_verifier,
    strategy_promises,
    verifier_promises,
)
from ponder.verifiers.confidence import Confidence
from ponder.verifiers.rules import Rules
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm, engine, tokenizer
from tests.server.callers import ToyCaller
from tests.server.toy_dialect import Toy, ToyRequest, ToyWriter, line

CHAINS = (Chain("a\nbc" * 30, "The answer is 7."), Chain("b\n" * 80, "It is 9."))


# -- strategies -------------------------------------------------------------------------------------------------------


class Invents:
    """Gives back a candidate that no model wrote."""

    async def __call__(self, run: Run) -> Candidate:
        (candidate,) = await run.sample(1)
        return replace(candidate, number=99)


class Dices:
    """Draws lots that do not come from the seed."""

    async def __call__(self, run: Run) -> Candidate:
        candidates = await run.sample(5)
        return random.choice(candidates)


class Swallows:
    """Makes an error of its own out of those of the engine, and asks for more than came."""

    async def __call__(self, run: Run) -> Candidate:
        while True:
            try:
                return (await run.sample(3))[2]
            except EngineError:
                raise ValueError("no") from None


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (Invents, "returned no candidate of its run"),
        (Dices, r"Dices breaks a promise \(the same seed gives the same outcome\): with seed 1 it came to"),
        (
            Swallows,
            r"\(the budget holds and there is an answer, thinking_budget 0\): it raised IndexError",
        ),
    ],
)
def test_a_strategy_that_breaks_a_promise_is_told_which(strategy: Callable[[], Any], words: str) -> None:
    random.seed(3)
    with pytest.raises(AssertionError, match=words):
        check_strategy(strategy)


def test_a_strategy_that_keeps_them_passes() -> None:
    check_strategy(partial(BestOfN, n=3), verifier=Confidence)
    assert len({str(promise) for promise in strategy_promises(BestOfN)}) == len(strategy_promises(BestOfN)) >= 25


# -- verifiers --------------------------------------------------------------------------------------------------------


class Percents:
    """Scores from 0 to 100."""

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [Score(100.0) for _ in candidates]


class Forgets:
    """Passes candidates without a text over."""

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [Score(1.0) for candidate in candidates if candidate.text]


class Trips:
    """Cannot read what is no number."""

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [Score(float(candidate.text)) for candidate in candidates]


@pytest.mark.parametrize("verifier", [Percents, Forgets, Trips])
def test_a_verifier_that_breaks_a_promise_is_told_which(verifier: Callable[[], Any]) -> None:
    words = rf"{verifier.__name__} breaks a promise \(it judges each candidate\)"
    with pytest.raises(AssertionError, match=words):
        check_verifier(verifier)


def test_a_verifier_that_keeps_them_passes() -> None:
    check_verifier(partial(Rules, pattern="7"))
    assert len({str(promise) for promise in verifier_promises(Confidence)}) == len(verifier_promises(Confidence))


# -- engines ----------------------------------------------------------------------------------------------------------


def scripted(kind: type[ScriptedEngine] = ScriptedEngine, **more: Any) -> ScriptedEngine:
    return kind(always(*CHAINS), **more)


@pytest.mark.parametrize("kind", [ScriptedEngine, JudgingEngine])
def test_scripted_engines_keep_the_promises(kind: type[ScriptedEngine]) -> None:
    made = scripted(kind, tail=3)
    check_engine(lambda: made, vanish=lambda engine: setattr(engine, "gone", True))
    assert made.closed
    assert made.running == 0


class Awake(ScriptedVllm):
    """Answers a prompt that is no conversation, by which an engine finds out whether it is there."""

    def goes_on(self, prompt: str, params: Any) -> Iterator[str]:
        return super().goes_on(prompt, params) if "assistant" in prompt else iter("a")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_over_vllm_keeps_the_promises(family: str) -> None:
    llm = Awake(FAMILIES[family], Nature(answer=("The answer", " is 7, as far as one can tell from here.")))

    async def made() -> Engine:
        return engine(llm)

    def dies(_: Engine) -> None:
        llm.errored, llm.error = True, EngineDeadError()

    check_engine(made, vanish=dies)


class Loose(ScriptedEngine):
    """Takes no notice of the limit on the answer."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        async for delta in super().generate(prompt, replace(sampling, answer=sampling.answer + 1), transcript):
            yield delta


class Mumbles(ScriptedEngine):
    """Tells in the stream what is not in the transcript."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        async for delta in super().generate(prompt, sampling, transcript):
            yield replace(delta, text=delta.text.upper())


class Endless(ScriptedEngine):
    """Never says that it is over."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        transcript.read(self.length(prompt), 0)
        transcript.say([1], "a")
        yield Delta("a")


class Guesses(ScriptedEngine):
    """Takes what it has for the whole when its model goes away."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        try:
            async with aclosing(super().generate(prompt, sampling, transcript)) as stream:
                async for delta in stream:
                    yield delta
        except Lost:
            pass


class Hides(ScriptedEngine):
    """Says that it was asked to stop when its model goes away."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        try:
            async with aclosing(super().generate(prompt, sampling, transcript)) as stream:
                async for delta in stream:
                    yield delta
        except Lost:
            transcript.end("aborted", Hidden(""))
            raise


class Shuts(ScriptedEngine):
    """Closes a thought that is to be gone on with."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        async with aclosing(super().generate(prompt, replace(sampling, unclosed=False), transcript)) as stream:
            async for delta in stream:
                yield delta


class Twice(ScriptedEngine):
    """Says it twice."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        async for delta in super().generate(prompt, sampling, transcript):
            yield delta
        transcript.end("finished", Hidden(""))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            Loose,
            r"Loose breaks .* \(A chain keeps its token limits, .*\): 2 visible tokens, where 1 are allowed",
        ),
        (Mumbles, "the deltas, put together, are not the text of the transcript"),
        (Endless, "Transcript.end was called 0 times, not once"),
        (Shuts, r"\(A thought that is to be gone on with .*\): the thought was closed by force"),
        (Twice, "Transcript.end was called 2 times, not once"),
        (Guesses, r"\(A chain whose model goes away is said to be lost, .*\): the stream ended as if its model were"),
        (Hides, "its ending is 'aborted', not 'lost'"),
    ],
)
def test_an_engine_that_breaks_a_promise_is_told_which(kind: type[ScriptedEngine], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_engine(lambda: scripted(kind), vanish=lambda engine: setattr(engine, "gone", True))


# -- profiles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_profiles_that_fit_keep_the_promises(family: str) -> None:
    check_profile(FAMILIES[family], tokenizer(bool(FAMILIES[family].channels)))


@pytest.mark.parametrize(
    ("family", "wrong", "words"),
    [
        ("ids", {"closing": "</think>19", "step": "\n"}, "'19It is 19.' is visible, not 'It is 19.'"),
        ("text", {"closing": "</thought>\n\nSo: "}, "'So: It is 19.' is visible"),
        ("no-start", {"instruction": "", "switch": ""}, "the two prompts are the same"),
    ],
)
def test_a_profile_that_does_not_fit_is_told_why(family: str, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_profile(FAMILIES[family].model_copy(update=wrong), tokenizer())


# -- dialects ---------------------------------------------------------------------------------------------------------


class Deaf(Toy):
    """Does not read how much may be thought."""

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        reading = super().read(raw, limits, target)
        return replace(reading, request=replace(reading.request, thinking=ThinkingWish()))


class Trusting(Toy):
    """Takes it that its callers write what they should."""

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        ToyRequest.model_validate_json(raw)
        return super().read(raw, limits, target)


class Foreign(Toy):
    """Leaves the server's words in its errors."""

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        return replace(super().read(raw, limits, target), names={})


class Open(Toy):
    """Looks for the key elsewhere than it says."""

    def key(self, headers: Mapping[str, str]) -> str | None:
        return headers.get("authorization")


class Kind(Toy):
    """Never says how bad it is."""

    def error(self, failure: Failure) -> Any:
        return super().error(replace(failure, status=400))


class Short(ToyWriter):
    """Loses the end of what is given whole."""

    def whole(self, answers: Sequence[Whole], summary: Summary) -> bytes:
        return super().whole([replace(one, text=one.text[:-1]) for one in answers], summary)


class Silent(ToyWriter):
    """Ends its streams without a word."""

    closing = b""


class Chatty(ToyWriter):
    """Fills its silences with what reads as an answer."""

    keep_alive = line(copy=0, said="hm")


class Cheerful(ToyWriter):
    """Ends well whatever happened."""

    def failure(self, failure: Failure) -> bytes:
        return self.closing


class Written(Toy):
    """The toy with another writer."""

    def __init__(self, writer: type[ToyWriter]) -> None:
        self._writer = writer

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        return replace(super().read(raw, limits, target), writer=self._writer)


@pytest.mark.parametrize(
    ("dialect", "words"),
    [
        (
            Deaf(),
            r"^Deaf breaks a promise \(A request is read as it was meant\): 0 tokens of thought were read as None",
        ),
        (Trusting(), "on a body that begins b'' `read` raised ValidationError"),
        (Foreign(), "an unknown model is refused with the field 'model', which is not in the request"),
        (Open(), "with a key that is known the answer is a 401"),
        (Kind(), "an unknown model is answered with a 400, not a 404"),
        (Written(Short), r"\(What is streamed is what is given whole, .*\): whole, the answer is 'It is 7"),
        (Written(Silent), "`closing` is empty: a stream's last bytes are at least one"),
        (Written(Chatty), "with `keep_alive` between, the answer is 'hm"),
        (Written(Cheerful), "a stream that failed ends with `closing`"),
    ],
)
def test_a_dialect_that_breaks_a_promise_is_told_which(dialect: Toy, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_dialect(dialect, ToyCaller())


def test_it_wants_neither_pytest_nor_our_tests() -> None:
    looking = "import sys, ponder.testing; print({m.split('.')[0] for m in sys.modules} & {'pytest', 'tests', 'vllm'})"
    done = subprocess.run([sys.executable, "-c", looking], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
