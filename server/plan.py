"""Where a request's wishes, the defaults of its model and the caps on both meet: out comes a `ResolvedRequest`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ponder.compute.budget import Budget
from ponder.compute.chains import CLOSING
from ponder.compute.cost import payable
from ponder.compute.engine import CallSchema, Grammar, ModelCard, Sampling
from ponder.compute.errors import NotPermitted, RequestError
from ponder.compute.plan import Plan
from ponder.compute.policy import Policy
from ponder.compute.price import Price
from ponder.compute.quota import Quota
from ponder.compute.resources import Resources
from ponder.compute.run import Selection, wants_likelihood
from ponder.compute.slots import READING, Share
from ponder.compute.text import Prompt
from ponder.server.auth.keys import Key
from ponder.server.beside import beside
from ponder.server.calls import Offered
from ponder.server.coarse import Coarse
from ponder.server.cost import MaxCost
from ponder.server.cost import most as most_cost
from ponder.server.images import with_images
from ponder.server.loop_thoughts import LoopThoughts
from ponder.server.registry import Registry, ServedModel, chains, configured
from ponder.server.request import AUTO, Asked, Request
from ponder.server.sealed_thoughts import SealedThoughts, Sealing, given_back, handed_back
from ponder.server.settings import ModelSettings, Settings
from ponder.server.thinking import allowance, ceiling, known_effort, wished
from ponder.server.unseal import permitted

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work:
    """How much there is to do for a request, before it is known; and for whom."""

    owner: str
    weight: float
    """The owner's."""
    chains: int
    """That it may ask for at the same time."""
    tokens: float
    """That all of it is likely to take, those read included at what they cost."""
    share: Share | None
    """Of the model's slots."""


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """What is to be done for a request, and what its answer says about the decisions. Counts are in tokens."""

    plans: tuple[Plan, ...]
    """One for each answer."""
    resources: Resources
    model: str
    """The name it was asked by."""
    base: str
    """The model's own name."""
    owner: str
    prompt_tokens: int
    budget: int
    """Hidden tokens of all answers together."""
    source: str
    """The field the budget came from, or `default`."""
    clamped_from: int | None
    timeout: float
    stream: bool
    shows_thought: bool
    progress: bool
    """Its stream tells how far the work is."""
    reads_thoughts: bool
    """The model goes on with its thought when the results of its calls come."""
    asked: int | None
    """Hidden tokens the request asked for, where it said a number."""
    price: Price | None
    """What its tokens cost; None where the model has no price."""
    user: str | None
    metadata: Mapping[str, str]
    ignored: tuple[str, ...]
    """Fields of the request that have no effect beside the others."""
    tools: Offered
    work: Work
    coarse: Coarse | None = None
    """How coarse the numbers are that the caller sees; None: exact."""
    key_id: str = ""
    """Which API key it came with, whatever that is called."""
    max_cost: int | None = None
    """Nano-USD that all of it may cost at most; None: only the limits in tokens bound it."""
    quota: Quota | None = None
    """The limits of its API key; None: there are none."""
    prompts: int = 1
    """Each with as many answers."""
    earlier: int = 0
    """Tokens of the prompt that are thoughts given back to the model; worked out where numbers are coarse."""
    thoughts: int = 0
    """How many those are."""
    sealing: Sealing | None = None
    """How its answers' thoughts are sealed; None where they are not."""

    @property
    def strategy(self) -> str:
        return self.plans[0].strategy.name

    @property
    def told_prompt(self) -> int:
        """Tokens of the prompt as the caller is told of them."""
        if self.coarse is None:
            return self.prompt_tokens
        return self.coarse.prompt(self.prompt_tokens, self.earlier, self.thoughts)


async def make(
    request: Request,
    models: Mapping[str, ServedModel],
    registry: Registry,
    settings: Settings,
    key: Key,
    header_timeout: float | None = None,
    thoughts: LoopThoughts | None = None,
    seals: SealedThoughts | None = None,
    *,
    large: bool = False,
) -> ResolvedRequest:
    """All decisions about a request; of a `large` one parameters are checked beside the event loop. `thoughts`: those
    of earlier turns; `seals` opens those that the caller hands back. Raises `RequestError` and its family."""

    async def chosen(choose: Callable[[], T]) -> T:
        return await beside(key.name, choose) if large else choose()

    base, served, by_name = registry.pick(models, request.model)
    if not key.may_ask(base):
        raise NotPermitted("this API key may not ask this model", param="model", code="model_not_permitted")
    card, own = served.engine.card, served.settings
    if any(message.images for message in request.messages):
        request = await with_images(request, card, settings.limits, key.id)
    price = settings.price_of(base)
    cost = most_cost(request, base, own, key, price)
    offered, grammar = _tools(request, card.tools)
    wish = wished(request.thinking, settings)
    messages, spent = request.messages, 0
    if seals is not None:
        messages, spent = await chosen(lambda: handed_back(seals, key.id, base, card, request.messages))
    if request.thinking.loop and spent:
        wish = _left(wish, own, spent)
    strategy = await chosen(lambda: _strategy(request, registry, own, settings, key, by_name, wish))
    policy, one = registry.policy(base, settings.limits.samples), _one_chain(strategy)
    prompt = Prompt(
        request.messages,
        request.tools,
        effort=_effort(request, settings),
        budget=_of_one_chain(wish, request, own, key, cost) if one else None,
        raw=request.raw[0] if request.raw else None,
    )
    if thoughts is not None and card.shows_thoughts:
        messages = thoughts.given_back(key.id, base, messages, everywhere=card.keeps_thoughts, context=card.context)
    if messages is not request.messages:
        prompt = replace(prompt, messages=messages)
    prompt, length, most, budget = await _measured(request, wish, served, prompt, key, cost, one=one)
    prompts, longest = (prompt,), length
    for raw in request.raw[1:]:
        other = replace(prompt, raw=raw)
        found = await ceiling(request, wish, served, other, key, cost, one=one)
        prompts, longest = (*prompts, other), max(longest, found[0])
        length, most = length + found[0], min(most, found[1])
        budget = None if budget is None or found[2] is None else max(budget, found[2])
    earlier = 0
    if key.coarse is not None and prompt.messages is not request.messages:
        plain = replace(prompt, messages=request.messages)
        earlier = max(0, length - (await ceiling(request, wish, served, plain, key, cost, one=one))[0])
    thinking, clamped = most if budget is None else budget, None
    if thinking > most:
        if wish is not None and request.thinking.exact:
            raise RequestError(
                f"thinking is above the ceiling of {most} tokens for this request",
                param="thinking",
                code="thinking_budget_too_large",
            )
        thinking, clamped = most, thinking
    # What a caller sees of it must tell no more of earlier thoughts than the number of tokens of the prompt does.
    told = length if key.coarse is None else key.coarse.prompt(length, earlier, given_back(prompt.messages))
    short = False
    if cost is not None:
        cost.check(told)
        if short := (paid := cost.thinking(told)) < thinking:
            thinking, clamped = paid, thinking if clamped is None and budget is not None else clamped
    if key.coarse is not None and (lowered := key.coarse.lowered(thinking, request.answers)) < thinking:
        if wish is not None and request.thinking.exact:
            raise RequestError(
                f"thinking should be a multiple of {key.coarse.tokens * request.answers} tokens for this API key",
                param="thinking",
                code="invalid_value",
            )
        clamped = thinking if clamped is None and budget is not None else clamped
        thinking = lowered
    answer, total = allowance(request, own, card.context - longest - CLOSING, thinking)
    limits = Budget(thinking, answer, total)
    verifier, fallback = await chosen(lambda: _verifier(request, registry, served, settings, strategy))
    if cost is not None:
        limits = cost.bound(
            limits,
            told,
            chains=1 if one else chains(strategy.call, policy) or 2,
            read=_judged(strategy) and getattr(verifier and verifier.call, "reads", False),
            short=short,
            coarse=key.coarse,
        )
    limit = settings.stream_timeout if request.stream else settings.timeout
    timeout = min(t for t in (request.timeout, header_timeout, limit) if t is not None)
    sampling = _sampling(request, card, key, grammar)
    await served.engine.accept(sampling)
    if wants_likelihood(verifier, strategy):
        sampling = replace(sampling, likelihood=True)
    if request.stream and (request.seals_thought or permitted(key, request.show_thought)):
        sampling = replace(sampling, tells_thought=True)
    plans = tuple(
        Plan(
            prompts[i // request.n],
            strategy,
            share,
            _seeded(sampling, i % request.n),
            verifier,
            fallback,
            timeout,
            settings.retain_text,
            stream=request.stream,
            summary=request.summary if settings.summaries else None,
            called=offered.read if offered.any else None,
            yields=settings.reduce_under_load and sampling.seed is None,
        )
        for i, share in enumerate(limits.split(request.answers))
    )
    writing, judging = _shares(served, key)
    return ResolvedRequest(
        plans=plans,
        resources=Resources(
            served.engine,
            served.lengths,
            served.reward_model,
            writing,
            judging,
            served.evidence,
            policy=policy,
            price=price,
        ),
        model=request.model,
        base=base,
        owner=key.name,
        key_id=key.id,
        prompt_tokens=length,
        earlier=earlier,
        thoughts=given_back(prompt.messages),
        budget=thinking,
        source=request.thinking.source,
        clamped_from=clamped,
        timeout=timeout,
        stream=request.stream,
        shows_thought=permitted(key, request.show_thought),
        progress=request.progress and request.stream and key.coarse is None,
        reads_thoughts=card.shows_thoughts,
        asked=wish if wish is not None and wish >= 0 else None,
        price=price,
        max_cost=None if cost is None else cost.nano_usd,
        user=request.user,
        metadata=request.metadata,
        ignored=_ignored(request, strategy, key, settings),
        tools=offered,
        coarse=key.coarse,
        quota=key.quota,
        sealing=Sealing(seals, key.id, base, key.coarse, spent) if seals and request.seals_thought else None,
        prompts=len(prompts),
        work=_work(request, served, strategy, policy, key, length, thinking, limits.answer, writing),
    )


def _left(wish: int | None, own: ModelSettings, spent: int) -> int | None:
    """What is left of a budget for a whole tool loop, of which so much is spent; the wish where that is no number."""
    total = own.thinking_budget if wish is None else wish
    return max(0, total - spent) if isinstance(total, int) and total > 0 else wish


def _shares(served: ServedModel, key: Key) -> tuple[Share | None, Share | None]:
    """A request's shares of the model and of its reward model."""
    writing, judging = served.slots.get("generator"), served.slots.get("verifier")
    return (
        None if writing is None else writing.share(key.name, key.weight),
        None if judging is None else judging.share(key.name, key.weight),
    )


def _work(
    request: Request,
    served: ServedModel,
    strategy: Selection[Any],
    policy: Policy,
    key: Key,
    prompt: int,
    thinking: int,
    answer: int,
    share: Share | None,
) -> Work:
    """What a request is likely to take: for each chain what calls of its key take, as far as the budget goes."""
    n, asked = request.answers, max(1, chains(strategy.call, policy))
    each = thinking // n + answer
    fed = served.lengths.chains(asked, each) if asked > 1 else 1
    typical = served.engine.card.typical_chain[0] if share is None else share.line.mean
    return Work(key.name, key.weight, n * fed, n * min(READING * prompt + each, asked * typical), share)


def _ignored(request: Request, strategy: Selection[Any], key: Key, settings: Settings) -> tuple[str, ...]:
    """Fields without effect: a verifier for a strategy that asks none, thoughts for a key that may not see them, a
    summary where the operator wants none, progress for a key with coarse numbers, to which the times of its changes
    would tell more. Some clients ask for those whoever they speak to, and want the answer all the same."""
    without = {
        "verifier": request.verifier is not None and not _judged(strategy),
        "show_thought": request.show_thought and not permitted(key, True),
        "summary": request.summary is not None and not settings.summaries,
        "progress": request.progress and key.coarse is not None,
    }
    return tuple(name for name, ignored in without.items() if ignored)


def _effort(request: Request, settings: Settings) -> str | None:
    """The word for how much to think that the model is told, if a word said so."""
    effort = request.thinking.effort
    return None if effort is None or request.thinking.tokens is not None else known_effort(effort, settings)


async def _measured(
    request: Request,
    wish: int | None,
    served: ServedModel,
    prompt: Prompt,
    key: Key,
    cost: MaxCost | None,
    *,
    one: bool,
) -> tuple[Prompt, int, int, int | None]:
    """(the prompt, and what `ceiling` says of it). Thoughts that were given back are left out again where they do not
    fit, leave less room or money than an answer of this model takes, or less to think than the caller insists on: what
    the caller does not know of must cost neither the answer nor the request."""
    if prompt.messages is not request.messages:
        try:
            length, most, budget = await ceiling(request, wish, served, prompt, key, cost, one=one)
        except RequestError as error:
            if error.code != "context_length_exceeded":
                raise
        else:
            own = served.settings.answer_tokens
            usual = min(request.answer_tokens or own, own)
            room = served.engine.card.context - length - CLOSING
            if cost is not None:
                told = length + (0 if key.coarse is None else key.coarse.tokens)
                room = min(room, payable(cost.each(told), cost.price.answer))
            insists = wish is not None and request.thinking.exact and (budget or 0) > most
            if room >= usual and not insists:
                return prompt, length, most, budget
        prompt = replace(prompt, messages=request.messages)
    return prompt, *await ceiling(request, wish, served, prompt, key, cost, one=one)


def _strategy(
    request: Request,
    registry: Registry,
    own: ModelSettings,
    settings: Settings,
    key: Key,
    by_name: str | None,
    wish: int | None,
) -> Selection[Any]:
    """What the request names, else what suits it: who sends a verifier wants many chains and the best of them. Where
    the key may not ask for what would suit, it is one that it may, `direct` before others."""
    asked = request.strategy
    if request.raw:
        field, name = ("strategy", asked.name) if asked is not None else ("model", by_name)
        if name not in (None, "direct"):
            raise RequestError(
                f"{field} is not supported with a raw text: it is gone on with by the strategy direct alone",
                param=field,
                code="unsupported_parameter",
            )
        asked = Asked("direct")
    if by_name is not None:
        if asked is not None and asked.name != by_name:
            raise RequestError(
                "model and strategy contradict each other", param="strategy", code="conflicting_parameters"
            )
        asked = asked or Asked(by_name)
    if asked is None and request.pro:
        asked = configured(own.pro_strategy)
    chooses = own.thinking_budget == "auto" and own.strategy is None if wish is None else wish == AUTO
    if asked is None and chooses and "auto" in registry.strategies:
        asked = Asked("auto")
    if asked is None:
        asked = configured(own.strategy or "direct")
    silent = request.strategy is None and by_name is None and not (request.raw or request.pro)
    most = settings.limits.samples
    if not key.may_use(asked.name):
        if not silent:
            raise NotPermitted(
                f"this API key may not ask for this strategy; it may ask for {', '.join(sorted(key.strategies or ()))}",
                param="strategy",
                code="strategy_not_permitted",
            )
        asked = Asked(next((name for name in ("direct", *registry.strategies) if key.may_use(name)), asked.name))
    chosen = registry.choose(registry.strategies, asked, "strategy", most)
    if silent and request.verifier is not None and not _judged(chosen) and key.may_use("best_of_n"):
        return registry.choose(registry.strategies, Asked("best_of_n"), "strategy", most)
    return chosen


def _of_one_chain(wish: int | None, request: Request, own: ModelSettings, key: Key, cost: MaxCost | None) -> int | None:
    """Tokens that the one chain of each answer may think, as far as they are known before the prompt is rendered."""
    if wish is None or wish <= 0:
        return None
    paid = None if cost is None else cost.thinking(0)
    caps = (wish, own.max_thinking_budget, key.highest_budget, request.total_tokens, paid)
    return max(1, min(cap for cap in caps if cap is not None) // request.answers)


def _one_chain(strategy: Selection[Any]) -> bool:
    """It writes one chain, whatever the budget."""
    return getattr(strategy.call, "one_chain", False)


def _judged(strategy: Selection[Any]) -> bool:
    """It asks the verifier."""
    return getattr(strategy.call, "judged", False)


def _verifier(
    request: Request, registry: Registry, served: ServedModel, settings: Settings, strategy: Selection[Any]
) -> tuple[Selection[Any] | None, Selection[Any] | None]:
    """The verifier, and who judges where it fails. Where the request names none: the strategy's own, the model's, the
    process reward model if there is one, else the model's own confidence, and that only for a strategy that is judged
    (it costs)."""
    table = registry.verifiers
    fallback = table["agreement"].made({}, "verifier", 1) if "agreement" in table else None
    wish, default = request.verifier, served.settings.verifier
    own: str | None = getattr(strategy.call, "default_verifier", None)
    if wish is None and own is not None:
        wish = Asked(own)
    if wish is None and default is not None:
        wish = configured(default)
    if wish is None:
        if served.reward_model is not None:
            wish = Asked("prm")
        elif _judged(strategy):
            wish = Asked("confidence")
        else:
            return fallback, fallback
    if wish.name == "prm" and served.reward_model is None:
        raise RequestError(
            "this model has no process reward model, which the verifier prm wants",
            param="verifier",
            code="unsupported_parameter",
        )
    return registry.choose(table, wish, "verifier", settings.limits.samples), fallback


def _sampling(request: Request, card: ModelCard, key: Key, grammar: Grammar | None) -> Sampling:
    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    wish = request.sampling
    return Sampling(
        thinking=0,
        answer=0,
        temperature=given(wish.temperature, card.temperature),
        top_p=max(1e-6, given(wish.top_p, card.top_p)),
        top_k=card.top_k if wish.top_k is None else max(0, wish.top_k),
        min_p=given(wish.min_p, card.min_p),
        presence_penalty=given(wish.presence_penalty, 0.0),
        frequency_penalty=given(wish.frequency_penalty, 0.0),
        seed=None if wish.seed is None else wish.seed % 2**63,
        stop=request.stop,
        logit_bias=request.logit_bias,
        logprobs=request.logprobs,
        grammar=grammar,
        tenant=key.id,
    )


def _seeded(sampling: Sampling, choice: int) -> Sampling:
    """The sampling of one of the answers: the caller's seed for the first, one that follows from it for each other."""
    if sampling.seed is None or choice == 0:
        return sampling
    derived = hashlib.blake2b(f"{sampling.seed}:{choice}".encode(), digest_size=8).digest()
    return replace(sampling, seed=int.from_bytes(derived) >> 1)


def _tools(request: Request, form: str) -> tuple[Offered, Grammar | None]:
    """(how the tools may be used, the grammar that constrains the answer). `form`: how the model writes calls."""
    choice, tools = request.tool_choice, request.tools
    grammar: Grammar | None = None
    if request.document is not None:
        schema = request.document.schema
        grammar = Grammar(schema, "document" if schema is None else "document.schema")
    if not tools:
        if choice.mode not in (None, "none"):
            raise RequestError("tool_choice wants tools", param="tool_choice", code="invalid_value")
        return Offered(), grammar
    if choice.mode == "none":
        return Offered(), grammar
    if not form:
        raise RequestError(
            "tools cannot be used: how this model writes calls is not known here. Its operator can name the form in "
            "the model's profile (tools = ..., see docs/models.md)",
            param="tools",
            code="unsupported_parameter",
        )
    usable = list(enumerate(tools))
    if choice.name is not None:
        usable = [(i, tool) for i, tool in usable if tool.name == choice.name]
        if not usable:
            raise RequestError("tool_choice names a tool that is not among tools", param="tool_choice.name")
    required = choice.mode == "required"
    calls = tuple(CallSchema(tool.name, tool.parameters, f"tools.{i}.parameters", tool.strict) for i, tool in usable)
    if required or grammar is not None:
        grammar = Grammar(
            grammar.schema if grammar else None,
            grammar.param if grammar else "tools",
            calls,
            choice.parallel and choice.name is None,
            document=not required,
        )
    elif any(tool.strict for _, tool in usable):
        grammar = Grammar(None, "tools", calls, choice.parallel, document=False, text=True)
    parameters = {tool.name: tool.parameters for _, tool in usable}
    held = grammar is not None and not grammar.text
    offered = Offered(frozenset(parameters), required, choice.parallel, held, form, parameters)
    return offered, grammar
