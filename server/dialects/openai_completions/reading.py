"""OpenAI's completions request as it comes in: bytes to a checked `CompletionRequest`, and that to one of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from ponder.compute.errors import RequestError
from ponder.compute.text import Raw
from ponder.server.dialects.customs import understood
from ponder.server.dialects.openai_completions.schema import DEFAULT_TOKENS, REFUSED, CompletionRequest
from ponder.server.dialects.openai_sampling import biases, sampling, stops
from ponder.server.dialects.own_fields import NAMES as OWN_NAMES
from ponder.server.dialects.own_fields import wishes
from ponder.server.dialects.slips import Stray, misplaced, misspelt, strays, told
from ponder.server.dialects.thinking_spellings import wished
from ponder.server.request import Request
from ponder.server.settings import Limits
from ponder.server.strict_json import loads_object
from ponder.server.validation import checked

NAMES: Mapping[str, str] = {
    "raw": "prompt",
    "raw.text": "prompt",
    "raw.suffix": "suffix",
    "total_tokens": "max_tokens",
    **OWN_NAMES,
}
"""What this dialect calls the fields of our request, where that is something else."""
WHOLE = ("max_tokens", "max_answer_tokens", "n", "best_of", "seed", "top_k", "logprobs")
"""Fields that are whole numbers, and may be written with a point."""


def completion_request(raw: bytes, limits: Limits) -> tuple[CompletionRequest, Sequence[Stray]]:
    """A checked request, and the keys of it that nobody knows. Raises `RequestError`."""
    body = understood(loads_object(raw, limits.json_depth, limits.json_values), WHOLE, ())
    misspelt(body, CompletionRequest, REFUSED)
    request = checked(CompletionRequest, body)
    found = list(strays(request))
    misplaced(request, (), found)
    _together(request)
    return request, told(found)


def _together(request: CompletionRequest) -> None:
    """Raises `RequestError` for fields that do not go together, and for what is not offered."""
    if request.best_of and request.best_of != (request.n or 1):
        raise RequestError(
            "best_of is not supported: of n answers all are given. The strategy best_of_n of /v1/chat/completions "
            "gives the best of many",
            param="best_of",
            code="unsupported_parameter",
        )
    if request.echo and not isinstance(_first(request), str):
        raise RequestError(
            "echo is not supported with token ids: send the prompt as text", param="echo", code="unsupported_parameter"
        )


def _first(request: CompletionRequest) -> str | int | list[int]:
    prompt = request.prompt
    return prompt if isinstance(prompt, str) else prompt[0]


def prompts(request: CompletionRequest) -> Sequence[str | tuple[int, ...]]:
    """The prompts, whichever way they were written."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt[0], int):
        return (tuple(cast("list[int]", prompt)),)
    return [one if isinstance(one, str) else tuple(one) for one in cast("list[str] | list[list[int]]", prompt)]


def ours(request: CompletionRequest) -> Request:
    """The request in our words. Raises `RequestError`."""
    most = request.max_tokens
    wanted = wishes(request)
    if most is None and wanted["answer_tokens"] is None:
        wanted["answer_tokens"] = DEFAULT_TOKENS
    return Request(
        model=request.model,
        raw=tuple(Raw(text, request.suffix or "") for text in prompts(request)),
        thinking=wished(request),
        total_tokens=None if most == -1 else most,
        n=request.n or 1,
        stream=bool(request.stream),
        sampling=sampling(request),
        stop=stops(request),
        logit_bias=biases(request),
        logprobs=request.logprobs,
        user=request.user,
        **wanted,
    )
