"""Gemini's requests as pydantic models, with our fields beside theirs, and the bounds of each single field."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from ponder.server.dialects.gemini.names import alias
from ponder.server.dialects.images import MEDIA_TYPES
from ponder.server.dialects.own_fields import OwnFields
from ponder.server.dialects.wire import WITHOUT_EFFECT, Effort, Name, Several, Wire


def _whole(value: Any) -> Any:
    """A whole number, which the JSON of protocol buffers may write 40.0 or "40"."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and len(value) <= 20:
        return int(value)
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


Whole = Annotated[int, BeforeValidator(_whole)]


class GeminiWire(Wire):
    """Names in lower camel case."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


def _object(required: tuple[str, ...], **properties: dict[str, Any]) -> dict[str, Any]:
    """What may be left out may be null."""
    given = {name: one if name in required else {"anyOf": [one, {"type": "null"}]} for name, one in properties.items()}
    return {"type": "object", "properties": given, "required": list(required)}


def _part(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A part of that kind, and what may stand beside it."""
    return _object((kind,), **{kind: schema}, thought={"type": "boolean"}, thoughtSignature={"type": "string"})


_TEXT: dict[str, Any] = {"type": "string"}
_VALUE: dict[str, Any] = {"type": "object"}
_BLOB = _object(("mimeType", "data"), mimeType={"enum": list(MEDIA_TYPES)}, data=_TEXT)
_SHOWN: dict[str, Any] = {"type": "array", "items": _part("inlineData", _BLOB)}
_NAMED = {"name": {"type": "string", "minLength": 1}, "id": _TEXT}
Part = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "anyOf": [
                _part("text", _TEXT),
                _part("inlineData", _BLOB),
                _part("functionCall", _object(("name",), **_NAMED, args=_VALUE)),
                _part("functionResponse", _object(("name",), **_NAMED, response=_VALUE, parts=_SHOWN)),
            ]
        }
    ),
]
"""Read part by part (`contents.py`), and described here."""
TextPart = Annotated[dict[str, Any], WithJsonSchema(_part("text", _TEXT))]


class Content(GeminiWire):
    role: Literal["user", "model", "function", "tool"] | None = None
    parts: Several[Part] | None = Field(
        default=None,
        description="text, inlineData, functionCall, functionResponse, each with thought and thoughtSignature",
    )


class SystemInstruction(GeminiWire):
    parts: Several[TextPart]
    role: str | None = None


class FunctionDeclaration(GeminiWire):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="Google's Schema, types in upper case")
    parameters_json_schema: dict[str, Any] | None = Field(default=None, description="The same as a JSON schema")
    behavior: Literal["UNSPECIFIED", "BLOCKING"] | None = None


class Tool(GeminiWire):
    function_declarations: Several[FunctionDeclaration] | None = None


class FunctionCallingConfig(GeminiWire):
    mode: Annotated[Literal["MODE_UNSPECIFIED", "AUTO", "ANY", "VALIDATED", "NONE"], BeforeValidator(_upper)] | None = (
        None
    )
    allowed_function_names: Several[Name] | None = None


class ToolConfig(GeminiWire):
    function_calling_config: FunctionCallingConfig | None = None


class ThinkingConfig(GeminiWire):
    thinking_budget: Annotated[Whole, Field(ge=-1, le=2**31)] | None = Field(
        default=None, description="Hidden tokens at most; 0 is off, -1 leaves it to the server"
    )
    thinking_level: Annotated[Effort, BeforeValidator(_lower)] | None = Field(
        default=None, description="A word for a budget; the server's configuration says how many tokens it is"
    )
    include_thoughts: bool | None = Field(default=None, description="A summary of the thought, as a part with thought")


class GenerationConfig(GeminiWire):
    max_output_tokens: Annotated[Whole, Field(ge=1, le=2**31)] | None = Field(
        default=None, description="Hidden and visible tokens of a candidate at most"
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=0, le=2**31 - 1)] | None = None
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**63)] | None = None
    stop_sequences: Several[str] | None = None
    candidate_count: Annotated[Whole, Field(ge=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    response_mime_type: Literal["text/plain", "application/json"] | None = None
    response_schema: dict[str, Any] | None = Field(default=None, description="Google's Schema, types in upper case")
    response_json_schema: dict[str, Any] | None = Field(default=None, description="The same as a JSON schema")
    response_logprobs: bool | None = None
    logprobs: Annotated[Whole, Field(ge=0)] | None = None
    response_modalities: Several[Annotated[Literal["TEXT", "MODALITY_UNSPECIFIED"], BeforeValidator(_upper)]] | None = (
        None
    )
    thinking_config: ThinkingConfig | None = None


class SafetySetting(GeminiWire):
    category: str | None = None
    threshold: str | None = None


class GenerateRequest(OwnFields, GeminiWire):
    """The body of `generateContent` and `streamGenerateContent`."""

    model_config = ConfigDict(title="GenerateContentRequest", alias_generator=alias, populate_by_name=True)
    tolerated: ClassVar[tuple[str, ...]] = ("safety_settings", "store", "service_tier")
    """Fields without effect."""

    contents: Several[Content] = Field(min_length=1)
    system_instruction: SystemInstruction | None = None
    tools: Several[Tool] | None = None
    tool_config: ToolConfig | None = None
    generation_config: GenerationConfig | None = None
    safety_settings: Several[SafetySetting] | None = Field(default=None, json_schema_extra=WITHOUT_EFFECT)
    labels: dict[str, str] | None = Field(default=None, description="Kept as metadata")
    model: str | None = Field(default=None, description="As in the path, which counts")
    store: bool | None = Field(default=None, json_schema_extra=WITHOUT_EFFECT)
    service_tier: str | None = Field(default=None, json_schema_extra=WITHOUT_EFFECT)


class CountRequest(GenerateRequest):
    """The body of `countTokens`: contents, or a whole request of `generateContent`."""

    model_config = ConfigDict(title="CountTokensRequest")

    contents: Several[Content] = Field(default=[])
    generate_content_request: GenerateRequest | None = None
