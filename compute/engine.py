"""The contracts to a model: `Engine` writes, `RewardModel` judges steps. `engines/` fulfils them; tests script them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from ponder.compute.identity import CallIdentity
from ponder.compute.slots import Slots
from ponder.compute.text import Candidate, Hidden, Prompt, TokenLogprob
from ponder.compute.transcript import Transcript

LONG = 1 << 14
"""Characters from which a text is worked on in a thread, so that the event loop is free for other streams."""


@dataclass(frozen=True, slots=True)
class CallSchema:
    """The shape of a call of one tool: its name, and the JSON schema of its arguments as text."""

    name: str
    parameters: str
    param: str = "tools"
    """The field of the request that has the schema, for a refusal."""
    strict: bool = False
    """All that the schema says has to be held, or the request is refused. In a text, calls of other tools may have any
    arguments."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Grammar:
    """A constraint on the visible answer: a JSON document, calls of tools (written as the model writes them), or
    whichever of the two the model chooses."""

    schema: str | None = None
    """A JSON schema of the document as text; None is any JSON object."""
    param: str = "response_format"
    """The field of the request that wants it, for a refusal."""
    calls: tuple[CallSchema, ...] = ()
    """The tools that may be called."""
    several: bool = True
    """More than one call, one behind the other."""
    document: bool = True
    """With `calls`: the answer may be a document in their place."""
    text: bool = False
    """With `calls`: they may begin anywhere in an answer that is free text otherwise."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one chain is drawn. Token limits are in tokens of the model; `thinking + answer` is all it may generate.
    Names and ranges of the rest are those of OpenAI's API; `top_k` and `min_p` are vLLM's."""

    thinking: int
    """Hidden tokens at most, the closing marker included. 0: the model starts behind a closed thought. At the limit
    the thought is closed by force and the answer begins."""
    answer: int
    """Visible tokens at most; 0 only together with `until` (a step of a thought)."""
    tight: bool = False
    """Answers are likely to reach that limit. Else it is a limit for the odd one, which may cost some tokens more, out
    of those for thinking, before it is cut."""
    total: int | None = None
    """Hidden and visible tokens together, where that binds before the two limits above do."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Strings that end the visible answer (and are left out of it); never looked for in the thought."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, bias) for the visible answer."""
    logprobs: int | None = None
    """With each visible token its log-probability and those of this many others."""
    likelihood: bool = False
    """Record `Candidate.likelihood` over the whole chain."""
    grammar: Grammar | None = None
    until: str | None = None
    """Stop behind the first occurrence of this text (a step delimiter), in the thought or, for a model that does not
    think, in the answer. A thought that reaches its limit before that ends the stream ("length"), unclosed."""
    unclosed: bool = False
    """A thought that reaches its limit ends the stream ("length") also without that: it is gone on with later."""
    unanswered: bool = False
    """The stream ends ("step") with the thought, whoever ended it: what comes of the chain is decided then."""
    streamed: bool = False
    """The text is sent on as it is written: yield deltas as they come. Else one delta at the end is enough."""
    every: int | None = None
    """Of a chain that is not streamed: its transcript is told when so many new tokens are made, at the latest; None: as
    often as the engine likes."""
    tells_thought: bool = False
    """With `streamed`: the first delta has the thought, where that is over then."""
    tenant: str | None = None
    """Prefix caches are shared only between calls of equal tenants."""


@dataclass(frozen=True, slots=True)
class Delta:
    """New visible text, to be sent on. Tokens are counted by the `Transcript`, not from deltas."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    thought: Hidden[str] | None = None
    """The whole thought, with the first text behind it, where `Sampling.tells_thought`; engines that cannot tell it
    leave it out."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Facts about a model."""

    name: str
    context: int
    """Tokens of prompt and output together."""
    thinks: bool
    """Its thoughts can be told from its answer, so a thinking budget above 0 has an effect."""
    typical_chain: tuple[int, int]
    """(p50, p90) of the tokens of one whole chain, before any was seen."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    step: str = "\n\n"
    """What ends a step of its thoughts."""
    step_ids: frozenset[int] = frozenset()
    """The tokens that end with `step`, for verifiers that judge by tokens."""
    shows_thoughts: bool = False
    """It reads earlier thoughts of its own (`Message.thought`), those since the user's last message at least."""
    keeps_thoughts: bool = False
    """It reads those of earlier questions, too."""
    created: int = 0
    """Unix time, for `/v1/models`."""
    owner: str = "ponder"
    modalities: frozenset[str] = frozenset({"text"})
    """What its prompts may hold: `text`, `image`."""
    images: int | None = None
    """Images of a prompt at most, where it reads them; None: no bound of its own."""
    tools: str = "hermes"
    """How it writes calls of tools, a name of `ponder.engines.tools`; empty where that is not known."""
    markers: tuple[str, str] = ("<think>\n", "\n</think>\n\n")
    """What stands before and behind a thought where it is written out with its answer; empty where nothing does."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The tokens it took to find out that a model answers: read (of which `cached` from the cache), and written."""

    prompt: int
    cached: int = 0
    written: int = 0

    def __add__(self, other: Checked) -> Checked:
        return Checked(self.prompt + other.prompt, self.cached + other.cached, self.written + other.written)

    def __sub__(self, other: Checked) -> Checked:
        return Checked(self.prompt - other.prompt, self.cached - other.cached, self.written - other.written)


class Engine(Protocol):
    """A way to reach one model. `ponder.testing.check_engine` checks this contract."""

    @property
    def card(self) -> ModelCard: ...

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        """Tokens of the prompt as the model will read it, with or without a thought to follow.

        Of a prompt that is longer than the context, any number that is, too. May be called from any thread. The token
        ids are kept with the prompt, so that `generate` need not make them again. Raises `RequestError` where the chat
        template refuses the conversation.
        """
        ...

    async def accept(self, sampling: Sampling) -> None:
        """Returns where the model can do what is asked for. It is awaited before anything is generated.

        Raises `RequestError` where it cannot: a token id outside its vocabulary, a grammar it cannot enforce.
        """
        ...

    def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        """One chain, as a stream of its visible text.

        The transcript is told every token the model makes, exactly once: what was read (`read`, once for each call to
        the model), thought, answer, and the end (`end`, once). A half-written chain in `transcript.begun` is continued.
        `transcript.call` says which call of which request it is, for the model's own logs and traces.

        Closing or cancelling the stream stops the model; when that has returned, the transcript is complete and the
        model works on it no more. Raises `EngineError` where the model fails, and `Lost`, which is one, where it went
        away (a process that died, a connection that broke): the transcript then has the tokens that came, and its end
        is "lost". A stream that ends without an end in its transcript counts as lost, too. Raises `RequestError` for a
        prompt that leaves no room in the context.
        """
        ...

    async def check(self) -> Checked | None:
        """Returns when the model answers, with the tokens that took, None for none; raises `EngineError` or
        `Unavailable` when it does not."""
        ...

    async def close(self) -> None:
        """Frees the model. Idempotent."""
        ...


@runtime_checkable
class HasSlots(Protocol):
    """A model, of either contract, that works on so many calls at a time and says so; the others wait in `slots`. Where
    two (an adapter and its model) share the places, they share the object."""

    @property
    def slots(self) -> Slots | None: ...


@runtime_checkable
class ReadsWishes(Protocol):
    """An engine whose model can be asked in the conversation itself to think, or not to: `/no_think`, say."""

    def asks_to_think(self, prompt: Prompt) -> bool | None:
        """What the conversation says, of which the length was asked for; None where it says nothing."""
        ...


@runtime_checkable
class Reopens(Protocol):
    """An engine whose model can be made to think on behind a thought that it has ended (`Sampling.unanswered`)."""

    def reopened(self, chain: Candidate, words: str) -> Candidate | None:
        """The half-written chain without what ended its thought, and with these words, a caller's, put in at the end of
        that. What is left out stays paid. None for a chain whose thought the model has not ended: it was closed by
        force, or by the call of a tool."""
        ...


State = Literal["starting", "up", "restarting", "failed"]
"""Of an engine that is started again: not up yet · it answers · it went away and is being started again · starting it
again has failed several times, and is tried again later."""


class Supervision(Protocol):
    """What is known of a model whose process is watched, and started again when it goes away. The counts only grow."""

    @property
    def state(self) -> State: ...

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        ...

    @property
    def checked(self) -> Checked:
        """All tokens it took to see that an idle model answers."""
        ...

    @property
    def wait(self) -> float:
        """Seconds until it is likely to be up; 0.0 when it is."""
        ...

    async def ready(self) -> None:
        """Returns when the model is up; raises `Unavailable` where it cannot be started."""
        ...


@runtime_checkable
class Recovers(Protocol):
    """An engine whose model is started again when it goes away, so that half-written chains go on."""

    @property
    def supervision(self) -> Supervision: ...

    async def recovered(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> None:
        """Awaited where a chain was lost: returns when it may be asked for again. Raises `Lost` where the model has not
        gone away or does not come back, and `RequestError` where this request is what ends it."""
        ...


def supervision_of(model: Engine | RewardModel | None) -> Supervision | None:
    """None for a model that nobody starts again."""
    return getattr(model, "supervision", None)


Read = Callable[[int, int], None]
"""Told the tokens of one call to a reward model, and those of them that were in its cache."""

Hold = Callable[[int], AbstractAsyncContextManager[None]]
"""Sets tokens aside for one call to a reward model, within which that is made and `Read` told of it."""


def unheld(tokens: int) -> AbstractAsyncContextManager[None]:
    """Where nothing bounds what is read."""
    return nullcontext()


class RewardModel(Protocol):
    """A process reward model: judges each step of a chain (Lightman et al. 2023, "Let's Verify Step by Step")."""

    @property
    def name(self) -> str: ...

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
        """For each candidate, in order, the scores of its steps.

        All candidates answer `prompt`. `read` is told the tokens of every call to the model, however it ends. Each call
        is made within `hold` of all the tokens it will read, which raises where they are not paid for. What is cached
        is shared only between calls of equal tenants. `calls` has an identity for each candidate, with the place of its
        chain, for the model's own logs; it may be empty. Cancelling it stops the model. Raises `EngineError`, and what
        `hold` does.
        """
        ...

    def aggregate(self, steps: Sequence[float]) -> float:
        """One score of many, in this model's own way (last, min, product, mean). 0.0 for no steps."""
        ...

    async def check(self) -> Checked | None:
        """Returns when the model answers, with the tokens that took, None for none; raises `EngineError` when it does
        not."""
        ...

    async def close(self) -> None:
        """Frees the model. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Reward:
    """Step scores in [0, 1], in order. `truncated`: only the end of an over-long chain was judged."""

    steps: tuple[float, ...]
    truncated: bool = False


def tokens(engine: Engine, prompt: Prompt, *, thinking: bool) -> int:
    """`Engine.length`, asked once for each prompt."""
    key = id(engine), thinking
    length = prompt.read.get(key)
    if length is None:
        length = prompt.read[key] = engine.length(prompt, thinking=thinking)
    return length


async def read_beside(engine: Engine, prompt: Prompt, *, thinking: bool) -> None:
    """Has a long prompt tokenised in a thread, once; the token ids are kept with the prompt. Raises what
    `Engine.length` does."""
    if (id(engine), thinking) not in prompt.read and prompt.size >= LONG:
        async with prompt.read.setdefault("reading", asyncio.Lock()):
            await asyncio.to_thread(tokens, engine, prompt, thinking=thinking)
