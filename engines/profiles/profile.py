"""What differs from one family of models to the next, as data: markers, switches, sampling, the form of tool calls.

A profile states facts. Where the chat template itself shows a fact (on which side of the thought it leaves the model,
say), `ponder.engines.prompts` reads it off what the template renders and trusts that.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

Value = bool | int | str
"""What a variable of a chat template is set to."""

Effort = Literal["minimal", "low", "medium", "high", "xhigh", "max"]
_NEXT: dict[str, Effort] = {"minimal": "low", "max": "xhigh", "xhigh": "high"}
"""Words that few families know, and those that all do."""


class Profile(BaseModel):
    """One family of models. A user may give one as a table in the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "custom"
    thinks: bool = True
    """It can be made to think before it answers, and its thought can be told from the answer."""
    start: str = "<think>"
    """The marker that opens a thought; empty where nothing does (step-by-step prompting)."""
    end: str = "</think>"
    """The marker that ends it; hidden, and counted as thought."""
    opening: str = "<think>\n"
    """Put behind the template's generation prompt where that leaves the model outside a thought it is to have. So it is
    known from the first token on which side the model is, and a forgotten marker hides everything, never nothing."""
    closing: str = "\n</think>\n\n"
    """Put in by force where a thought has used up its share."""
    closed: str = "<think>\n\n</think>\n\n"
    """Put behind the generation prompt to switch thinking off where the template has no switch for it."""
    wrapper: tuple[str, str] = ("", "")
    """What the model writes around its answer, such as `<response>` and `</response>`; not shown to the caller. Either
    may be missing."""
    channels: Literal["", "harmony"] = ""
    """Thought and answer are messages of one turn, each with its channel at its head; "harmony": as gpt-oss writes."""
    switch: str = "enable_thinking"
    """A variable of the template: true when the model is to think, else false; unknown to a template, it is without
    effect."""
    on: dict[str, Value] = {}
    """More variables of the template when it is to think; they go before `switch`."""
    off: dict[str, Value] = {}
    """The same when it is not to think."""
    system: tuple[str, str] = ("", "")
    """Sentences added to the system message: when the model is to think, and when it is not to."""
    word: tuple[str, str] = ("", "")
    """Words added to the last message of the user's, such as `/think` and `/no_think`: to think, and not to."""
    instruction: str = ""
    """Added to the system message when the model is to think, behind `system`; for models that have to be asked."""
    effort: str = ""
    """The template's variable for how much to think; empty where it has none."""
    efforts: dict[Effort, Value] = {}
    """What that variable is set to; an effort that is missing is its own name (`minimal` that of `low`, `max` that of
    `xhigh`, and that of `high`)."""
    budget: str = ""
    """The template's variable for the tokens of a thought, for models that were trained to keep to them."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    step: Annotated[str, Field(min_length=1)] = "\n\n"
    """What ends a step of a thought."""
    typical_chain: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (3000, 12000)
    """(p50, p90) of the tokens of a whole chain, before any was seen."""
    tools: str = "none"
    """How the family writes calls of tools, a name of `ponder.engines.tools`; "none": as the model's files show."""
    reads_thoughts: Literal["never", "tool_loop", "always"] = "never"
    """Which thoughts of earlier turns the model was trained to read: those since the user's last message ("tool_loop"),
    or all."""
    thoughts_field: str = "reasoning_content"
    """Where in a message the template looks for its thought; "content": in a block of its content, {"type": "thinking",
    "thinking": ...}."""

    @model_validator(mode="before")
    @classmethod
    def _older(cls, given: Any) -> Any:
        """Reads `shows_thoughts`, as `reads_thoughts` was called while it was true or false."""
        if not isinstance(given, dict) or "shows_thoughts" not in given:
            return cast("Any", given)
        table = dict(cast("dict[str, Any]", given))
        shows = TypeAdapter(bool).validate_python(table.pop("shows_thoughts"))
        return {"reads_thoughts": "always" if shows else "never"} | table

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        if self.thinks and not (self.end and self.end in self.closing):
            raise ValueError(
                f"profile {self.name!r}: closing {self.closing!r} must contain the end marker {self.end!r}"
            )
        return self

    @property
    def shows_thoughts(self) -> bool:
        """It reads thoughts of earlier turns, some or all."""
        return self.reads_thoughts != "never"

    def variables(self, thinking: bool, *, effort: str | None = None, budget: int | None = None) -> dict[str, Value]:
        """What the chat template is given to let the model think, or to keep it from it. `effort`, a word, and `budget`
        (tokens of a thought) count for models whose template asks for them."""
        given: dict[str, Value] = {self.switch: thinking} if self.switch else {}
        given |= self.on if thinking else self.off
        if thinking and self.effort and effort is not None:
            known = cast("dict[str, Value]", self.efforts)
            word = effort
            while word not in known and word in _NEXT:
                word = _NEXT[word]
            given[self.effort] = known.get(word, word)
        if thinking and self.budget and budget is not None:
            given[self.budget] = budget
        return given

    def sentences(self, thinking: bool) -> str:
        """What is added to the system message; may be empty."""
        said = (self.system[0], self.instruction) if thinking else (self.system[1],)
        return "\n\n".join(filter(None, said))
