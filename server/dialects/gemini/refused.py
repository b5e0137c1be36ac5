"""What Google's API has and this server does not, by the names of its fields: each is refused, or has no effect at a
value that changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ponder.compute.errors import RequestError
from ponder.server.dialects.slips import Refused

TEXT = "answers are text"
INPUT = "models are given texts and images"
REFUSED = Refused(
    {
        "cachedContent": "what several prompts have in common is read once without it",
        "continuationToken": "an answer that was cut is not gone on with; raise generationConfig.maxOutputTokens",
        "modelArmorConfig": "nothing looks at prompts and answers on their way",
        "messages": "use contents",
        "input": "use contents",
        "instances": "use contents",
    },
    {},
)
CONFIG = Refused(
    {
        "responseFormat": "use responseMimeType with responseJsonSchema",
        "speechConfig": TEXT,
        "imageConfig": TEXT,
        "enableAffectiveDialog": TEXT,
        "audioTimestamp": INPUT,
        "audioTranscriptionConfig": INPUT,
        "routingConfig": "the path names the model",
        "modelConfig": "the path names the model",
        "modelSelectionConfig": "the path names the model",
        "translationConfig": "it is not offered",
        "enableEnhancedCivicAnswers": "it is not offered",
        "generationOutputConfig": "answers are kept nowhere",
    },
    {
        "enableAffectiveDialog": (False,),
        "audioTimestamp": (False,),
        "enableEnhancedCivicAnswers": (False,),
    },
)
"""Fields of `generationConfig`."""
FUNCTIONS = "of tools only functionDeclarations are"
TOOLS = Refused(
    dict.fromkeys(
        (
            *("codeExecution", "computerUse", "enterpriseWebSearch", "exaAiSearch", "fileSearch", "googleMaps"),
            *("googleSearch", "googleSearchRetrieval", "mcpServers", "parallelAiSearch", "retrieval", "urlContext"),
        ),
        FUNCTIONS,
    ),
    {},
)
"""Kinds of tools. Those that nobody has heard of are refused, too."""
TOOL_CONFIG = Refused({"retrievalConfig": "this server retrieves nothing"}, {})
CALLING = Refused(
    {"streamFunctionCallArguments": "the arguments of a call come whole"}, {"streamFunctionCallArguments": (False,)}
)
PLACES: Mapping[str, Refused] = {
    "": REFUSED,
    "generationConfig.": CONFIG,
    "tools[].": TOOLS,
    "toolConfig.": TOOL_CONFIG,
    "toolConfig.functionCallingConfig.": CALLING,
}
"""Where each of them stands."""


def described(place: str = "") -> dict[str, str]:
    """What to say of each, by its path. `place`: where the whole request stands."""
    return {f"{place}{at}{name}": words for at, refused in PLACES.items() for name, words in refused.described.items()}


def refuse(extra: Mapping[str, Any] | None, place: str, refused: Refused, others: str | None = None) -> None:
    """Raises `RequestError` for a field that is refused, of those that no model of ours has. `place`: where they stand,
    with a point behind it; `others`: what to say of those that nobody has heard of, where these are refused as well."""
    for key, value in (extra or {}).items():
        if value in (None, [], {}) or any(value == off for off in refused.off.get(key, ())):
            continue
        if (instead := refused.instead.get(key, others)) is not None:
            param = f"{place}{key}" if key.isidentifier() and len(key) <= 64 else place.rstrip(".")
            raise RequestError(f"{param} is not supported: {instead}", param=param, code="unsupported_parameter")
