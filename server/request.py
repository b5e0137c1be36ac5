"""What a caller wants, in words of our own: every dialect reads its requests into this, and the plan reads only this.

Errors about a request name these fields, in dotted paths with the indices of lists (`tools.0.parameters`); a dialect
says what they are called in its own requests (`ponder.server.dialect`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ponder.compute.outcome import SummaryLength
from ponder.compute.text import Message, Raw, Tool

AUTO = -1
"""Instead of a number of hidden tokens: as many as the ceiling allows."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A strategy or verifier by name, with parameters that its own schema checks."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class ThinkingWish:
    """How much thinking the caller wants, and which field said so."""

    tokens: int | None = None
    """Hidden tokens at most; 0 is off, `AUTO` leaves it to the server. None: not said in tokens."""
    effort: str | None = None
    """A word for it, which the operator's settings turn into tokens. Counts where `tokens` is None."""
    on: bool = False
    """Thinking is wanted; how much is not said."""
    source: str = "default"
    """The field that said so, as the caller wrote it."""
    exact: bool = False
    """Refused above the ceiling; else lowered to it."""
    loop: bool = False
    """The tokens are for a whole tool loop: what its earlier answers have spent, as their sealed thoughts say that the
    caller hands back, is taken off."""


@dataclass(frozen=True, slots=True)
class Document:
    """The answer is a JSON document."""

    schema: str | None = None
    """Its JSON schema as text, in the caller's order; None is any object."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """How the tools may be used."""

    mode: Literal["none", "auto", "required"] | None = None
    """None: the caller does not say, and the model may call them."""
    name: str | None = None
    """With `required`: this tool alone."""
    parallel: bool = True
    """More than one call in an answer."""


@dataclass(frozen=True, slots=True)
class SamplingWish:
    """How tokens are drawn; what is None is left to the model's defaults. Ranges are those of `Sampling`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request of any dialect. Types and the bounds of single numbers are the dialect's to check; what the operator
    bounds is checked by `ponder.server.bounds`, for all dialects."""

    model: str
    """A served model, or MODEL:STRATEGY."""
    messages: tuple[Message, ...] = ()
    raw: tuple[Raw, ...] = ()
    """In the place of messages: texts that the model goes on with as they stand, each for `n` answers, by the strategy
    `direct` alone."""
    thinking: ThinkingWish = ThinkingWish()
    strategy: Asked | None = None
    verifier: Asked | None = None
    pro: bool = False
    """More work is wanted than usual: where no strategy is named, the one that the operator has chosen for that."""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    document: Document | None = None
    """The shape of the answer; None is free text."""
    answer_tokens: int | None = None
    """Visible tokens at most."""
    total_tokens: int | None = None
    """Hidden and visible tokens of one answer at most."""
    max_cost: int | None = None
    """Nano-USD that all of it may cost at most."""
    timeout: float | None = None
    """Seconds until the best so far is the answer."""
    n: int = 1
    """Answers that are wanted, each from a run of its own."""
    stream: bool = False
    sampling: SamplingWish = SamplingWish()
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, bias)."""
    logprobs: int | None = None
    """With each visible token its log-probability, and those of this many others."""
    user: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the caller wants to find the request again by; it changes nothing."""
    show_thought: bool = False
    """The answer carries its thought; for keys with the scope `reveal`."""
    seals_thought: bool = False
    """The answer carries its thought sealed, for the caller to hand back."""
    summary: SummaryLength | None = None
    """The answer carries a summary of its thought, so long; None: none."""
    progress: bool = False
    """A stream tells how far the work is (`Writer.progress`); without effect for keys with coarse numbers."""

    @property
    def answers(self) -> int:
        """How many answers there are to be in all: `n` of the first prompt, then of each other."""
        return self.n * max(1, len(self.raw))
