"""OpenAI's JSON as it comes in: bytes to a checked `ChatRequest`, or a `RequestError` that names the field.

Nothing a caller sends is quoted back: messages name the place and the rule. Bodies are parsed here and not by the
framework, because what a JSON parser of this language lets through by default (NaN, numbers without end, nesting
without end, lone surrogates, double keys) is what takes servers down.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ponder.compute.errors import RequestError
from ponder.server.settings import Limits

# -- bytes to values ---------------------------------------------------------------------------------------------------

DIGITS = 24
"""Digits of the longest number taken."""
_TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_SAFE = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


def loads(raw: bytes, depth: int) -> Any:
    """JSON to values: UTF-8, finite numbers of at most 24 digits, no key twice, brackets at most `depth` deep.

    Raises `RequestError`.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8 (byte {error.start})", code="invalid_utf8") from None
    if _deeper(text, depth):
        raise RequestError(f"the body nests deeper than {depth} brackets", code="too_deep")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RequestError(
            f"the body is not JSON (line {error.lineno}, column {error.colno})", code="invalid_json"
        ) from None
    if "\\u" in text and _half_characters(value):
        raise RequestError("the body holds half of a surrogate pair (\\ud800 to \\udfff)", code="invalid_unicode")
    return value


def _deeper(text: str, depth: int) -> bool:
    """The brackets go deeper than that."""
    return text.count("[") + text.count("{") > depth and _deepest(text) > depth


def _deepest(text: str) -> int:
    """How deep the brackets outside of strings go. One pass, however odd the text."""
    deep = most = 0
    for token in _TOKENS.finditer(text):
        mark = text[token.start()]
        if mark in "[{":
            deep += 1
            most = max(most, deep)
        elif mark in "]}":
            deep -= 1
    return most


def _half_characters(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _constant(_: str) -> NoReturn:
    raise RequestError("the body holds NaN or Infinity, which are not JSON", code="invalid_json")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise RequestError(f"the body holds a number of more than {DIGITS} digits", code="number_too_large")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise RequestError("the body holds a number that is too large", code="number_too_large")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise RequestError("the body names a key twice in one object", code="duplicate_key")
    return made


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_int=_whole, parse_float=_real, object_pairs_hook=_object)


def nesting(value: Any) -> int:
    """How deep lists and objects go in a parsed value."""
    deep, level = 0, [value]
    while any(isinstance(one, Mapping | list) for one in level):
        level = [inner for one in level for inner in _inside(one)]
        deep += 1
    return deep


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value).values()
    return cast("list[Any]", value) if isinstance(value, list) else ()


# -- values to a request -----------------------------------------------------------------------------------------------


class _Wire(BaseModel):
    """Strict types (no "5" for 5, no true for 1); keys nobody knows are let through, and told of by `ignored`."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, protected_namespaces=())


Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
Tokens = Annotated[int, Field(ge=0, le=2**31)]
SomeTokens = Annotated[int, Field(ge=1, le=2**31)]
WishedTokens = Annotated[int, Field(ge=-1, le=2**31)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class Function(_Wire):
    name: Name
    arguments: str


class Call(_Wire):
    id: str
    type: Literal["function"] = "function"
    function: Function


class WireMessage(_Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None


class StreamOptions(_Wire):
    include_usage: bool | None = None


class JsonSchema(_Wire):
    name: Name
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class FunctionTool(_Wire):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class WireTool(_Wire):
    type: Literal["function"]
    function: FunctionTool


class ChosenFunction(_Wire):
    name: Name


class ToolChoice(_Wire):
    type: Literal["function"]
    function: ChosenFunction


class Reasoning(_Wire):
    max_tokens: Tokens | None = None
    effort: Effort | None = None
    enabled: bool | None = None


class Thinking(_Wire):
    type: Literal["enabled", "disabled", "adaptive"] | None = None
    budget_tokens: Tokens | None = None


class ThinkingConfig(_Wire):
    thinking_budget: WishedTokens | None = None
    thinking_level: Effort | None = None


class Google(_Wire):
    thinking_config: ThinkingConfig | None = None


class ExtraBody(_Wire):
    google: Google | None = None


class TemplateArguments(_Wire):
    enable_thinking: bool | None = None
    thinking: bool | None = None


class Choice(_Wire):
    """A strategy or verifier by name, with parameters beside it that its own schema checks."""

    name: Name


class ChatRequest(_Wire):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(title="ChatCompletionRequest")

    model: str = Field(description="A model of /v1/models, or MODEL:STRATEGY")
    messages: list[WireMessage] = Field(min_length=1)
    thinking_budget: WishedTokens | Literal["auto"] | None = Field(
        default=None, description="Hidden tokens at most; 0 is off, -1 or auto leaves it to the server"
    )
    strategy: str | Choice | None = Field(default=None, description="How the budget is spent; see /v1/strategies")
    verifier: str | Choice | None = Field(default=None, description="Who judges candidates")
    max_answer_tokens: SomeTokens | None = Field(default=None, description="Visible tokens at most")
    on_overflow: Literal["clamp", "error"] | None = Field(
        default=None, description="What happens to a budget above the ceiling; clamp unless said"
    )
    include_reasoning: bool | None = Field(default=None, description="Show the thought; keys with scope reveal only")
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Seconds until the best so far is the answer"
    )

    thinking_token_budget: WishedTokens | None = None
    thinking_budget_tokens: Tokens | None = None
    reasoning: Reasoning | None = None
    thinking: Thinking | None = None
    extra_body: ExtraBody | None = None
    google: Google | None = None
    thinking_config: ThinkingConfig | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: TemplateArguments | None = None
    reasoning_effort: Effort | None = None

    max_completion_tokens: SomeTokens | None = None
    max_tokens: SomeTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    tools: list[WireTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    store: bool | None = None
    modalities: list[Literal["text"]] | None = None


OURS = (
    "thinking_budget",
    "thinking_token_budget",
    "thinking_budget_tokens",
    "max_answer_tokens",
    "include_reasoning",
    "enable_thinking",
    "reasoning_effort",
    "max_completion_tokens",
    "on_overflow",
    "strategy",
    "verifier",
    "reasoning",
    "thinking",
    "thinking_config",
)
"""Names that matter for the budget: what nearly is one of them is a slip, not somebody else's field."""
UNMISTAKABLE = OURS[:7]
"""Those that in another place (`metadata`, say) can only have been meant for the top level."""
OTHER_WORDS = frozenset(
    {"budget_tokens", "thinking_tokens", "max_thinking_tokens"}
    | {"reasoning_budget", "reasoning_tokens", "max_reasoning_tokens"}
)
"""Names nobody sends for anything but a budget."""
OWN_WORDS: dict[type[BaseModel], tuple[str, ...]] = {
    Reasoning: ("max_tokens", "effort", "enabled"),
    Thinking: ("budget_tokens", "type"),
    ThinkingConfig: ("thinking_budget", "thinking_level"),
}
"""Objects that say how much to think, and how: first the budget."""
NO_SLIP = frozenset({"reasoning_format", "reasoning_split", "reasoning_content", "verbosity"})
"""Fields of others that look like ours."""
NOT_SUPPORTED = {
    "functions": "use tools instead",
    "function_call": "use tool_choice instead",
    "audio": "answers are text",
}
FIELDS = frozenset(ChatRequest.model_fields)
UNKNOWN = 64
"""Unknown keys at most."""
LISTED, LONGEST_NAME = 32, 64
"""Names that are told in a header at most, and the length of one: proxies bound what all headers may have."""


def chat_request(raw: bytes, limits: Limits) -> ChatRequest:
    """A checked request. Raises `RequestError`."""
    value = loads(raw, limits.json_depth)
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object", code="invalid_type")
    body = cast("dict[str, Any]", value)
    _slips(body)
    request = checked(ChatRequest, body)
    _misplaced(request)
    _bounds(request, limits)
    return request


Checked = TypeVar("Checked", bound=BaseModel)


def checked(model: type[Checked], body: dict[str, Any]) -> Checked:
    """`body` as `model`. Raises `RequestError` for the first thing that is wrong."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise wrong(error, body) from None


def wrong(error: ValidationError, body: Any, prefix: str = "") -> RequestError:
    """The first complaint of a pydantic model, with the path as the caller knows it and nothing of the value."""
    # Of a union every member complains; the one that got deepest into the value is about what was meant.
    complaints = [
        (
            c["type"],
            c["msg"],
            path(c["loc"], body, missing=c["type"] in ("missing", "extra_forbidden", "unexpected_keyword_argument")),
            c["loc"][:1],
        )
        for c in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    same = [c for c in complaints if c[3] == complaints[0][3]]
    kind, message, found, _ = max(same, key=lambda c: len(c[2]))
    param = ".".join([*([prefix] if prefix else []), *found]) or None
    if kind == "missing":
        return RequestError(f"{param} is required", param=param, code="missing_required_parameter")
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return RequestError(f"{param}: there is no such parameter", param=param, code="unknown_parameter")
    alike = [c[1] for c in same if c[2] == found and c[0] != kind]
    words = list(dict.fromkeys(_plain(m) for m in (message, *alike)))
    if all(word.startswith("should be ") for word in words):
        words[1:] = [word.removeprefix("should be ") for word in words[1:]]
    verb = words[0].partition(" ")[0] in ("should", "must", "needs", "is", "has")
    mistyped = kind.endswith(("_type", "_from_float"))
    code = "invalid_type" if mistyped else "invalid_value"
    return RequestError(f"{param or 'the body'}{' ' if verb else ': '}{' or '.join(words)}", param=param, code=code)


def _plain(message: str) -> str:
    """A complaint of pydantic's without its subject, which is named instead, and without the names of our classes."""
    message = message.removeprefix("Value error, ").replace(" after validation", "")
    message = re.sub(r"^[A-Z][a-z]+ (?=should )", "", message)
    return re.sub(r"a valid dictionary( or instance of \w+)?", "an object", message)


def path(loc: Sequence[int | str], body: Any, *, missing: bool = False) -> list[str]:
    """The part of a pydantic location that is in the body; the names of union members are left out."""
    found: list[str] = []
    node = body
    for place, part in enumerate(loc):
        if isinstance(node, dict) and part in node:
            node = cast("dict[Any, Any]", node)[part]
        elif isinstance(node, list) and isinstance(part, int) and part < len(cast("list[Any]", node)):
            node = cast("list[Any]", node)[part]
        elif not (missing and place == len(loc) - 1):
            continue
        if not _SAFE.fullmatch(str(part)):
            break
        found.append(str(part))
    return found


# -- slips and bounds --------------------------------------------------------------------------------------------------


def nearest(word: str, words: Iterable[str], cutoff: float = 0.82) -> str | None:
    """The one of `words` that `word` was meant to be, if any. Other ways of writing (camel case, dashes) count."""
    if len(word) > 64:
        return None
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).replace("-", "_").lower()
    found = difflib.get_close_matches(plain, list(words), n=1, cutoff=cutoff)
    return found[0] if found else None


def _slips(body: dict[str, Any]) -> None:
    """Raises `RequestError` for a key that nearly is one of ours, or is one in the wrong place."""
    unknown = [key for key in body if key not in FIELDS]
    if len(unknown) > UNKNOWN:
        raise RequestError(f"the body has more than {UNKNOWN} fields that are not known", code="too_many_fields")
    for key in unknown:
        if key in NOT_SUPPORTED and body[key] is not None:
            raise RequestError(f"{key} is not supported: {NOT_SUPPORTED[key]}", param=key, code="unsupported_parameter")
        if key not in NO_SLIP and (meant := "thinking_budget" if key in OTHER_WORDS else nearest(key, OURS)):
            raise RequestError(
                f"there is no such field; did you mean {meant}?",
                param=key if _SAFE.fullmatch(key) else None,
                code="unknown_parameter",
            )


@dataclass(frozen=True, slots=True)
class _Stray:
    """A key that has no effect where it stands."""

    place: tuple[str, ...]
    """The objects and lists it is in; () is the top level."""
    key: str
    holder: type[BaseModel]

    @property
    def param(self) -> str:
        """Its path, as far as it can be repeated."""
        return ".".join((*self.place, self.key) if _SAFE.fullmatch(self.key) else self.place)

    @property
    def name(self) -> str:
        """Its path without the numbers of list items, or `?` where that cannot stand in a header."""
        parts = [part for part in self.place if not part.isdecimal()]
        name = ".".join([*parts, self.key])
        return name if _SAFE.fullmatch(self.key) and len(name) <= LONGEST_NAME else "?"


_HOLDERS = (list, BaseModel)
"""What may have keys inside."""


def _strays(value: Any, place: tuple[str, ...] = ()) -> Iterator[_Stray]:
    """Keys nobody knows, in all that is not a caller's own (metadata, schemas, parameters of a strategy)."""
    if isinstance(value, list):
        for i, inner in enumerate(cast("list[Any]", value)):
            if isinstance(inner, _HOLDERS):
                yield from _strays(inner, (*place, str(i)))
    if not isinstance(value, BaseModel) or isinstance(value, Choice):
        return
    for key, inner in (value.model_extra or {}).items():
        if inner is not None:
            yield _Stray(place, key, type(value))
    for field, inner in vars(value).items():
        if isinstance(inner, _HOLDERS):
            yield from _strays(inner, (*place, field))
    if isinstance(value, WireMessage) and isinstance(value.content, list):
        for i, part in enumerate(value.content):
            for key in (key for key in part if key not in ("type", part.get("type"))):
                yield _Stray((*place, "content", str(i)), key, WireMessage)


def _misplaced(request: ChatRequest) -> None:
    """Raises `RequestError` for a key inside an object of the body that can only have been meant for a budget."""
    lost = [_Stray(("metadata",), key, ChatRequest) for key in request.metadata or () if key not in OTHER_WORDS]
    inner = {(stray.holder, stray.key): stray for stray in _strays(request) if stray.place}
    for stray in [*lost[:UNKNOWN], *list(inner.values())[:UNKNOWN]]:
        if stray.key not in NO_SLIP and (words := _meant(stray)):
            raise RequestError(words, param=stray.param, code="unknown_parameter")


def _meant(stray: _Stray) -> str | None:
    """What to say of a key inside an object, if it was meant for a budget."""
    place, near = ".".join(stray.place), None
    if own := OWN_WORDS.get(stray.holder):
        near = own[0] if stray.key in OTHER_WORDS or stray.key in ("budget", "max_tokens") else nearest(stray.key, own)
    if near:
        return f"there is no such field; did you mean {place}.{near}?"
    top = "thinking_budget" if stray.key in OTHER_WORDS else nearest(stray.key, UNMISTAKABLE)
    return top and f"this has no effect inside {place}; {top} belongs at the top level of the body"


def _too_many(field: str, found: int, most: int) -> None:
    if found > most:
        raise RequestError(f"{field} has {found} entries, more than the {most} allowed", param=field, code="too_many")


def _bounds(request: ChatRequest, limits: Limits) -> None:
    """Raises `RequestError` for what is of the right type and too much."""
    _too_many("messages", len(request.messages), limits.messages)
    for i, message in enumerate(request.messages):
        for j, call in enumerate(message.tool_calls or ()):
            _arguments(call.function.arguments, f"messages.{i}.tool_calls.{j}.function.arguments", limits)
    if (request.n or 1) > limits.n:
        raise RequestError(f"n is above this server's limit of {limits.n}", param="n", code="above_max_value")
    stop = stops(request)
    _too_many("stop", len(stop), limits.stop)
    if any(not 0 < len(s) <= limits.stop_chars for s in stop):
        raise RequestError(
            f"each stop string must have 1 to {limits.stop_chars} characters", param="stop", code="invalid_value"
        )
    if (request.top_logprobs or 0) > limits.logprobs:
        raise RequestError(
            f"top_logprobs is above the limit of {limits.logprobs}", param="top_logprobs", code="above_max_value"
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise RequestError("top_logprobs wants logprobs: true", param="top_logprobs", code="invalid_value")
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options wants stream: true", param="stream_options", code="invalid_value")
    if request.metadata:
        _too_many("metadata", len(request.metadata), limits.metadata)
        if any(len(k) > 64 or len(v) > 512 for k, v in request.metadata.items()):
            raise RequestError(
                "metadata holds keys of at most 64 and values of at most 512 characters",
                param="metadata",
                code="invalid_value",
            )
    if request.logit_bias:
        _too_many("logit_bias", len(request.logit_bias), limits.logit_bias)
        if not all(re.fullmatch(r"[0-9]{1,9}", token) for token in request.logit_bias):
            raise RequestError("the keys of logit_bias are token ids", param="logit_bias", code="invalid_value")
    if request.tools:
        _too_many("tools", len(request.tools), limits.tools)
        for i, tool in enumerate(request.tools):
            if nesting(tool.function.parameters) > limits.schema_depth:
                _too_deep(f"tools.{i}.function.parameters", limits)
        if len({tool.function.name for tool in request.tools}) < len(request.tools):
            raise RequestError("two tools have the same name", param="tools", code="invalid_value")
    form = request.response_format
    if form and form.type == "json_schema":
        if form.json_schema is None or form.json_schema.schema_ is None:
            raise RequestError(
                "a response_format of type json_schema wants json_schema.schema",
                param="response_format.json_schema",
                code="missing_required_parameter",
            )
        if nesting(form.json_schema.schema_) > limits.schema_depth:
            _too_deep("response_format.json_schema.schema", limits)


def _arguments(text: str, param: str, limits: Limits) -> None:
    """Raises `RequestError` for arguments of a call that are JSON no template could put into a prompt. What is no JSON
    is text: models write such, and clients send it back."""
    if _deeper(text, limits.schema_depth):
        _too_deep(param, limits)
    if "\\u" not in text:
        return
    try:
        value = json.loads(text)
    except ValueError:
        return
    if _half_characters(value):
        raise RequestError(
            f"{param} holds half of a surrogate pair (\\ud800 to \\udfff)", param=param, code="invalid_unicode"
        )


def _too_deep(param: str, limits: Limits) -> NoReturn:
    raise RequestError(f"{param} nests deeper than {limits.schema_depth}", param=param, code="too_deep")


def stops(request: ChatRequest) -> tuple[str, ...]:
    """The stop strings, whichever way they were written."""
    if request.stop is None:
        return ()
    return (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)


def ignored(request: ChatRequest, more: Sequence[str] = ()) -> str:
    """The value of `x-ignored-parameters`: the paths of keys that had no effect, a bounded number of them. `more` are
    fields the plan has found to be without effect."""
    names = [stray.name for stray in _strays(request)]
    if request.store:
        names.insert(0, "store")
    return ", ".join(list(dict.fromkeys([*more, *names]))[:LISTED])
