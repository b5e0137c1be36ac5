"""A model and a reward model that follow a script. One character is one token, so counts can be read off the script."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from ponder.compute.engine import Checked, Delta, Hold, ModelCard, Read, Reward, Sampling, unheld
from ponder.compute.errors import EngineError, Lost, RequestError, Unavailable
from ponder.compute.identity import CallIdentity
from ponder.compute.slots import Slots
from ponder.compute.text import Candidate, Ending, Hidden, Prompt, TokenLogprob
from ponder.compute.transcript import Transcript

CLOSE = 0x110000
"""The token id of the end-of-thought marker; other ids are code points."""

MARKER = "xyzzy-thought"
"""Put into thoughts; must be found nowhere outside of them."""

CARD = ModelCard(name="scripted", context=100_000, thinks=True, typical_chain=(20, 40), step="\n", temperature=1.0)
"""What a scripted model says of itself: 100,000 tokens of context, half of its chains below 20 tokens, nine of ten
below 40, a step a line."""


@dataclass(frozen=True)
class Chain:
    """What the model would write if nothing cut it short. Each character is one token."""

    thought: str
    """Hidden; the token that ends it comes on top."""
    answer: str
    """Visible."""
    likelihood: float = -0.1
    """Natural-log probability of each of its tokens."""


Script = Callable[[Prompt, str, int], Chain]
"""(prompt, thought written so far, number of the call from 0) -> the whole chain, which begins with that thought."""


def always(*chains: Chain) -> Script:
    """The chains in turn; a half-written one goes on as the first chain that begins like it."""

    def script(prompt: Prompt, thought: str, call: int) -> Chain:
        if thought:
            return next((c for c in chains if c.thought.startswith(thought)), chains[call % len(chains)])
        return chains[call % len(chains)]

    return script


def question(prompt: Prompt) -> str:
    """The text of the last turn of a prompt, hidden or not; of a raw text, it."""
    if prompt.raw is not None:
        text = prompt.raw.text
        return text if isinstance(text, str) else "".join(map(chr, text))
    content = prompt.messages[-1].content
    return content if isinstance(content, str) else content.unseal()


def _is_character(code: int) -> bool:
    """A code point that UTF-8 has: no surrogate."""
    return 0 <= code < 0xD800 or 0xE000 <= code <= sys.maxunicode


@dataclass
class ScriptedEngine:
    """An `Engine` that writes what its script says, and keeps every limit of `Sampling` as a real one does.

    It has no grammar: an answer is what the script says, whatever `Sampling.grammar` wants. A prompt has as many tokens
    as characters, and 4 more for each message. Token ids of a raw text are code points.
    """

    script: Script
    card: ModelCard = CARD
    delay: float = 0.0
    """Seconds of the loop's clock for each token."""
    tail: int = 0
    """Tokens that are still under way when a stream is stopped, and come in while it is drained."""
    seeded: bool = False
    """The script is given the seed of the call in place of its number. A real model's choice depends on the seed."""
    fail_at: int | None = None
    """The number of the call that raises `EngineError`, half-way through its thought."""
    vanish_at: Mapping[int, int] = field(default_factory=dict[int, int])
    """The model goes away in the middle of a call: its number, and after how many of its tokens. Others go on."""
    gone: bool = False
    """The model is away: calls that run are lost before their next token, and no more are begun."""
    produced: int = 0
    """Tokens generated so far, by all calls."""
    calls: int = 0
    running: int = 0
    """Streams open now."""
    most_running: int = 0
    """Streams that were open at the same time, at most."""
    prompts: list[Prompt] = field(default_factory=list[Prompt])
    """The prompt of each call."""
    samplings: list[Sampling] = field(default_factory=list[Sampling])
    """The wishes of each call."""
    identities: list[CallIdentity] = field(default_factory=list[CallIdentity])
    """Which call of which request each was."""
    closed: bool = False
    cached: int = 0
    """Tokens of each prompt that are in the prefix cache."""
    unsupported: str | None = None
    """`accept` refuses a schema with this word in it."""
    at_once: int | None = None
    """Calls it works on at a time, the others first come, first served; None: all."""
    slots: Slots | None = None
    """Where the server has calls wait that the model cannot work on yet; None: with the model."""

    def __post_init__(self) -> None:
        self._seats = None if self.at_once is None else asyncio.Semaphore(self.at_once)

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        if prompt.raw is not None:
            if any(not _is_character(token) for token in prompt.raw.text if isinstance(token, int)):
                raise RequestError("prompt has a token id that is no character", param="raw.text", code="invalid_value")
            return len(prompt.raw.text) + len(prompt.raw.suffix)
        return sum(len(question(Prompt((m,)))) + 4 for m in prompt.messages)

    async def accept(self, sampling: Sampling) -> None:
        if any(token > CLOSE for token, _ in sampling.logit_bias):
            raise RequestError("logit_bias names a token id outside of the vocabulary", param="logit_bias")
        grammar = sampling.grammar
        shapes = [(grammar.schema or "", grammar.param)] if grammar else []
        shapes += [(call.parameters, call.param) for call in grammar.calls] if grammar else []
        for schema, param in shapes:
            if self.unsupported and self.unsupported in schema:
                raise RequestError("no such grammar", param=param, code="invalid_json_schema")

    def reopened(self, chain: Candidate, words: str) -> Candidate | None:
        """See `ponder.compute.engine.Reopens`."""
        ids, likelihood = chain.ids.unseal(), chain.likelihood.unseal()
        if chain.forced or chain.text or ids[-1:] != (CLOSE,):
            return None
        return replace(
            chain,
            ids=Hidden((*ids[:-1], *map(ord, words))),
            thought=Hidden(chain.thought.unseal() + words),
            thinking=True,
            likelihood=Hidden((*likelihood[:-1], *(0.0 for _ in words)) if likelihood else ()),
        )

    def chain(self, prompt: Prompt, sampling: Sampling, thought: str, number: int) -> Chain:
        """What a call with these wishes would write, which begins with that thought: what the script says."""
        return self.script(prompt, thought, number)

    async def wait(self, call: CallIdentity) -> None:
        """What a token of a call takes: its delay."""
        await asyncio.sleep(self.delay)

    async def check(self) -> Checked | None:
        if self.closed:
            raise EngineError("the scripted engine is closed")
        if self.gone:
            raise Unavailable("the scripted engine is away", code="engine_unavailable")

    async def close(self) -> None:
        self.closed = True

    async def make(self, transcript: Transcript) -> None:
        """Makes a token, which the transcript is not told of yet. Raises `Lost` where the model is away."""
        await self.wait(transcript.call)
        if self.gone:
            raise Lost(f"the engine went away over {MARKER}")

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        call = self.calls
        self.calls += 1
        self.prompts.append(prompt)
        self.samplings.append(sampling)
        self.identities.append(transcript.call)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        writing = _Writing(self, prompt, sampling, transcript, call)
        length = ScriptedEngine.length(self, prompt)
        transcript.read(length, min(length, self.cached))
        seated = False
        try:
            if self._seats is not None:
                seated = await self._seats.acquire()
            async for delta in writing.go():
                yield delta
        finally:
            if self._seats is not None and seated:
                self._seats.release()
            if writing.ending == "aborted":
                for _ in range(self.tail):
                    await asyncio.sleep(self.delay)
                    writing.drain()
            self.running -= 1
            transcript.end(writing.ending, Hidden(writing.thought), writing.stop)


class _Writing:
    """One stream of a `ScriptedEngine`."""

    def __init__(
        self, engine: ScriptedEngine, prompt: Prompt, sampling: Sampling, transcript: Transcript, call: int
    ) -> None:
        self.engine, self.sampling, self.transcript = engine, sampling, transcript
        begun = transcript.begun
        self.thought = begun.thought.unseal() if begun else ""
        if begun and begun.thinking:
            # A chain that is still being written has told nobody its thought yet.
            self.thought = "".join(chr(one) for one in begun.ids.unseal() if one != CLOSE)
        self.said = begun.text if begun else ""
        self.thinking = begun.thinking if begun else engine.card.thinks
        by_seed = engine.seeded and sampling.seed is not None
        self.chain = engine.chain(prompt, sampling, self.thought, sampling.seed or 0 if by_seed else call)
        self.ending: Ending = "aborted"
        self.stop: str | None = None
        self.fails = engine.fail_at == call
        self.left = engine.vanish_at.get(call)
        """Tokens until the model goes away; None where it stays."""

    async def token(self) -> None:
        """Makes one."""
        try:
            await self.engine.make(self.transcript)
            if self.left == 0:
                raise Lost(f"the engine went away over {MARKER}")
        except Lost:
            self.ending = "lost"
            raise
        if self.left is not None:
            self.left -= 1
        self.engine.produced += 1

    def fail(self) -> EngineError:
        self.ending = "lost"
        return EngineError(f"the engine died over {MARKER}")

    def _likely(self, n: int = 1) -> list[float]:
        return [self.chain.likelihood] * n if self.sampling.likelihood else []

    def room(self) -> bool:
        total = self.sampling.total
        return total is None or self.transcript.hidden + self.transcript.visible < total

    def drain(self) -> None:
        if self.thinking and self.transcript.hidden < self.sampling.thinking and self.room():
            self.engine.produced += 1
            self.transcript.think([ord(".")], self._likely())

    async def go(self) -> AsyncGenerator[Delta]:
        transcript, sampling = self.transcript, self.sampling
        if self.thinking:
            for char in [*self.chain.thought[len(self.thought) :], None]:
                if transcript.hidden >= sampling.thinking:
                    break
                if self.fails and len(self.thought) >= len(self.chain.thought) // 2:
                    raise self.fail()
                await self.token()
                if char is None:
                    transcript.think([CLOSE], self._likely())
                    transcript.close_thought()
                    self.thinking = False
                    break
                transcript.think([ord(char)], self._likely())
                self.thought += char
                if sampling.until and self.thought.endswith(sampling.until):
                    self.ending = "step"
                    return
            if self.thinking:
                if sampling.until or sampling.unclosed:
                    self.ending = "length"
                    return
                transcript.force([CLOSE])
                self.thinking = False
        if sampling.unanswered:
            self.ending = "step"
            return
        if self.fails:
            raise self.fail()
        async for delta in self._answer():
            yield delta

    async def _answer(self) -> AsyncGenerator[Delta]:
        transcript, sampling = self.transcript, self.sampling
        unsent, answer = "", self.chain.answer
        thought = Hidden(self.thought) if sampling.tells_thought else None
        ends = [(answer.find(s, max(0, len(self.said) - len(s) + 1)), s) for s in sampling.stop if s in answer]
        cut, stop = min((e for e in ends if e[0] >= 0), default=(len(answer), ""))
        for char in answer[len(self.said) : cut]:
            if transcript.visible >= sampling.answer or not self.room():
                self.ending = "length"
                break
            await self.token()
            self.said += char
            logprobs = () if sampling.logprobs is None else (TokenLogprob(char, char.encode(), self.chain.likelihood),)
            transcript.say([ord(char)], char, self._likely(), logprobs)
            unsent += char
            if sampling.streamed:
                yield Delta(char, logprobs, thought)
                unsent, thought = "", None
        else:
            self.ending, self.stop = "stop" if stop else "finished", stop or None
            unsaid = stop[: sampling.answer - transcript.visible]
            self.engine.produced += len(unsaid)
            transcript.say([ord(char) for char in unsaid], "", self._likely(len(unsaid)))
        if unsent:
            yield Delta(unsent)


class JudgingEngine(ScriptedEngine):
    """A scripted model that can judge, too. A call that wants log-probabilities (the verifier `judge`) gets the one
    token "Yes", with "No" beside it, the likelier the shorter the question."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        if sampling.logprobs is None:
            async with aclosing(super().generate(prompt, sampling, transcript)) as stream:
                async for delta in stream:
                    yield delta
            return
        call = self.calls
        self.calls += 1
        self.identities.append(transcript.call)
        transcript.read(self.length(prompt), 0)
        transcript.close_thought()
        ending: Ending = "aborted"
        try:
            await asyncio.sleep(self.delay)
            if self.gone or call in self.vanish_at or self.fail_at == call:
                ending = "lost"
                raise (EngineError if self.fail_at == call else Lost)(f"the engine died over {MARKER}")
            self.produced += 1
            no = TokenLogprob("No", b"No", -len(question(prompt)) / 1000)
            transcript.say([ord("y")], "Yes", tokens=[TokenLogprob("Yes", b"Yes", -0.5, (no,))])
            ending = "length"
            yield Delta("Yes")
        finally:
            transcript.end(ending, Hidden(""))


@dataclass
class ScriptedRewards:
    """A `RewardModel` that scores each line of a thought by a function of its text, in [0, 1]."""

    judge: Callable[[str], float]
    name: str = "scripted-prm"
    delay: float = 0.0
    """Seconds of the loop's clock for each candidate."""
    fails: bool = False
    """It raises `EngineError` whenever it is asked."""
    truncates: bool = False
    """It says of each chain that only the end was judged."""
    read: int = 0
    """Tokens read so far, by all calls."""
    calls: int = 0
    identities: list[CallIdentity] = field(default_factory=list[CallIdentity])
    """Which chain of which request each candidate was."""
    slots: Slots | None = None
    """As those of `ScriptedEngine`."""

    async def reward(
        self,
        prompt: Prompt,
        candidates: Sequence[Candidate],
        *,
        read: Read,
        hold: Hold = unheld,
        tenant: str | None = None,
        calls: Sequence[CallIdentity] = (),
    ) -> Sequence[Reward]:
        self.calls += 1
        self.identities.extend(calls)
        if self.fails:
            raise EngineError("the reward model is away")
        rewards: list[Reward] = []
        for candidate in candidates:
            lines = [line for line in candidate.thought.unseal().split("\n") if line]
            tokens = len(candidate.ids.unseal())
            async with hold(tokens):
                self.read += tokens
                read(tokens, 0)
            rewards.append(Reward(tuple(self.judge(line) for line in lines), self.truncates))
            await asyncio.sleep(self.delay)
        return rewards

    def aggregate(self, steps: Sequence[float]) -> float:
        return min(steps, default=0.0)

    async def check(self) -> Checked | None:
        if self.fails:
            raise EngineError("the reward model is away")

    async def close(self) -> None:
        self.fails = True
