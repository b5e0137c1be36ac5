"""The types of a client's results: answers, pieces of answers, models, strategies, errors.

Whatever a server adds to its JSON later is passed over.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class AskError(Exception):
    """The root of all errors of a client."""


class Unreachable(AskError):
    """No server at this address, or no answer in time."""


class Unsendable(AskError, ValueError):
    """What was asked cannot be written as JSON; nothing was sent."""


class CutOff(AskError):
    """The connection ended before the answer did, or what came was no answer."""


class Refused(AskError):
    """The server's own error. `status` is that of HTTP, `code` a stable word, `param` the field at fault. `retry_after`
    is in seconds; it is there where trying again may help."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after


class Part(BaseModel):
    """A piece of the server's JSON: frozen, and what a newer server adds is no error."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Thinking(Part):
    """What the server reports about the thinking (`docs/api.md`). Counts are tokens of the language model."""

    strategy: str = ""
    budget: int | None = None
    budget_source: str | None = None
    budget_clamped_from: int | None = None
    spent: int = 0
    samples: int = 1
    samples_requested: int = 1
    stopped_by: str = ""
    agreement: float | None = None
    confidence: float | None = None
    verifier: str | None = None
    score: float | None = None
    verifier_tokens: int = 0
    discarded_tokens: int = 0
    unseen_calls: int = 0
    """Chains of which the end of a call was not seen: the counts are the least that is certain."""
    program_seconds: float = 0.0
    cost_usd: float | None = None
    max_cost_usd: float | None = None
    receipt: str | None = None


class _CompletionDetails(Part):
    reasoning_tokens: int = 0


class _PromptDetails(Part):
    cached_tokens: int = 0


class Usage(Part):
    """Tokens as OpenAI counts them: `completion_tokens` includes the reasoning."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    completion_tokens_details: _CompletionDetails = _CompletionDetails()
    prompt_tokens_details: _PromptDetails = _PromptDetails()

    @property
    def reasoning_tokens(self) -> int:
        return self.completion_tokens_details.reasoning_tokens

    @property
    def cached_tokens(self) -> int:
        return self.prompt_tokens_details.cached_tokens

    @property
    def visible_tokens(self) -> int:
        return self.completion_tokens - self.reasoning_tokens


class Function(Part):
    name: str = ""
    arguments: str = ""


class ToolCall(Part):
    """A function the model wants called; `function.arguments` is JSON text."""

    id: str = ""
    function: Function = Function()


class Choice(Part):
    """One answer."""

    text: str = ""
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


class Reply(Part):
    """A whole answer, streamed or not."""

    id: str = ""
    model: str = ""
    choices: tuple[Choice, ...] = Field(min_length=1)
    usage: Usage = Usage()
    thinking: Thinking = Thinking()
    request_id: str | None = None

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text


class Response(Part):
    """A response, as far as it has come. `status` is that of OpenAI's: `completed`, `incomplete` (`cut_by` says why),
    `failed` (`error` says why), `cancelled`, or `queued` and `in_progress` for one in the background that is not over.
    `output` has all its items as the server wrote them, to be sent back in a later `input`."""

    id: str
    status: str
    model: str = ""
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    output: tuple[dict[str, Any], ...] = ()
    cut_by: str | None = None
    error: str | None = None
    usage: Usage = Usage()
    thinking: Thinking = Thinking()
    request_id: str | None = None

    @property
    def over(self) -> bool:
        """Nothing more will come of it."""
        return self.status not in ("queued", "in_progress")


class Piece(Part):
    """Visible text as it is written, of choice number `choice`. A piece of a response has the id of that and the number
    of its event, behind which a response that is kept can be gone on with."""

    text: str
    choice: int = 0
    response_id: str | None = None
    sequence_number: int | None = None


class Model(Part):
    """A model the server lists; `MODEL:STRATEGY` ids are in the list too."""

    id: str


class Strategy(Part):
    """A way to spend a budget, and the JSON schema of its parameters."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
