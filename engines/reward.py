"""Process reward models: a second model, in vLLM too, that judges a chain step by step.

Every family wants the steps laid out in its own way, reads its verdict off in its own way and adds up the verdicts in
its own way: that is a `RewardProfile`. A prefix that was judged before is not judged again. How the model itself is
reached is a `Reader`'s business: the one here has it in this process, where of a longer prefix only the new tokens are
read, the rest being in the engine's prefix cache; that of `ponder.engines.reward_remote` asks another vLLM over HTTP.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import math
import time
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

from ponder.compute.engine import LONG, Checked, Read, Reward
from ponder.compute.errors import EngineError
from ponder.compute.text import Candidate, Message, Prompt
from ponder.engines.launch import EngineOptions, arguments, dead, launch, on_cpu, read_config, settle_environment
from ponder.engines.profiles import PROFILES, Profile
from ponder.engines.prompts import ChatTokenizer, Prompts, Rendered
from ponder.engines.reward_profiles import RewardProfile, find_reward_profile

GPU_SHARE = 0.22
"""Share of a GPU for a reward model in this process, where none is given."""

LIKELIEST = 20
"""Next tokens whose probabilities are asked for where the verdict is one of them; vLLM gives no more."""

_KEPT = 65536
"""Verdicts that are remembered."""

_LAID = 128
"""Conversations laid out for one prompt that are remembered as long as it is."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model made of a chain: the numbers for each of its last `len(rows)` tokens, and how many tokens of the
    chain were in its cache."""

    rows: Sequence[Sequence[float]]
    cached: int = 0


class Reader(Protocol):
    """A way to have a reward model read chains."""

    @property
    def context(self) -> int:
        """Tokens the model reads and writes together, at most."""
        ...

    async def read(self, ids: Sequence[int], labels: Sequence[int], tenant: str | None) -> Reading:
        """What the model's pooler gives for these tokens; prefixes are cached for each tenant apart. With labels, for a
        model that writes its verdicts: one row, the natural-log probabilities of the labels as the next token.
        Cancelling stops the model. Raises `EngineError`."""
        ...

    async def close(self) -> None:
        """Lets go of the model. Idempotent."""
        ...


async def start_reward(
    path: str, *, name: str, profile: RewardProfile | None, options: EngineOptions
) -> ProcessRewardModel:
    """Loads a process reward model into this process. Raises `EngineError` in plain words where it cannot."""
    settle_environment()
    await asyncio.to_thread(read_config, path)
    profile = profile or find_reward_profile(path)
    given = arguments(path, options)
    # The engine's own series are of the models that write.
    given |= {"disable_log_stats": True}
    if not on_cpu() and options.gpu_memory_utilization is None:
        given |= {"gpu_memory_utilization": GPU_SHARE}
    if profile.verdict != "labels":
        config: Any = importlib.import_module("vllm.config.pooler").PoolerConfig
        # The default for these models gives the tagged rows only, and switches the prefix cache off.
        given |= {"runner": "pooling", "pooler_config": config(tok_pooling_type="ALL")}
        given.pop("structured_outputs_config", None)
    llm = launch(given)
    try:
        return ProcessRewardModel(VllmReader(llm, name), llm.get_tokenizer(), profile, name)
    except BaseException:
        llm.shutdown()
        raise
    finally:
        del llm  # see `ponder.engines.launch.launch`


class VllmReader:
    """Reads with a model in vLLM, in this process."""

    def __init__(self, llm: Any, name: str) -> None:
        self._llm = llm
        self._name = name
        self._context = int(llm.model_config.max_model_len)
        self._inputs: Any = importlib.import_module("vllm.inputs.engine")
        self._refusal: type[Exception] = importlib.import_module("vllm.exceptions").VLLMClientError
        self._numbers = itertools.count()
        self._closed = False

    @property
    def context(self) -> int:
        return self._context

    async def read(self, ids: Sequence[int], labels: Sequence[int], tenant: str | None) -> Reading:
        """One call to the engine; see the contract."""
        try:
            out = await self._answer(ids, self._sampling() if labels else self._pooling(), tenant)
        except dead() as error:
            raise EngineError(f"reward model {self._name}: the engine is dead") from error
        hits = int(out.num_cached_tokens or 0)
        if labels:
            logprobs = out.outputs[0].logprobs
            likely = dict(zip(logprobs.token_ids, logprobs.logprobs, strict=True))
            return Reading((of_labels(labels, likely),), hits)
        rows = out.outputs.data
        return Reading(rows.reshape(len(rows), -1).tolist(), hits)

    async def _answer(self, ids: Sequence[int], params: Any, tenant: str | None) -> Any:
        stream = await self._submit(ids, params, tenant)
        done = False
        try:
            out: Any = await stream.get()
            done = True
        finally:
            if not done:
                await self._llm.abort(stream.request_id, internal=True)
        return out

    async def _submit(self, ids: Sequence[int], params: Any, tenant: str | None) -> Any:
        if self._closed:
            raise EngineError(f"reward model {self._name} is closed")
        number = f"reward-{next(self._numbers)}"
        try:
            return await self._llm.add_request(number, self._inputs.tokens_input(list(ids), cache_salt=tenant), params)
        except (ValueError, self._refusal) as error:
            raise EngineError(f"reward model {self._name} refuses a chain: {type(error).__name__}") from None

    def _pooling(self) -> Any:
        pooling: Any = importlib.import_module("vllm.pooling_params").PoolingParams
        return pooling(task="token_classify", skip_reading_prefix_cache=False)

    def _sampling(self) -> Any:
        sampling: Any = importlib.import_module("vllm.sampling_params")
        return sampling.SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprobs=LIKELIEST,
            flat_logprobs=True,
            detokenize=False,
            output_kind=sampling.RequestOutputKind.FINAL_ONLY,
        )

    async def close(self) -> None:
        """Lets go of the model. Idempotent."""
        if not self._closed:
            self._closed = True
            self._llm.shutdown(timeout=5.0)
            del self._llm
            gc.unfreeze()
            gc.collect()


def of_labels(labels: Sequence[int], likely: Mapping[int, float]) -> list[float]:
    """The log-probabilities of the labels. One that is not among the likeliest counts as the least of them."""
    least = min(likely.values())
    return [likely.get(label, least) for label in labels]


class ProcessRewardModel:
    """Lays chains out for a reward model and takes its verdicts down; fulfils `ponder.compute.engine.RewardModel`."""

    def __init__(self, reader: Reader, tokenizer: ChatTokenizer, profile: RewardProfile, name: str) -> None:
        self.reader = reader
        self.profile = profile
        self._name = name
        template = PROFILES[profile.template]
        if not template.opening:
            template = Profile(name=profile.template, thinks=False, switch="")
        self._prompts = Prompts(tokenizer, template)
        self._known: OrderedDict[bytes, float] = OrderedDict()
        """Verdicts by the hash of what was judged: of no chain a text or its ids is kept when its request is over."""
        self._pending: dict[bytes, asyncio.Future[None]] = {}
        """Prefixes that are being judged: whoever wants to know the same waits."""
        self._labels: list[int] = []
        self._judged = float("-inf")
        if profile.verdict == "labels":
            self._labels = [self._prompts.encoded(((label, True),))[-1] for label in profile.labels]

    @property
    def name(self) -> str:
        return self._name

    async def reward(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, read: Read, tenant: str | None = None
    ) -> Sequence[Reward]:
        """The scores of each candidate's steps; a step still half-written counts as one."""
        try:
            async with asyncio.TaskGroup() as judging:
                tasks = [judging.create_task(self._judge(prompt, candidate, read, tenant)) for candidate in candidates]
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return [task.result() for task in tasks]

    def aggregate(self, steps: Sequence[float]) -> float:
        """One score of many, in this family's way. 0.0 for no steps."""
        if not steps:
            return 0.0
        match self.profile.aggregation:
            case "last":
                return steps[-1]
            case "min":
                return min(steps)
            case "product":
                return math.prod(steps)
            case "mean":
                return sum(steps) / len(steps)

    async def check(self) -> Checked | None:
        """Returns when the model judges a chain as its family does, or has just judged one; raises `EngineError` when
        it does not."""
        if time.monotonic() - self._judged < 5:
            return None
        ids = self.prefixes(Prompt((Message("user", "What is 1 + 1?"),)), ["1 + 1 = 2"])
        told: list[tuple[int, int]] = []
        await self._verdicts(ids, 0, lambda tokens, cached: told.append((tokens, cached)), None)
        ((tokens, cached),) = told
        return Checked(tokens, cached)

    async def close(self) -> None:
        """Lets go of the model. Idempotent."""
        await self.reader.close()

    # -- laying out ---------------------------------------------------------------------------------------------------

    def _steps(self, candidate: Candidate) -> tuple[list[str], list[str]]:
        """The steps of thought and answer."""
        step = self.profile.step
        thought = [part for part in candidate.thought.unseal().split(step) if part.strip()]
        if self.profile.judges == "thought":
            return thought, []
        return thought, [part for part in candidate.text.split(step) if part.strip()]

    async def _laid_out(self, prompt: Prompt, thought: Sequence[str], answer: Sequence[str] = ()) -> list[list[int]]:
        """`prefixes`, beside the event loop where they are long."""
        if prompt.size + sum(map(len, thought)) + sum(map(len, answer)) < LONG:
            return self.prefixes(prompt, thought, answer)
        return await asyncio.to_thread(self.prefixes, prompt, thought, answer)

    def prefixes(self, prompt: Prompt, thought: Sequence[str], answer: Sequence[str] = ()) -> list[list[int]]:
        """The ids up to where the verdict on each step is read, those of the thought and those of the answer. A chain
        comes again with each step it grows by: what was spelt is kept with its prompt."""
        steps = [*thought, *answer]
        profile = self.profile
        messages = prompt.messages
        if profile.system is not None:
            own = tuple(message for message in messages if message.role not in ("system", "developer"))
            messages = (Message("system", profile.system), *own)
        if profile.layout == "turns":
            return self._turns(prompt, messages, steps)
        heads = [""] * len(steps)
        if profile.numbered:
            heads = [f"{'' if n == 1 else chr(10)}Step {n}: " for n in range(1, len(steps) + 1)]
        if profile.layout == "chat":
            base = list(self._asked(prompt, messages, thinking=True).ids)
            parts: list[tuple[str, bool]] = []
        else:
            base = []
            parts = [(_text(messages[-1]), True), (" " if profile.numbered else "\n", False)]
        found: list[list[int]] = []
        if profile.apart:
            base += self._step_ids(prompt, tuple(parts))
            parts = []
        for n, (head, step) in enumerate(zip(heads, steps, strict=True)):
            tail = profile.tail
            if profile.seam and n >= len(thought):
                parts += [(profile.seam, False)] if n == len(thought) else []
                tail = ""
            parts += [(head + step + tail, True), (profile.tag, False)]
            if profile.apart or self._prompts.is_marker(profile.tag):
                # Nothing is ever merged across a seam or a marker: what stands behind the last one is all that is new.
                for group in [[part] for part in parts] if profile.apart else [parts]:
                    base += self._step_ids(prompt, tuple(group))
                parts = []
                found.append(list(base))
            else:
                found.append([*base, *self._prompts.encoded(parts)])
        return found

    def _step_ids(self, prompt: Prompt, parts: tuple[tuple[str, bool], ...]) -> list[int]:
        key = self._prompts, parts
        ids: list[int] | None = prompt.read.get(key)
        if ids is None:
            ids = prompt.read[key] = self._prompts.encoded(parts)
        return ids

    def _asked(self, prompt: Prompt, messages: tuple[Message, ...], *, thinking: bool) -> Rendered:
        """The messages as this model reads them."""
        laid: OrderedDict[tuple[Message, ...], Prompt] = prompt.read.setdefault(self._prompts, OrderedDict())
        own = laid.pop(messages, None) or Prompt(messages, parts=prompt.parts)
        laid[messages] = own
        if len(laid) > _LAID:
            laid.popitem(last=False)
        return self._prompts.render(own, thinking=thinking)

    def _turns(self, prompt: Prompt, messages: Sequence[Message], steps: Sequence[str]) -> list[list[int]]:
        turns: tuple[Message, ...] = ()
        found: list[list[int]] = []
        for n, step in enumerate(steps):
            text = f"{_text(messages[-1])} {step}" if n == 0 else step
            turns += (Message("user", text),)
            found.append(list(self._asked(prompt, turns, thinking=False).ids))
            turns += (Message("assistant", self.profile.labels[0]),)
        return found

    # -- judging ------------------------------------------------------------------------------------------------------

    async def _judge(self, prompt: Prompt, candidate: Candidate, read: Read, tenant: str | None) -> Reward:
        thought, answer = self._steps(candidate)
        if not thought and not answer:
            return Reward(())
        prefixes = await self._laid_out(prompt, thought, answer)
        truncated = len(prefixes[-1]) > self.reader.context - 1
        if truncated:
            # The chain does not fit: its answer is judged, or what of it there is room for.
            prefixes = await self._laid_out(prompt, (), answer) if answer else prefixes
            prefixes = [ids for ids in prefixes if len(ids) < self.reader.context]
        keys = _hashes(prefixes, tenant)
        scores: dict[int, float] = {}
        for n in reversed(range(len(prefixes))):
            if n in scores:
                continue
            key = keys[n]
            while (score := self._known.get(key)) is None and (judging := self._pending.get(key)) is not None:
                await asyncio.wait([judging])
            if score is not None:
                scores[n] = score
                continue
            judging = self._pending[key] = asyncio.get_running_loop().create_future()
            try:
                found = await self._verdicts(prefixes, n, read, tenant)
                for at, score in found.items():
                    self._known[keys[at]] = score
            finally:
                del self._pending[key]
                judging.set_result(None)
            scores |= found
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return Reward(tuple(scores[n] for n in range(len(prefixes))), truncated)

    async def _verdicts(
        self, prefixes: Sequence[list[int]], last: int, read: Read, tenant: str | None
    ) -> dict[int, float]:
        """One call: the verdict on step `last`, and on those before it whose tokens had to be read anyway."""
        ids = prefixes[last]
        written = 1 if self._labels else 0
        try:
            reading = await self.reader.read(ids, self._labels, tenant)
        except asyncio.CancelledError:
            # Under way, and perhaps done: nobody tells any more.
            read(len(ids) + written, 0)
            raise
        read(len(ids) + written, reading.cached)
        self._judged = time.monotonic()
        first = len(ids) - len(reading.rows)
        verdicts: dict[int, float] = {}
        for n in range(last + 1):
            at = len(prefixes[n]) - 1
            if at >= first and prefixes[n] == ids[: at + 1]:
                verdicts[n] = self._read(reading.rows[at - first])
        return verdicts

    def _read(self, row: Sequence[float]) -> float:
        """A verdict as a number in [0, 1]; vLLM has applied the softmax or sigmoid of the model's head."""
        verdict = self.profile.verdict
        wanted = 1 if verdict == "sigmoid" else 2
        if len(row) != wanted:
            raise EngineError(
                f"reward model {self._name} gives {len(row)} numbers for a token where its family "
                f"({self.profile.name}) has {wanted}"
            )
        value = row[-1]
        if verdict == "labels":
            good, bad = row
            value = 1 / (1 + math.exp(min(bad - good, 700.0)))
        if not 0 <= value <= 1:
            raise EngineError(f"reward model {self._name} gives a score of {value}, outside 0 to 1")
        return value


def _hashes(prefixes: Sequence[Sequence[int]], tenant: str | None) -> list[bytes]:
    """One for each prefix, which tells tenants apart, and nothing of what was hashed."""
    begin = blake2b(repr(tenant).encode(), digest_size=16)
    found: list[bytes] = []
    for ids in prefixes:
        whole = begin.copy()
        whole.update(array("q", ids))
        found.append(whole.digest())
    return found


def _text(message: Message) -> str:
    return message.content if isinstance(message.content, str) else message.content.unseal()
