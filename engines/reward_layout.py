"""How a chain is laid out for a reward model: what it reads, and where in it the verdict on each step stands."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ponder.compute.text import Candidate, Message, Prompt
from ponder.engines.prompts import Prompts, Rendered
from ponder.engines.reward_profiles import RewardProfile

_LAID = 128
"""Conversations laid out for one prompt that are remembered as long as it is."""


class Layout:
    """Lays chains out as one model reads them: `prompts` are the model's own, `profile` is its family's."""

    def __init__(self, prompts: Prompts, profile: RewardProfile) -> None:
        self._prompts = prompts
        self.profile = profile

    def steps(self, candidate: Candidate) -> tuple[list[str], list[str]]:
        """The steps of thought and answer."""
        step = self.profile.step
        thought = [part for part in candidate.thought.unseal().split(step) if part.strip()]
        if self.profile.judges == "thought":
            return thought, []
        return thought, [part for part in candidate.text.split(step) if part.strip()]

    def prefixes(self, prompt: Prompt, thought: Sequence[str], answer: Sequence[str] = ()) -> list[list[int]]:
        """The ids up to where the verdict on each step is read, those of the thought and those of the answer. A chain
        comes again with each step it grows by: what was encoded is kept with its prompt."""
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
        if profile.piecewise:
            base += self._step_ids(prompt, tuple(parts))
            parts = []
        for n, (head, step) in enumerate(zip(heads, steps, strict=True)):
            tail = profile.tail
            if profile.seam and n >= len(thought):
                parts += [(profile.seam, False)] if n == len(thought) else []
                tail = ""
            parts += [(head + step + tail, True), (profile.tag, False)]
            if profile.piecewise or self._prompts.is_marker(profile.tag):
                # Nothing is ever merged across a seam or a marker: what stands behind the last one is all that is new.
                for group in [[part] for part in parts] if profile.piecewise else [parts]:
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


def _text(message: Message) -> str:
    return message.content if isinstance(message.content, str) else message.content.unseal()
