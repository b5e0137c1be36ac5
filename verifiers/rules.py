"""Judges by rules the request gives: a pattern, a JSON schema, a number. Exact where it applies, and free.

Patterns and schemas come from strangers and may be built to run for ever, so they run in a process apart that is
killed when its time is up.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from compute.answers import final_answer, number
from compute.apart import apart
from compute.errors import EngineError
from compute.run import Run
from compute.text import Candidate, Score

SECONDS = 2.0
"""How long one rule may take over one text."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Rules:
    """1 where every rule given holds, else 0: a pattern, a JSON schema, a number."""

    needs_likelihood: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    pattern: Annotated[
        str | None, Field(min_length=1, max_length=500, description="A regular expression found in the text")
    ] = None
    of: Annotated[
        Literal["text", "answer"], Field(description="What the pattern is looked for in: all, or the final answer")
    ] = "text"
    json_schema: Annotated[
        dict[str, Any] | None, Field(description="A JSON schema (without remote references) that the answer fulfils")
    ] = None
    number: Annotated[float | None, Field(allow_inf_nan=False, description="The value of the final answer")] = None
    tolerance: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="How far the answer may be from `number`")
    ] = 1e-6

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except (re.error, RecursionError, OverflowError):
            raise ValueError("is not a regular expression of Python's `re`") from None
        return pattern

    @model_validator(mode="after")
    def _some(self) -> Rules:
        if self.pattern is None and self.json_schema is None and self.number is None:
            raise ValueError("needs at least one of `pattern`, `json_schema`, `number`")
        return self

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        """Raises `EngineError` where a rule cannot be decided: out of time, or a faulty schema."""
        texts = {c.text for c in candidates}
        try:
            async with asyncio.TaskGroup() as judging:
                tasks = {text: judging.create_task(self.holds(text)) for text in texts}
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [Score(float(tasks[c.text].result())) for c in candidates]

    async def holds(self, text: str) -> bool:
        """Whether every rule holds for a text."""
        answer = final_answer(text) or ""
        if self.number is not None:
            value = number(answer)
            if value is None or abs(value - self.number) > self.tolerance:
                return False
        try:
            if self.json_schema is not None:
                fenced = re.fullmatch(r"\s*```(?:json)?\n(.*?)\n?```\s*", text, re.DOTALL)
                document = fenced[1] if fenced else text
                if not await apart("schema", json.dumps(self.json_schema), document, SECONDS):
                    return False
            if self.pattern is not None:
                return await apart("match", self.pattern, text if self.of == "text" else answer, SECONDS)
        except (TimeoutError, ValueError, BrokenPipeError) as failed:
            raise EngineError(f"a rule cannot be decided: {failed}") from None
        return True
