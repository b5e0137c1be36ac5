"""Gemini's answers as pydantic models, with our `thinking` in them: for `/openapi.json`.

Answers are written without them (`writing.py`); the tests hold what is written to these.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ponder.server.dialects.described import Part
from ponder.server.dialects.gemini.usage import TokenDetail, UsageMetadata
from ponder.server.dialects.thinking_report import ThinkingReport


class AnsweredCall(Part):
    id: str
    name: str
    args: dict[str, Any]


class AnsweredPart(Part):
    text: str = ""
    thought: Literal[True] = Field(default=True, description="The text is a summary of the thought")
    functionCall: AnsweredCall = Field(default=AnsweredCall(id="", name="", args={}))
    thoughtSignature: str = Field(default="", description="The sealed thought, to be handed back with this part")


class AnsweredContent(Part):
    role: Literal["model"]
    parts: list[AnsweredPart]


class TokenChance(Part):
    token: str
    logProbability: float


class TopChances(Part):
    candidates: list[TokenChance]


class LogprobsResult(Part):
    chosenCandidates: list[TokenChance]
    topCandidates: list[TopChances]


class AnsweredCandidate(Part):
    index: int
    content: AnsweredContent
    finishReason: Literal["STOP", "MAX_TOKENS"] = Field(
        default="STOP", description="MAX_TOKENS only where the visible answer was cut; left out before the end"
    )
    avgLogprobs: float = Field(default=0, description="Of an answer in one piece, where log-probabilities are")
    logprobsResult: LogprobsResult = Field(default=LogprobsResult(chosenCandidates=[], topCandidates=[]))


class GenerateContentResponse(Part):
    """An answer, or a piece of a stream: there `usageMetadata` and `thinking` are in the last."""

    candidates: list[AnsweredCandidate]
    modelVersion: str
    responseId: str
    usageMetadata: UsageMetadata = Field(default=None, description="Tokens of all candidates")  # pyright: ignore[reportAssignmentType]
    thinking: ThinkingReport = Field(default=None, description="What was decided about the thinking")  # pyright: ignore[reportAssignmentType]


class CountTokensResponse(Part):
    totalTokens: int
    promptTokensDetails: list[TokenDetail] = Field(default=[], description="Of a prompt of text alone")
