"""Process reward models: a second model that judges a chain step by step.

Every family wants the steps laid out in its own way, reads its verdict off in its own way and adds up the verdicts in
its own way: that is a `RewardProfile`. A prefix that was judged before is not judged again. How the model itself is
reached is a `Reader`'s business: that of `ponder.engines.reward_vllm` has it in this process, that of
`ponder.engines.reward_remote` asks another vLLM over HTTP.
"""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from ponder.compute.engine import LONG, Checked, HasSlots, Hold, Read, Reward, unheld
from ponder.compute.errors import EngineError, Lost
from ponder.compute.groups import TaskGroup
from ponder.compute.identity import CallIdentity
from ponder.compute.text import Candidate, Message, Prompt
from ponder.engines.profiles import PROFILES, Profile
from ponder.engines.prompts import ChatTokenizer, Prompts
from ponder.engines.reward_layout import Layout
from ponder.engines.reward_profiles import RewardProfile
from ponder.engines.reward_reader import Reader

_KEPT = 65536
"""Verdicts that are remembered."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """On whose behalf a chain is judged."""

    read: Read
    tenant: str | None
    hold: Hold = unheld
    name: str = "reward"
    """Of its calls, in the logs of whoever serves the model."""
    gone: list[Lost] = field(default_factory=list[Lost])
    """The model went away over these chains or their siblings: what was under way was never judged."""


class ProcessRewardModel:
    """Judges chains by what a reward model makes of them; fulfils `ponder.compute.engine.RewardModel`."""

    def __init__(self, reader: Reader, tokenizer: ChatTokenizer, profile: RewardProfile, name: str) -> None:
        self.reader = reader
        self.profile = profile
        self.slots = reader.slots if isinstance(reader, HasSlots) else None
        self._name = name
        template = PROFILES[profile.template]
        if not template.opening:
            template = Profile(name=profile.template, thinks=False, switch="")
        prompts = Prompts(tokenizer, template)
        self.layout = Layout(prompts, profile)
        self._known: OrderedDict[bytes, float] = OrderedDict()
        """Verdicts by the hash of what was judged. No text and no ids of a chain are kept after its request."""
        self._pending: dict[bytes, asyncio.Future[None]] = {}
        """Prefixes that are being judged: another call that needs the same verdict waits for it."""
        self._labels: list[int] = []
        self._judged = float("-inf")
        if profile.verdict == "labels":
            self._labels = [prompts.encoded(((label, True),))[-1] for label in profile.labels]

    @property
    def name(self) -> str:
        return self._name

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
        """The scores of each candidate's steps; a step still half-written counts as one."""
        gone: list[Lost] = []
        asked = [_Asked(read, tenant, hold, str(call), gone) for call in calls]
        asked = asked or [_Asked(read, tenant, hold, gone=gone)] * len(candidates)
        try:
            async with TaskGroup() as judging:
                tasks = [
                    judging.create_task(self._judge(prompt, candidate, of))
                    for candidate, of in zip(candidates, asked, strict=True)
                ]
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
        await self._verdicts(ids, 0, _Asked(lambda tokens, cached: told.append((tokens, cached)), None, name="check"))
        ((tokens, cached),) = told
        return Checked(tokens, cached)

    async def close(self) -> None:
        """Lets go of the model. Idempotent."""
        await self.reader.close()

    def prefixes(self, prompt: Prompt, thought: Sequence[str], answer: Sequence[str] = ()) -> list[list[int]]:
        """The ids up to where the verdict on each step is read, those of the thought and those of the answer."""
        return self.layout.prefixes(prompt, thought, answer)

    async def _laid_out(self, prompt: Prompt, thought: Sequence[str], answer: Sequence[str] = ()) -> list[list[int]]:
        """`prefixes`, beside the event loop where they are long."""
        if prompt.size + sum(map(len, thought)) + sum(map(len, answer)) < LONG:
            return self.prefixes(prompt, thought, answer)
        return await asyncio.to_thread(self.prefixes, prompt, thought, answer)

    async def _judge(self, prompt: Prompt, candidate: Candidate, asked: _Asked) -> Reward:
        thought, answer = self.layout.steps(candidate)
        if not thought and not answer:
            return Reward(())
        prefixes = await self._laid_out(prompt, thought, answer)
        truncated = len(prefixes[-1]) > self.reader.context - 1
        if truncated:
            # The chain does not fit: its answer is judged, or what of it there is room for.
            prefixes = await self._laid_out(prompt, (), answer) if answer else prefixes
            prefixes = [ids for ids in prefixes if len(ids) < self.reader.context]
        keys = _hashes(prefixes, asked.tenant)
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
                found = await self._verdicts(prefixes, n, asked)
                for at, score in found.items():
                    self._known[keys[at]] = score
            finally:
                del self._pending[key]
                judging.set_result(None)
            scores |= found
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return Reward(tuple(scores[n] for n in range(len(prefixes))), truncated)

    async def _verdicts(self, prefixes: Sequence[list[int]], last: int, asked: _Asked) -> dict[int, float]:
        """One call: the verdict on step `last`, and on those before it whose tokens had to be read anyway."""
        ids = prefixes[last]
        tokens = len(ids) + (1 if self._labels else 0)
        async with asked.hold(tokens):
            try:
                reading = await self.reader.read(ids, self._labels, asked.tenant, asked.name)
            except Lost as lost:
                asked.gone.append(lost)
                raise
            except asyncio.CancelledError:
                # Under way, and perhaps done: nobody tells any more.
                if not asked.gone:
                    asked.read(tokens, 0)
                raise
            asked.read(tokens, reading.cached)
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
