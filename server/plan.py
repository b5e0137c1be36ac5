"""Where a request's wishes, the defaults of its model and the caps on both meet, once: out comes an `ResolvedRequest`.

The thinking budget has many spellings (every vendor has its own). They are read here in one order of precedence, must
agree, and become one number under one ceiling; nothing behind this file knows there was more than one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ponder.compute.budget import Budget
from ponder.compute.chains import CLOSING
from ponder.compute.engine import (
    CallSchema,
    Engine,
    Grammar,
    ModelCard,
    RewardModel,
    Sampling,
    read_beside,
    tokens,
)
from ponder.compute.errors import NotFound, NotPermitted, RequestError
from ponder.compute.lengths import Lengths
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection
from ponder.compute.text import Message, Prompt, Tool, ToolCall
from ponder.server.calls import Offered
from ponder.server.keys import Key
from ponder.server.settings import Chosen, ModelSettings, Settings, WrongSettings, nearest
from ponder.server.unseal import permitted
from ponder.server.wire import ChatRequest, Choice, ThinkingConfig, ToolChoice, WireMessage, stops, wrong
from ponder.strategies import strategies
from ponder.verifiers import verifiers

AUTO = -1


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that is ready to be asked."""

    engine: Engine
    lengths: Lengths
    settings: ModelSettings
    reward_model: RewardModel | None = None


# -- what can be chosen ------------------------------------------------------------------------------------------------


class Entry:
    """A strategy or verifier that can be asked for: its name, words, JSON schema, and itself with parameters."""

    def __init__(self, name: str, kind: type[Any]) -> None:
        self.name = name
        self.kind = kind
        self.description = (kind.__doc__ or name).strip().partition("\n")[0]
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)
        self.schema: dict[str, Any] = self._adapter.json_schema()
        self._plain: Selection[Any] | None = None

    def made(self, parameters: Mapping[str, Any], param: str, most: int) -> Selection[Any]:
        """With these parameters, and `most` chains at most. Raises `RequestError` that names the parameter that is
        wrong, `param` before it."""
        if not parameters and self._plain is not None:
            return self._plain
        try:
            call = self._call(parameters)
        except ValidationError as error:
            raise wrong(error, parameters, param) from None
        if chains(call) > most:
            call = self._fewer(call, parameters, param, most)
        named = Selection(self.name, call)
        if not parameters:
            self._plain = named
        return named

    def _call(self, parameters: Mapping[str, Any]) -> Any:
        return self._adapter.validate_json(json.dumps(parameters), strict=True)

    def _fewer(self, call: Any, parameters: Mapping[str, Any], param: str, most: int) -> Any:
        """The same with no more than `most` chains: what the request leaves to us is lowered. Raises `RequestError`
        where that is not enough."""
        wide = {name: most for name in WIDTHS if _number(call, name) > most}
        drafts, rounds = _number(call, "chains"), _number(call, "rounds")
        if drafts * (rounds + 1) > most:
            wide |= {"rounds": most // drafts - 1} if "rounds" not in parameters else {"chains": most // (rounds + 1)}
        try:
            fewer = self._call({**wide, **parameters})
            if chains(fewer) <= most:
                return fewer
        except ValidationError:
            pass
        asked = [f"{param}.{name}" for name in (*WIDTHS, "chains", "rounds") if name in parameters]
        raise RequestError(
            f"{param} {self.name} asks for {chains(call)} chains with these parameters, above this server's limit of "
            f"{most}",
            param=asked[0] if asked else param,
            code="above_max_value",
        )


WIDTHS = ("n", "beams", "particles")
"""Parameters that are a number of chains."""


def chains(call: Any) -> int:
    """Chains a strategy may ask for, from its parameters. Of a tree that is searched, those in the race at a time."""
    return max(_number(call, "chains") * (_number(call, "rounds") + 1), *(_number(call, name) for name in WIDTHS))


def _number(call: Any, name: str) -> int:
    value = getattr(call, name, 0)
    return value if isinstance(value, int) else 0


class Registry:
    """The strategies and verifiers of this server."""

    def __init__(self) -> None:
        self.strategies = {name: Entry(name, kind) for name, kind in strategies().items()}
        self.verifiers = {name: Entry(name, kind) for name, kind in verifiers().items()}

    def pick(self, models: Mapping[str, ServedModel], asked: str) -> tuple[str, ServedModel, str | None]:
        """The model and, where it is `MODEL:STRATEGY`, the strategy that an id asks for. Raises `NotFound`."""
        if asked in models:
            return asked, models[asked], None
        name, colon, strategy = asked.rpartition(":")
        if colon and name in models and strategy in self.strategies:
            return name, models[name], strategy
        raise NotFound(
            "this server has no such model; GET /v1/models lists those it has", param="model", code="model_not_found"
        )

    def choose(
        self, table: Mapping[str, Entry], wish: str | Choice | Chosen, param: Literal["strategy", "verifier"], most: int
    ) -> Selection[Any]:
        """What a request names, with its parameters. Raises `RequestError`."""
        name = wish if isinstance(wish, str) else wish.name
        if name not in table:
            known = ", ".join(table) or "none"
            raise RequestError(f"there is no such {param}; there are: {known}", param=param, code=f"{param}_not_found")
        parameters = {} if isinstance(wish, str) else (wish.model_extra or {})
        return table[name].made(parameters, param, most)

    def check(self, models: Mapping[str, ModelSettings], most: int) -> None:
        """Strategies and verifiers that are configured exist, take their parameters, ask for no more than `most` chains
        and have what they need. Raises `WrongSettings`."""
        for model, settings in models.items():
            chosen: list[tuple[Literal["strategy", "verifier"], str | Chosen | None, Mapping[str, Entry]]] = [
                ("strategy", settings.strategy, self.strategies),
                ("verifier", settings.verifier, self.verifiers),
            ]
            for param, wish, table in chosen:
                if wish is None:
                    continue
                name = wish if isinstance(wish, str) else wish.name
                where = f"{param} {name} (of model {model})"
                if name not in table:
                    hint = nearest(name, table) or f"; there are {', '.join(table)}"
                    raise WrongSettings(f"{where}: there is no such {param}{hint}")
                try:
                    self.choose(table, wish, param, most)
                except RequestError as error:
                    raise WrongSettings(f"{where}: {error.message}") from None
                if name == "prm" and settings.prm is None:
                    raise WrongSettings(
                        f"{where}: it judges by a process reward model, and none is configured; set prm to its folder, "
                        "its hub id or the address of its server"
                    )


# -- the order ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """What is to be done for a request, and what its answer has to tell about the decisions."""

    plans: tuple[Plan, ...]
    """One for each choice."""
    resources: Resources
    model: str
    """The name it was asked by."""
    base: str
    """The model's own name."""
    owner: str
    prompt_tokens: int
    budget: int
    """Hidden tokens of all choices together."""
    source: str
    """The field the budget came from, or `default`."""
    clamped_from: int | None
    timeout: float
    stream: bool
    include_usage: bool
    logprobs: bool
    reasoning: bool
    """The thought is shown."""
    ignored: tuple[str, ...]
    """Fields that have no effect beside the others."""
    tools: Offered

    @property
    def strategy(self) -> str:
        return self.plans[0].strategy.name


async def make(
    request: ChatRequest,
    models: Mapping[str, ServedModel],
    registry: Registry,
    settings: Settings,
    key: Key,
    header_timeout: float | None = None,
) -> ResolvedRequest:
    """The order for a request. Raises `RequestError` and its family."""
    base, served, by_name = registry.pick(models, request.model)
    if not key.may_ask(base):
        raise NotPermitted("this API key may not ask this model", param="model", code="model_not_permitted")
    card, own = served.engine.card, served.settings
    tools, offered, grammar = _tools(request)
    prompt = Prompt(tuple(message(m, f"messages.{i}") for i, m in enumerate(request.messages)), tools)
    wish = wished(request, settings)
    strategy = _strategy(request, registry, own, settings, by_name, wish)
    length, ceiling, budget = await _budget(request, wish, served, prompt, key, one=_one_chain(strategy))
    thinking, clamped = ceiling if budget is None else budget, None
    if thinking > ceiling:
        if wish.tokens is not None and request.on_overflow == "error":
            raise RequestError(
                f"{wish.source} is above the ceiling of {ceiling} tokens for this request",
                param=wish.source,
                code="thinking_budget_too_large",
            )
        thinking, clamped = ceiling, thinking
    answer, total = _answer(request, own, card.context - length - CLOSING, thinking)
    verifier, fallback = _verifier(request, registry, served, settings, strategy)
    n = request.n or 1
    limit = settings.stream_timeout if request.stream else settings.timeout
    timeout = min(t for t in (request.timeout, header_timeout, limit) if t is not None)
    sampling = _sampling(request, card, key, grammar)
    await served.engine.accept(sampling)
    if getattr(verifier and verifier.call, "needs_likelihood", False):
        sampling = replace(sampling, likelihood=True)
    plans = tuple(
        Plan(
            prompt,
            strategy,
            share,
            _seeded(sampling, i),
            verifier,
            fallback,
            timeout,
            settings.retain_text,
            stream=bool(request.stream),
        )
        for i, share in enumerate(Budget(thinking, answer, total).split(n))
    )
    return ResolvedRequest(
        plans=plans,
        resources=Resources(served.engine, served.lengths, served.reward_model),
        model=request.model,
        base=base,
        owner=key.name,
        prompt_tokens=length,
        budget=thinking,
        source=wish.source,
        clamped_from=clamped,
        timeout=timeout,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        logprobs=bool(request.logprobs),
        reasoning=permitted(key, bool(request.include_reasoning)),
        ignored=("verifier",) if request.verifier is not None and not _judged(strategy) else (),
        tools=offered,
    )


# -- the budget --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request says about thinking: how many tokens (None: nothing), in which field."""

    tokens: int | None
    source: str
    on: bool = False
    """It wants thinking, and says not how much."""


def wished(request: ChatRequest, settings: Settings) -> Wish:
    """All spellings of a thinking budget as one wish. Raises `RequestError` where two disagree."""
    thinking_budget = AUTO if request.thinking_budget == "auto" else request.thinking_budget
    reasoning, thinking = request.reasoning, request.thinking
    configs = [(name, config) for name, config in _thinking_configs(request) if config is not None]
    given: list[tuple[str, int]] = [
        (name, tokens)
        for name, tokens in (
            ("thinking_budget", thinking_budget),
            ("thinking_token_budget", request.thinking_token_budget),
            ("thinking_budget_tokens", request.thinking_budget_tokens),
            ("reasoning.max_tokens", reasoning and reasoning.max_tokens),
            ("thinking.budget_tokens", thinking and thinking.budget_tokens),
            *((f"{name}.thinking_budget", config.thinking_budget) for name, config in configs),
        )
        if tokens is not None
    ]
    template = request.chat_template_kwargs
    kind = thinking and thinking.type
    switches: list[tuple[str, bool]] = [
        (name, on)
        for name, on in (
            ("enable_thinking", request.enable_thinking),
            ("chat_template_kwargs.enable_thinking", template and template.enable_thinking),
            ("chat_template_kwargs.thinking", template and template.thinking),
            ("reasoning.enabled", reasoning and reasoning.enabled),
            ("thinking.type", None if kind is None else kind != "disabled"),
        )
        if on is not None
    ]
    efforts: list[tuple[str, str]] = [
        (name, effort)
        for name, effort in (
            ("reasoning.effort", reasoning and reasoning.effort),
            ("reasoning_effort", request.reasoning_effort),
            *((f"{name}.thinking_level", config.thinking_level) for name, config in configs),
        )
        if effort is not None
    ]
    for group in (given, switches, efforts):
        for name, value in group[1:]:
            if value != group[0][1]:
                raise _conflict(group[0][0], name)
    off = next((name for name, on in switches if not on), None)
    if given:
        name, tokens = given[0]
        if off and tokens != 0:
            raise _conflict(name, off)
        return Wish(tokens, name)
    if off:
        return Wish(0, off)
    if efforts:
        name, effort = efforts[0]
        return Wish(settings.effort[effort], name)
    return Wish(None, "default", on=bool(switches))


def _thinking_configs(request: ChatRequest) -> Iterator[tuple[str, ThinkingConfig | None]]:
    """Gemini's field, where its documents put it and where OpenAI's client puts what is in its `extra_body`."""
    for name, google in (
        ("extra_body.google", request.extra_body and request.extra_body.google),
        ("google", request.google),
    ):
        yield f"{name}.thinking_config", google and google.thinking_config
    yield "thinking_config", request.thinking_config


def _conflict(one: str, other: str) -> RequestError:
    return RequestError(f"{one} and {other} contradict each other", param=other, code="conflicting_parameters")


async def _budget(
    request: ChatRequest, wish: Wish, served: ServedModel, prompt: Prompt, key: Key, *, one: bool
) -> tuple[int, int, int | None]:
    """(tokens of the prompt, ceiling of hidden tokens, what is asked for before the ceiling; None is all of it).

    The context bounds a chain. So it bounds the total where `one` chain spends all of it, and not that of many.
    """
    own, card = served.settings, served.engine.card
    default = own.thinking_budget
    asked = wish.tokens
    if asked is None:
        asked = AUTO if default in (None, "auto") or (wish.on and default == 0) else int(default)
    length = await _length(served.engine, prompt, asked != 0)
    caps = [own.max_thinking_budget, key.max_thinking_budget]
    room = card.context - length - CLOSING
    most = request.max_completion_tokens or request.max_tokens
    if most is not None:
        caps.append(most - _kept(request, own, min(room, most)))
    if one:
        caps.append(room - _kept(request, own, room if most is None else min(room, most)))
    ceiling = max(0, min(c for c in caps if c is not None))
    if ceiling == 0 and asked != 0:
        length = max(length, await _length(served.engine, prompt, False))
    return length, ceiling, None if asked == AUTO else asked


async def _length(engine: Engine, prompt: Prompt, thinking: bool) -> int:
    """Tokens of a prompt. Raises `RequestError` where they leave the context no room for an answer."""
    await read_beside(engine, prompt, thinking=thinking)
    length = tokens(engine, prompt, thinking=thinking)
    if length + CLOSING >= engine.card.context:
        raise RequestError(
            f"the prompt has at least {length} tokens; this model's context has {engine.card.context}, "
            "of which the answer needs some",
            param="messages",
            code="context_length_exceeded",
        )
    return length


def _kept(request: ChatRequest, own: ModelSettings, space: int) -> int:
    """Tokens kept back for the answer, of `space` for thoughts and answer: of `max_completion_tokens` a quarter at
    most, else a half, so that a generous limit of the answer's does not switch the thinking off."""
    part = 2 if request.max_completion_tokens is None and request.max_tokens is None else 4
    return min(request.max_answer_tokens or own.answer_tokens, max(1, space // part))


def _answer(request: ChatRequest, own: ModelSettings, room: int, thinking: int) -> tuple[int, int | None]:
    """(visible tokens at most, hidden and visible together at most or None)."""
    most, older = request.max_completion_tokens, request.max_tokens
    if most is not None and older is not None and most != older:
        raise _conflict("max_completion_tokens", "max_tokens")
    most = most or older
    answer = request.max_answer_tokens or most or own.answer_tokens
    space = room if most is None else min(room, most)
    kept = _kept(request, own, space)
    return max(1, min(answer, space, max(kept, room - thinking))), most


# -- the rest ----------------------------------------------------------------------------------------------------------


def _strategy(
    request: ChatRequest, registry: Registry, own: ModelSettings, settings: Settings, by_name: str | None, wish: Wish
) -> Selection[Any]:
    """What the request names, else what suits it: who sends a verifier wants many chains and the best of them."""
    asked = request.strategy
    if by_name is not None:
        name = asked if isinstance(asked, str) or asked is None else asked.name
        if name not in (None, by_name):
            raise _conflict("model", "strategy")
        asked = by_name if asked is None else asked
    chooses = own.thinking_budget == "auto" and own.strategy is None if wish.tokens is None else wish.tokens == AUTO
    if asked is None and chooses and "auto" in registry.strategies:
        asked = "auto"
    if asked is None:
        asked = own.strategy or "direct"
    silent, most = request.strategy is None and by_name is None, settings.limits.samples
    chosen = registry.choose(registry.strategies, asked, "strategy", most)
    if silent and request.verifier is not None and not _judged(chosen):
        return registry.choose(registry.strategies, "best_of_n", "strategy", most)
    return chosen


def _one_chain(strategy: Selection[Any]) -> bool:
    """It writes one chain, whatever the budget."""
    return getattr(strategy.call, "one_chain", False)


def _judged(strategy: Selection[Any]) -> bool:
    """It asks the verifier."""
    return getattr(strategy.call, "judged", False)


def _verifier(
    request: ChatRequest, registry: Registry, served: ServedModel, settings: Settings, strategy: Selection[Any]
) -> tuple[Selection[Any] | None, Selection[Any] | None]:
    """The verifier, and who judges where it fails. Where nobody chose: the process reward model if there is one, else
    the model's own confidence, and that only for a strategy that is judged (it costs)."""
    table = registry.verifiers
    fallback = table["agreement"].made({}, "verifier", 1) if "agreement" in table else None
    wish = served.settings.verifier if request.verifier is None else request.verifier
    if wish is None:
        if served.reward_model is not None:
            wish = "prm"
        elif _judged(strategy):
            wish = "confidence"
        else:
            return fallback, fallback
    name = wish if isinstance(wish, str) else wish.name
    if name == "prm" and served.reward_model is None:
        raise RequestError(
            "this model has no process reward model, which the verifier prm wants",
            param="verifier",
            code="unsupported_parameter",
        )
    return registry.choose(table, wish, "verifier", settings.limits.samples), fallback


def _sampling(request: ChatRequest, card: ModelCard, key: Key, grammar: Grammar | None) -> Sampling:
    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    top_k = request.top_k
    return Sampling(
        thinking=0,
        answer=0,
        temperature=given(request.temperature, card.temperature),
        top_p=max(1e-6, given(request.top_p, card.top_p)),
        top_k=card.top_k if top_k is None else max(0, top_k),
        min_p=given(request.min_p, card.min_p),
        presence_penalty=given(request.presence_penalty, 0.0),
        frequency_penalty=given(request.frequency_penalty, 0.0),
        seed=None if request.seed is None else request.seed % 2**63,
        stop=stops(request),
        logit_bias=tuple((int(token), bias) for token, bias in (request.logit_bias or {}).items()),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        grammar=grammar,
        tenant=key.name,
    )


def _seeded(sampling: Sampling, choice: int) -> Sampling:
    """The sampling of a choice: the caller's seed for the first, one that follows from it for each other."""
    if sampling.seed is None or choice == 0:
        return sampling
    derived = hashlib.blake2b(f"{sampling.seed}:{choice}".encode(), digest_size=8).digest()
    return replace(sampling, seed=int.from_bytes(derived) >> 1)


def _tools(request: ChatRequest) -> tuple[tuple[Tool, ...], Offered, Grammar | None]:
    """(tools for the prompt, how they may be used, what holds the answer to its shape)."""
    form, choice = request.response_format, request.tool_choice
    grammar: Grammar | None = None
    if form and form.type == "json_object":
        grammar = Grammar()
    elif form and form.type == "json_schema" and form.json_schema:
        grammar = Grammar(json.dumps(form.json_schema.schema_), "response_format.json_schema.schema")
    # The order of properties is the caller's: it is the order in which the model is to write them.
    tools = tuple(
        Tool(
            tool.function.name,
            tool.function.description or "",
            json.dumps(tool.function.parameters or {"type": "object", "properties": {}}),
        )
        for tool in request.tools or ()
    )
    if not tools:
        if choice not in (None, "none"):
            raise RequestError("tool_choice wants tools", param="tool_choice", code="invalid_value")
        return (), Offered(), grammar
    if choice == "none":
        return tools, Offered(), grammar
    usable = list(enumerate(tools))
    named = isinstance(choice, ToolChoice)
    if isinstance(choice, ToolChoice):
        usable = [(i, tool) for i, tool in usable if tool.name == choice.function.name]
        if not usable:
            raise RequestError("tool_choice names a tool that is not among tools", param="tool_choice.function.name")
    required = choice == "required" or named
    several = request.parallel_tool_calls is not False and not named
    if required or grammar is not None:
        grammar = Grammar(
            grammar.schema if grammar else None,
            grammar.param if grammar else "tools",
            tuple(CallSchema(tool.name, tool.parameters, f"tools.{i}.function.parameters") for i, tool in usable),
            several,
            document=not required,
        )
    offered = Offered(
        frozenset(tool.name for _, tool in usable),
        required,
        request.parallel_tool_calls is not False,
        grammar is not None,
    )
    return tools, offered, grammar


def message(given: WireMessage, param: str) -> Message:
    """A turn of the conversation. Raises `RequestError` for parts this server has no model for."""
    calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in given.tool_calls or ())
    if calls and given.role != "assistant":
        raise RequestError("only an assistant message has tool_calls", param=f"{param}.tool_calls")
    if given.role == "tool" and given.tool_call_id is None:
        raise RequestError(
            "a tool message wants tool_call_id", param=f"{param}.tool_call_id", code="missing_required_parameter"
        )
    content = given.content
    if content is None:
        if given.role != "assistant":
            raise RequestError(
                f"{param}.content is required", param=f"{param}.content", code="missing_required_parameter"
            )
        content = given.refusal or ""
    if not isinstance(content, str):
        content = "".join(_part(part, f"{param}.content.{i}") for i, part in enumerate(content))
    return Message(given.role, content, given.name, calls, given.tool_call_id)


def _part(part: Mapping[str, Any], param: str) -> str:
    kind = part.get("type")
    if kind not in ("text", "refusal"):
        known = kind in ("image_url", "input_audio", "file")
        raise RequestError(
            "this model reads text parts only",
            param=f"{param}.type",
            code="unsupported_content_part" if known else "invalid_value",
        )
    text = part.get(str(kind))
    if not isinstance(text, str):
        raise RequestError(f"{param}.{kind} should be a string", param=f"{param}.{kind}", code="invalid_type")
    return text
