"""A vLLM without a model: a stand-in for `AsyncLLM` that writes token ids by a script in portions of any size.

It reads off its prompt what was written before, as a model does, so chains that were closed by force, cut into steps or
left in the middle go on from where they stand.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from transformers import AutoTokenizer

from ponder.engines.profiles import PROFILES, Profile
from ponder.engines.vllm import VllmEngine
from ponder.testing import MARKER
from tests.engines.family_models import OWN
from tests.engines.stand_in import Call, StandIn

DEMO = Path(__file__).parents[2] / "models" / "demo"
HEADER = "<|im_start|>assistant\n"
CONTROLS = ("<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|return|>", "<|call|>", "<|constrain|>")
END_OF_TURN = "<|im_end|>"
JUDGE = "You are checking somebody's work."
LINE = f"{MARKER}!\n"

Fate = Literal["closed", "forgotten", "turn ended"]
"""How a thought ends: with its marker, never, or with the end of the turn."""

BY_TEXT = Profile(
    name="spelt", start="<thought>", end="</thought>", opening="<thought>\n", closing="\n</thought>\n",
    closed="<thought>\n</thought>\n", switch="", temperature=1.0, step="\n", typical_chain=(20, 40),
)  # fmt: skip
"""Markers that are no tokens of the vocabulary."""
NO_START = PROFILES["step_by_step"].model_copy(update={"step": "\n", "typical_chain": (20, 40)})
NAMED = PROFILES["demo"].model_copy(update={
    "name": "named", "start": "<|channel>thought", "end": "<channel|>", "opening": "<|channel>thought\n",
    "closing": "\n<channel|>", "closed": "<|channel>thought\n<channel|>", "switch": "",
})  # fmt: skip
"""The opening marker is a token and a word, as in Gemma 4."""
WRAPPED = PROFILES["demo"].model_copy(update={
    "name": "wrapped", "closing": "\n</think>\n<response>", "wrapper": ("<response>", "</response>"),
})  # fmt: skip
CHANNELS = PROFILES["gpt-oss"].model_copy(update={"step": "\n", "typical_chain": (20, 40)})
SILENT = PROFILES["instruct"].model_copy(update={"step": "\n", "typical_chain": (20, 40)})
FAMILIES = {
    "ids": PROFILES["demo"],
    "text": BY_TEXT,
    "no-start": NO_START,
    "named": NAMED,
    "wrapped": WRAPPED,
    "channels": CHANNELS,
    "silent": SILENT,
}
"""Every mechanism: markers that are tokens, that are text, that are several; a wrapper; channels; no thoughts. A second
thought within an answer is in the nature of a model, not of its family."""


@cache
def tokenizer(channels: bool = False) -> Any:
    """The demo reasoner's, with two labels for a judge and the control tokens of other families."""
    found = cast(Any, AutoTokenizer).from_pretrained(str(DEMO))
    found.add_tokens(["Yes", "No"])
    found.add_tokens([*CONTROLS, "<|channel>", "<channel|>"], special_tokens=True)
    if channels:
        found.chat_template = (OWN / "channels.jinja").read_text(encoding="utf-8")
    return found


@dataclass(frozen=True)
class Nature:
    """What a model is like."""

    fate: Fate = "closed"
    second: Fate | None = None
    """It opens a second thought in the middle of its answer, which ends so."""
    letters: bool = False
    """It spells letter by letter, markers that are no tokens too."""
    obeys: bool = True
    """Tokens that are banned are not written."""
    lines: int = 3
    """Of each thought."""
    answer: tuple[str, str] = ("The answer", " is 7.")
    """Before and behind the second thought."""


@dataclass
class ScriptedVllm(StandIn):
    """Whose chains are told by its nature."""

    profile: Profile
    nature: Nature = Nature()
    portions: Sequence[int] = (1, 2, 3, 5)
    stuck: str = ""
    """Once, it stops making tokens where what it has written ends so."""
    error: Exception | None = None
    """Raised in the place of the third portion of a call."""
    refusal: Exception | None = None
    """Raised over every request."""
    hidden: str = ""
    """All the thoughts it ever wrote, roughly."""

    def __post_init__(self) -> None:
        self.channels = bool(self.profile.channels)
        found = tokenizer(self.channels)
        super().__init__(found, 2048, len(found))
        if self.channels:
            self.end_of_turn = self.tokenizer.token_to_id("<|return|>")
        self.hangs = asyncio.Event()
        self.sizes = itertools.cycle(self.portions)

    def begin(self, number: str, prompt: list[int], params: Any) -> Call:
        if self.refusal is not None:
            raise self.refusal
        return _Spelt(self, number, prompt, params)

    # -- what it writes -----------------------------------------------------------------------------------------------

    def ids(self, text: str) -> list[int]:
        """Marker tokens are tokens; all else is encoded as the nature has it."""
        if not self.nature.letters:
            return super().ids(text)
        pieces = re.split(r"(</?think>|<\|\w+\|>|<\|channel>|<channel\|>)", text)
        encoded = [[piece] if i % 2 else list(piece) for i, piece in enumerate(pieces)]
        return [i for units in encoded for unit in units for i in self.tokenizer.encode(unit).ids]

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def goes_on(self, prompt: str, params: Any) -> Iterator[str]:
        """The pieces of text that follow this prompt, without an end where a thought has none."""
        profile, nature = self.profile, self.nature
        if self.channels:
            yield from self.messages(prompt, params)
            return
        written = prompt[prompt.rindex(HEADER) + len(HEADER) :]
        # Of a marker and the name behind it, the model may have written the marker alone.
        start, end = profile.start.removesuffix("thought"), profile.end
        if JUDGE in prompt:
            yield "Yes"
            return
        first, last = nature.answer
        if params.structured_outputs is not None:
            first, last = '{"n":', " 7}"
        if not profile.thinks:
            inside = False
        elif start:
            inside = written.rfind(start) > written.rfind(end)
        else:
            inside = profile.instruction in prompt and end not in written
        visible = re.sub(f"{re.escape(start)}.*?{re.escape(end)}", "", written, flags=re.DOTALL) if start else written
        visible = (visible.rpartition(end)[2] if end else visible).replace("\n", "").lstrip()
        wrap, unwrap = profile.wrapper
        if params.structured_outputs is not None:
            unwrap = ""
        if not inside and not visible.startswith(wrap) and wrap.startswith(visible):
            yield wrap[len(visible) :]
        visible = visible.removeprefix(wrap)
        if inside:
            again = first in written
            begun = written[written.rfind(start) + len(start) :] if start else written
            half = next((n for n in range(len(end) - 1, 1, -1) if begun.endswith(end[:n])), 0)
            yield from self.thought(
                begun.count(LINE.strip()), nature.second or "closed" if again else nature.fate, half
            )
            if not again:
                yield "\n" + wrap
                yield from self.stream(first, params, written)
            yield last + unwrap
        else:
            half = next((n for n in range(len(start) - 1, 0, -1) if visible.endswith(start[:n])), 0)
            if half:
                yield start[half:]
                yield from self.thought(0, nature.second or "closed")
                yield last + unwrap
            elif visible.endswith(first) and self.opens(params, written):
                yield from self.stream("", params, written)
                yield last + unwrap
            else:
                whole = first + last + unwrap
                said = next((n for n in range(len(whole), 0, -1) if visible.endswith(whole[:n])), 0)
                if said < len(first):
                    yield from self.stream(first[said:], params, written)
                    said = len(first)
                yield whole[said:]
        yield END_OF_TURN

    def messages(self, prompt: str, params: Any) -> Iterator[str]:
        """The same in harmony: a thought may be of two messages."""
        head, thought, answer = "<|start|>assistant", "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"
        turn = prompt[prompt.rindex("<|start|>user<|message|>") :].partition(head)[2]
        whole = "".join(self.nature.answer) if params.structured_outputs is None else '{"n": 7}'
        last = turn[turn.rfind("<|end|>") + len("<|end|>") :] if "<|end|>" in turn else head + turn
        if JUDGE in prompt:
            yield "Yes"
        elif thought in last:
            fate, again = self.nature.fate, turn.count(thought) > 1
            second = self.nature.second if fate == "closed" and not again else None
            yield from itertools.repeat(LINE, max(0, self.nature.lines - turn.count(LINE.strip())))
            if second is not None:
                yield f"<|end|>{head}{thought}{LINE}"
                fate = second
            if fate == "forgotten":
                yield from itertools.repeat(LINE)
            yield f"<|end|>{head}{answer}{whole}" if fate == "closed" else ""
        else:
            begun = f"{head}{answer}{whole}"
            said = next(n for n in range(len(begun), -1, -1) if last.endswith(begun[:n]))
            yield begun[said:]
        yield "<|return|>"

    def opens(self, params: Any, written: str) -> bool:
        """A second thought is in its nature, and it may be opened here."""
        nature, start = self.nature, self.profile.start
        if nature.second is None or not start or written.count(start) > 1 or params.structured_outputs is not None:
            return False
        banned = params.logit_bias or (params.bad_words and not nature.letters)
        return not (nature.obeys and banned)

    def stream(self, text: str, params: Any, written: str) -> Iterator[str]:
        yield text
        if self.opens(params, written):
            yield self.profile.start
            yield from self.thought(0, self.nature.second or "closed")

    def thought(self, before: int, fate: Fate, half: int = 0) -> Iterator[str]:
        """The rest of a thought of which so many lines are written, and so much of its closing marker."""
        if not half:
            yield from itertools.repeat(LINE, max(0, self.nature.lines - before))
        if fate == "forgotten":
            yield from itertools.repeat(LINE)
        yield self.profile.end[half:] if fate == "closed" else END_OF_TURN


class _Spelt(Call):
    """Its outputs have the sizes of a script."""

    def __init__(self, llm: ScriptedVllm, number: str, prompt: list[int], params: Any) -> None:
        super().__init__(llm, number, params)
        self.script = llm
        self.portion = 0
        self.stuck_at: int | None = None
        self.ids = list(self._written(prompt))

    def _written(self, prompt: list[int]) -> Iterator[int]:
        """The tokens of the call up to one of its ends."""
        llm, params = self.script, self.params
        text = before = llm.text(prompt)
        n = 0
        for piece in llm.goes_on(before, params):
            if LINE in piece:
                llm.hidden += piece
            for token in llm.ids(piece):
                yield token
                n += 1
                text += llm.text([token])
                if token == llm.end_of_turn or token in params.stop_token_ids:
                    self.reason, self.stop = "stop", None if token == llm.end_of_turn else token
                    return
                if found := next((s for s in params.stop if s in text[len(before) :]), None):
                    self.reason, self.stop = "stop", found
                    return
                if n >= params.max_tokens:
                    return
                if llm.stuck and text.endswith(llm.stuck):
                    self.stuck_at = n
                    return

    async def get(self) -> Any:
        await asyncio.sleep(0)
        self.portion += 1
        if self.script.error is not None and self.portion > 2:
            raise self.script.error
        size = next(self.script.sizes)
        if self.stuck_at is not None and self.at >= self.stuck_at:
            self.script.stuck = ""
            self.script.hangs.set()
            await asyncio.Event().wait()
        last = self.at + size >= len(self.ids) and self.stuck_at is None
        return self.output(size, self.reason if last else None)


def engine(llm: ScriptedVllm) -> VllmEngine:
    """The real engine over it."""
    return VllmEngine(llm, llm.get_tokenizer(), llm.profile, "demo")
