"""The promises of an engine, as a check: what the contract `Engine` in `ponder.compute.engine` demands.

The model behind the engine may be any: nothing is said about what it writes, only about limits, counts and ends.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Engine, Sampling
from ponder.compute.errors import EngineError, Lost, NotNow
from ponder.compute.groups import TaskGroup
from ponder.compute.text import Candidate, Ending, Hidden, Message, Prompt, TokenLogprob
from ponder.compute.transcript import Transcript
from ponder.testing.require import at_most, promised, require

LIMITS = ((0, 1), (0, 40), (1, 40), (5, 3), (40, 1), (200, 40))
"""(thinking, answer): the token limits under which chains are drawn."""

PROMPT = Prompt((Message("user", "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"),))


AnyEngine = TypeVar("AnyEngine", bound=Engine)


def check_engine(
    make: Callable[[], AnyEngine | Awaitable[AnyEngine]],
    *,
    prompt: Prompt = PROMPT,
    vanish: Callable[[AnyEngine], object] | None = None,
) -> None:
    """Checks all promises of an engine, one after another on one instance, and closes it.

    `make` returns the engine, or an awaitable of it. It is called once, within the event loop that the engine then runs
    on. `prompt` must be one that the model answers with more than a few tokens. `vanish` is given the engine, and makes
    its model go away for good: it kills a process, or breaks a connection. It is called last, in the middle of a chain;
    left out, that promise is not checked. Some thirty chains of at most 240 tokens are drawn. Raises `AssertionError`
    that says which promise was broken and how.
    """
    asyncio.run(_check(make, prompt, vanish))


async def _check(
    make: Callable[[], AnyEngine | Awaitable[AnyEngine]], prompt: Prompt, vanish: Callable[[AnyEngine], object] | None
) -> None:
    made = make()
    engine = await made if inspect.isawaitable(made) else made
    try:
        chains = (_limits, _streams, _closes, _cancels, _goes_on, _steps, _in_pieces, _likelihood, _side_by_side)
        for promise in (_facts, *chains):
            with promised(type(engine).__name__, promise.__doc__):
                await promise(engine, prompt)
        if vanish is not None:
            with promised(type(engine).__name__, _vanishes.__doc__):
                await _vanishes(engine, prompt, vanish)
    finally:
        await engine.close()
    # A second time does nothing.
    await engine.close()


class _Chain:
    """One call of an engine, and what can be seen of it."""

    def __init__(self, engine: Engine, prompt: Prompt, sampling: Sampling, begun: Candidate | None = None) -> None:
        self.engine, self.prompt, self.sampling = engine, prompt, sampling
        self.spending = Spending(Budget(sampling.thinking + sampling.answer, sampling.answer))
        self.reservation = self.spending.reserve("sample", thinking=sampling.thinking, answer=sampling.answer)
        self.transcript = _Watched(self.reservation, prompt, begun)
        self.streamed = ""

    async def run(self, stop_after: int | None = None) -> Candidate:
        """Draws the chain; `stop_after` closes the stream behind so many deltas."""
        try:
            async with aclosing(self.engine.generate(self.prompt, self.sampling, self.transcript)) as stream:
                deltas = 0
                async for delta in stream:
                    self.streamed += delta.text
                    deltas += 1
                    if deltas == stop_after:
                        break
        finally:
            self.reservation.close()
        self.check()
        return self.transcript.candidate()

    def check(self) -> None:
        """Checks what must be true however the call ended."""
        chain, sampling = self.transcript.candidate(), self.sampling
        require(self.transcript.ends == 1, f"Transcript.end was called {self.transcript.ends} times, not once")
        require(self.transcript.reads >= 1, "Transcript.read was not called: what was read is not counted")
        at_most("hidden tokens", chain.hidden, sampling.thinking)
        at_most("visible tokens", chain.visible, sampling.answer)
        begun = self.transcript.begun.text if self.transcript.begun else ""
        if chain.ending not in ("aborted", "lost"):
            whole = begun + self.streamed
            require(whole == chain.text, "the deltas, put together, are not the text of the transcript")

    async def silent(self) -> None:
        """Checks that the transcript is told nothing after the end of the stream, also a little later."""
        counted = self.transcript.told
        for _ in range(50):
            await asyncio.sleep(0)
        await self.engine.check()
        require(self.transcript.told == counted, "the transcript was told of tokens after the stream had ended")


class _Watched(Transcript):
    """A transcript that counts how it is used."""

    ends = reads = told = 0

    def read(self, prompt: int, cached: int) -> None:
        self.reads += 1
        require(0 <= cached <= prompt, f"{cached} tokens came from the cache, of {prompt} that were read")
        super().read(prompt, cached)

    def think(self, ids: Sequence[int], logprobs: Sequence[float] = ()) -> None:
        self.told += len(ids)
        super().think(ids, logprobs)

    def say(
        self,
        ids: Sequence[int],
        text: str,
        logprobs: Sequence[float] = (),
        tokens: Sequence[TokenLogprob] = (),
    ) -> None:
        self.told += len(ids)
        super().say(ids, text, logprobs, tokens)

    def discard(self, tokens: int, ids: Sequence[int] = ()) -> None:
        self.told += tokens
        super().discard(tokens, ids)

    def end(self, ending: Ending, thought: Hidden[str], stop: str | None = None, *, unseen: bool | None = None) -> None:
        self.ends += 1
        super().end(ending, thought, stop, unseen=unseen)


async def _facts(engine: Engine, prompt: Prompt) -> None:
    """The card tells facts, a prompt has a length, a model that is there answers its check."""
    card = engine.card
    require(bool(card.name), "the card has no name")
    require(card.context > 0, f"the context is {card.context} tokens")
    p50, p90 = card.typical_chain
    require(0 < p50 <= p90, f"typical_chain is {card.typical_chain}, not (p50, p90) in tokens")
    length = engine.length(prompt)
    require(0 < length < card.context, f"the prompt has {length} tokens, the context {card.context}")
    longer = engine.length(prompt.then(Message("user", "And of pears?")))
    require(longer > length, f"a prompt with a turn more has {longer} tokens, without it {length}")
    await engine.accept(Sampling(thinking=10, answer=10))
    await engine.check()


async def _limits(engine: Engine, prompt: Prompt) -> None:
    """A chain keeps its token limits, and comes to an end that is one."""
    for thinking, answer in LIMITS:
        chain = await _Chain(engine, prompt, Sampling(thinking=thinking, answer=answer, tight=True, seed=1)).run()
        at = f"with {thinking} tokens to think and {answer} to answer"
        require(chain.ending in ("finished", "stop", "length"), f"{at} the ending is {chain.ending!r}")
        require(not chain.thinking, f"{at} the chain ended within its thought")
        if chain.ending == "length":
            require(chain.visible > 0, f"{at} there is no answer")


async def _streams(engine: Engine, prompt: Prompt) -> None:
    """What is streamed is the answer, and the same as without streaming."""
    sampling = Sampling(thinking=40, answer=40, tight=True, seed=1, temperature=0.0)
    whole = await _Chain(engine, prompt, sampling).run()
    streamed = await _Chain(engine, prompt, replace(sampling, streamed=True)).run()
    require(bool(streamed.text), "nothing was streamed")
    require(whole.tokens > 0, "tokens were not counted")


async def _closes(engine: Engine, prompt: Prompt) -> None:
    """A stream that is closed in the middle stops the model, and its transcript is complete."""
    for deltas in (1, 2, 5):
        chain = _Chain(engine, prompt, Sampling(thinking=40, answer=40, seed=2, streamed=True))
        await chain.run(stop_after=deltas)
        await chain.silent()


async def _cancels(engine: Engine, prompt: Prompt) -> None:
    """A call that is cancelled at any moment stops the model, and its transcript is complete."""
    for turns in (1, 3, 10, 30, 100):
        chain = _Chain(engine, prompt, Sampling(thinking=200, answer=40, seed=3, streamed=True))
        async with TaskGroup() as group:
            task = group.create_task(chain.run())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
        if chain.transcript.told:
            chain.check()
        await chain.silent()


async def _goes_on(engine: Engine, prompt: Prompt) -> None:
    """A half-written chain is gone on from where it stands."""
    first = await _Chain(engine, prompt, Sampling(thinking=40, answer=1, tight=True, seed=4)).run()
    if first.ending != "length":
        return
    more = await _Chain(engine, prompt, Sampling(thinking=0, answer=40, tight=True, seed=4), first).run()
    begun, whole = first.ids.unseal(), more.ids.unseal()
    require(whole[: len(begun)] == begun, "the tokens it goes on from are not the first of the whole")
    require(more.text.startswith(first.text), "the text it goes on from is not the begin of the whole")
    require(more.parent == first.number, "it does not say which chain it goes on from")


async def _steps(engine: Engine, prompt: Prompt) -> None:
    """Asked for a step, it stops at the step's end or at its limit, unanswered."""
    answer = 0 if engine.card.thinks else 30
    chain = await _Chain(engine, prompt, Sampling(thinking=30, answer=answer, until=engine.card.step, seed=5)).run()
    require(chain.ending in ("step", "length", "finished"), f"the ending is {chain.ending!r}")
    if engine.card.thinks and chain.thinking:
        require(not chain.text, "there is visible text before the thought has ended")


async def _in_pieces(engine: Engine, prompt: Prompt) -> None:
    """A thought that is to be gone on with is left open at its limit, and goes on from there."""
    first = await _Chain(engine, prompt, Sampling(thinking=10, answer=40, unclosed=True, seed=8)).run()
    require(not first.forced, "the thought was closed by force")
    if not first.thinking:
        return
    require(first.ending == "length", f"the ending is {first.ending!r}")
    require(not first.text, "there is visible text before the thought has ended")
    more = await _Chain(engine, prompt, Sampling(thinking=10, answer=40, seed=8), first).run()
    begun, whole = first.ids.unseal(), more.ids.unseal()
    require(whole[: len(begun)] == begun, "the tokens it goes on from are not the first of the whole")
    require(not more.thinking, "without more to come the thought is not closed")


async def _likelihood(engine: Engine, prompt: Prompt) -> None:
    """Asked for the likelihood, it tells one number at most 0 for each token."""
    chain = await _Chain(engine, prompt, Sampling(thinking=40, answer=20, tight=True, seed=6, likelihood=True)).run()
    told, ids = chain.likelihood.unseal(), chain.ids.unseal()
    require(len(told) == len(ids), f"{len(ids)} tokens, and the likelihood of {len(told)}")
    require(all(one <= 0 for one in told), "a log-probability is above 0")


async def _side_by_side(engine: Engine, prompt: Prompt) -> None:
    """Several chains at once each keep their own limits and counts."""
    chains = [_Chain(engine, prompt, Sampling(thinking=5 * n, answer=10, tight=True, seed=n)) for n in range(1, 5)]
    async with TaskGroup() as group:
        for chain in chains:
            group.create_task(chain.run())


async def _vanishes(engine: AnyEngine, prompt: Prompt, vanish: Callable[[AnyEngine], object]) -> None:
    """A chain whose model goes away is said to be lost, with the tokens that came; nothing is guessed."""
    chain = _Chain(engine, prompt, Sampling(thinking=0, answer=40, seed=7, streamed=True))
    try:
        async with aclosing(engine.generate(prompt, chain.sampling, chain.transcript)) as stream:
            async for delta in stream:
                if not chain.streamed:
                    vanish(engine)
                chain.streamed += delta.text
    except Lost:
        pass
    except EngineError as error:
        raise AssertionError(f"it raised {type(error).__name__}, not Lost") from error
    else:
        raise AssertionError("the stream ended as if its model were still there")
    finally:
        chain.reservation.close()
    require(chain.transcript.ending == "lost", f"its ending is {chain.transcript.ending!r}, not 'lost'")
    require(chain.transcript.visible > 0, "the tokens that came before are not counted")
    require(chain.transcript.candidate().text.startswith(chain.streamed), "the text that came before is not kept")
    chain.check()
    try:
        await engine.check()
    except (EngineError, NotNow):
        return
    raise AssertionError("its check says that the model answers, and it is away")
