"""Judges by rules the request gives: a pattern, a JSON schema, a number. Exact where it applies, and free.

Patterns and schemas come from callers. Patterns are RE2's, which takes time linear in the text whatever the pattern.
Still, both run in the worker pool, which kills what takes too long.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast
from urllib.parse import unquote

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from ponder.compute.answers.extraction import final_answer
from ponder.compute.answers.keys import number
from ponder.compute.errors import EngineError, NoVerdict
from ponder.compute.groups import TaskGroup
from ponder.compute.pool import pool
from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score
from ponder.compute.worker import compiled

SECONDS = 2.0
"""Seconds of processor time one rule may take over one text."""
TOGETHER = 20.0
"""Seconds all rules may take over all texts, waiting for a worker included."""

NOT_IN_RE2 = {
    "(?=": "a look-ahead",
    "(?!": "a look-ahead",
    "(?<": "a look-behind",
    "(?P": "a back-reference by name (or a group whose name is none)",
    "(?>": "an atomic group",
    "(?(": "a condition",
    "(?#": "a comment",
    **dict.fromkeys(("++", "*+", "?+", "}+"), "a possessive repetition"),
    **{f"\\{digit}": "a back-reference" for digit in range(1, 10)},
}
"""What other kinds of patterns have and RE2 has not, by the first characters of the piece that RE2 complains about."""
SPELLED = {"\\Z": "\\z", "\\u": "\\x{...}", "\\U": "\\x{...}", "\\N": "\\x{...}"}
"""What RE2 writes in another way."""

_FENCED = re.compile(r"\s*```(?:json)?\n(.*?)\n?```\s*", re.DOTALL)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Rules:
    """1 where every rule given holds, else 0: a pattern, a JSON schema, a number."""

    needs_likelihood: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    pattern: Annotated[
        str | None, Field(min_length=1, max_length=500, description="A regular expression of RE2 found in the text")
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
            compiled(pattern or "")
        except ValueError as refused:
            raise ValueError(_complaint(str(refused))) from None
        return pattern

    @field_validator("json_schema")
    @classmethod
    def _ends(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None and _goes_in_circles(schema):
            raise ValueError("refers to itself without going on to a part of the document, so no check of it would end")
        return schema

    @model_validator(mode="after")
    def _some(self) -> Rules:
        if self.pattern is None and self.json_schema is None and self.number is None:
            raise ValueError("needs at least one of `pattern`, `json_schema`, `number`")
        return self

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        """Raises `EngineError` where a rule cannot be decided: out of time, or a faulty schema."""
        until = asyncio.get_running_loop().time() + TOGETHER
        schema = None if self.json_schema is None else json.dumps(self.json_schema)
        texts = {c.text for c in candidates}
        try:
            async with TaskGroup() as judging:
                tasks = {t: judging.create_task(self._holds(t, schema, run.tenant, until)) for t in texts}
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [Score(float(tasks[c.text].result())) for c in candidates]

    async def _holds(self, text: str, schema: str | None, tenant: str | None, until: float) -> bool:
        """Whether every rule holds for a text."""
        answer = final_answer(text) or ""
        if self.number is not None:
            value = number(answer)
            if value is None or abs(value - self.number) > self.tolerance:
                return False

        async def check(task: Literal["match", "schema"], rule: str, text: str) -> bool:
            return await pool().ask(task, rule, text, tenant=tenant, seconds=SECONDS, until=until)

        try:
            if schema is not None and not await check("schema", schema, document(text)):
                return False
            if self.pattern is not None:
                return await check("match", self.pattern, text if self.of == "text" else answer)
        except NoVerdict as none:
            raise EngineError(f"a rule cannot be decided: {none}") from None
        return True


def document(text: str) -> str:
    """A text without the fence around it, if it is nothing but a fenced block."""
    fenced = _FENCED.fullmatch(text)
    return fenced[1] if fenced else text


def _goes_in_circles(schema: dict[str, Any]) -> bool:
    """A part of the schema leads back to itself over words that hold for the same value: `$ref`, `anyOf` and the like.
    References by name (`$id`, `$anchor`) are not followed."""
    beginnings, known = [schema], cast("list[Any]", [schema])
    while known:
        part = known.pop()
        if isinstance(part, list):
            known += cast("list[Any]", part)
        elif isinstance(part, dict):
            named = cast("dict[str, Any]", part)
            known += named.values()
            if "$ref" in named:
                beginnings.append(named)
    ended: set[int] = set()
    for beginning in beginnings:
        opened: dict[int, Iterator[dict[str, Any]]] = {id(beginning): _for_the_same(beginning, schema)}
        while opened:
            last = next(reversed(opened))
            following = next(opened[last], None)
            if following is None:
                opened.popitem()
                ended.add(last)
            elif id(following) in opened:
                return True
            elif id(following) not in ended:
                opened[id(following)] = _for_the_same(following, schema)
    return False


def _for_the_same(part: dict[str, Any], root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas inside one that are asked about the same value."""
    found: list[Any] = [part.get(word) for word in ("not", "if", "then", "else")]
    for word in ("allOf", "anyOf", "oneOf"):
        found += several if isinstance(several := part.get(word), list) else []
    found += named.values() if isinstance(named := part.get("dependentSchemas"), dict) else []
    reference = part.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        place: Any = root
        for word in unquote(reference[1:]).split("/")[1:]:
            place = _inside(place, word.replace("~1", "/").replace("~0", "~"))
        found.append(place)
    yield from (one for one in found if isinstance(one, dict))


def _inside(place: Any, word: str) -> Any:
    """One step of a JSON pointer (RFC 6901); None: there is nothing."""
    if isinstance(place, dict):
        return cast("dict[str, Any]", place).get(word)
    if isinstance(place, list) and word.isdecimal():
        at, values = int(word[:9]), cast("list[Any]", place)
        return values[at] if at < len(values) else None
    return None


def _complaint(refused: str) -> str:
    """What RE2 says against a pattern, in words that do not quote the pattern."""
    kind, _, what = refused.partition(": ")
    if kind == "pattern too large - compile failed":
        return "is too large: RE2 spells repetitions out, and those inside of others multiply"
    if kind == "invalid repetition size":
        return "repeats something more than 1000 times, repetitions inside of others multiplied, which RE2 does not"
    for begin, name in NOT_IN_RE2.items():
        if what.startswith(begin) or (kind == "bad repetition operator" and what.endswith(begin)):
            return f"has {name}, which RE2 does not know"
    for begin, spelled in SPELLED.items():
        if what.startswith(begin):
            return f"has {begin}, which RE2 writes {spelled}"
    return "is not a regular expression of RE2 (https://github.com/google/re2/wiki/Syntax)"
