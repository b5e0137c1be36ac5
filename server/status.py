"""What this server has and how it is: models, strategies, health, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ponder.compute.engine import Checked, Engine, RewardModel, State, supervision_of
from ponder.compute.errors import NotFound, NotPermitted, PonderError, Unavailable
from ponder.compute.groups import TaskGroup
from ponder.compute.price import NANO, Price
from ponder.compute.replicas import HasReplicas, ReplicaState
from ponder.metering.ledger import Ledger
from ponder.metering.metrics import Metrics, Role
from ponder.metering.series import release
from ponder.server import errors
from ponder.server.admission import Admission
from ponder.server.answers import Failure
from ponder.server.auth.access import Caller
from ponder.server.auth.keys import Key
from ponder.server.registry import Entry, Registry, ServedModel, aliases_of

CHECK_SECONDS = 5.0
"""An engine that has not answered by then is away."""
FRESH_SECONDS = 1.0
"""Seconds for which the result of a check answers all probes: they need no key."""
RETRY_SECONDS = 5


ENGINE = (
    "starting, up; restarting: it went away and is being started again; failed: that did not succeed several times in "
    "a row, and is tried again later"
)


class Fine(BaseModel):
    """The answer of a probe."""

    status: Literal["ok"] = "ok"


class TokenPrices(BaseModel):
    """What tokens of a model cost, in USD for a million of them."""

    input: float = Field(description="Of the prompt")
    cached_input: float = Field(description="Those of them that are in the prefix cache")
    thinking: float = Field(description="Hidden ones, those of chains that lost included")
    answer: float = Field(description="Visible ones")
    verifier: float = Field(description="What a reward model reads")


class Model(BaseModel):
    """A model that may be asked, or one with a strategy: `MODEL:STRATEGY`."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time in seconds")
    owned_by: str
    max_model_len: int = Field(description="Tokens of prompt and output together, as vLLM calls them")
    context_length: int = Field(description="The same, as others call them")
    input_modalities: list[Literal["text", "image"]] = Field(description="What its messages may hold")
    max_thinking_budget: int = Field(description="Hidden tokens of one request at most, for this key")
    answer_tokens: int = Field(description="Visible tokens of an answer at most, where a request sets no limit")
    prices: TokenPrices | None = Field(description="What its tokens cost; null where it has no price")


class Models(BaseModel):
    """What a key may ask."""

    object: Literal["list"] = "list"
    data: list[Model]


class Listed(BaseModel):
    """A strategy or verifier that a request may name."""

    name: str
    object: Literal["strategy", "verifier"]
    description: str
    parameters: dict[str, Any] = Field(description="JSON schema of what may stand beside the name")


class Strategies(BaseModel):
    """What may stand in `strategy` and in `verifier`."""

    object: Literal["list"] = "list"
    data: list[Listed]
    verifiers: list[Listed]


class RewardModelHealth(BaseModel):
    """A reward model beside a model."""

    name: str
    answers: bool
    engine: State = Field(default="up", description=ENGINE)
    restarts: int = Field(default=0, description="How often its engine was started again")


class ReplicaHealth(BaseModel):
    """A replica of a model. What it has not said lately is left out."""

    url: str
    state: ReplicaState = Field(
        description="joining: not proved yet; up: it is used; trial: it was away, and is given one call to show that "
        "it writes; away: it is not used, and asked again later; draining: it was taken out, and ends what it has begun"
    )
    why: str = Field(description="What is in the way of its use")
    in_flight: int = Field(description="Calls of this server that it works on")
    places: int = Field(description="Calls that it works on at a time, as far as is known")
    weight: float = Field(description="Its share of what is new, of 1")
    running: int | None = Field(description="Calls of anybody's that it works on, by its own word")
    waiting: int | None = Field(description="Calls of anybody's that wait for it, by its own word")
    cache: float | None = Field(description="The share of its KV cache that is in use, of 1")
    calls: int
    spilled: int = Field(description="Calls that another should have had, which was full or away")
    lost: int = Field(description="Calls that were gone on with elsewhere")
    falls: int = Field(description="How often it went away")


class CallsHealth(BaseModel):
    """How much of what a model can do at a time is taken."""

    places: int = Field(description="Calls that it works on at a time")
    held: int = Field(description="Calls that it works on")
    waiting: int = Field(description="Calls that wait for it in this server")
    tokens_per_second: float = Field(
        description="That it makes with all places taken, as calls were lately; 0 before one has ended"
    )


class RecentError(BaseModel):
    """Errors that callers were told in the last hour, of one code."""

    code: str
    status: int = Field(description="Of HTTP; of an error in a stream, that it would have had")
    count: int
    last_at: int = Field(description="When the last was told, in Unix seconds")


class ModelHealth(BaseModel):
    """How a model is. `reward_model` is left out where there is none, and so are replicas."""

    answers: bool
    engine: State = Field(default="up", description=ENGINE)
    restarts: int = Field(default=0, description="How often its engine was started again")
    context: int = Field(description="Tokens of prompt and output together")
    chain_p50: float = Field(description="Tokens of a chain in the middle, as learned so far")
    calls: CallsHealth | None = None
    reward_model: RewardModelHealth | None = None
    replicas: list[ReplicaHealth] | None = None


class Health(BaseModel):
    """How the server is. A body with status 503 has `error` beside these."""

    status: Literal["ok", "degraded", "draining", "unavailable"] = Field(description="degraded: a reward model is away")
    version: str
    uptime_seconds: float
    inflight: int
    queued: int
    draining: bool
    errors: list[RecentError] = Field(description="Of the last hour, the most frequent first")
    models: dict[str, ModelHealth]


class ModelLister(Protocol):
    """Shows the models as a dialect's clients know them."""

    def one(self, id: str, served: ServedModel) -> BaseModel: ...

    def several(self, found: Sequence[tuple[str, ServedModel]], query: Mapping[str, str]) -> BaseModel:
        """Those of the models that a query asks for. Raises `RequestError`."""
        ...


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Which of the models answer, and which of their reward models, where they have one."""

    models: Mapping[str, bool]
    reward_models: Mapping[str, bool]


class Status:
    """The endpoints that report and change nothing."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        registry: Registry,
        admission: Admission,
        metrics: Metrics,
        engine_metrics: Callable[[], bytes] | None,
        error_body: Callable[[Failure], Mapping[str, Any]],
        lister: Callable[[Mapping[str, str]], ModelLister | None],
        ledger: Ledger | None = None,
        lists_strategies: Callable[[], bool] = lambda: True,
        price: Callable[[str], Price | None] = lambda model: None,
    ) -> None:
        """`lister` tells from a request's headers who shows the models to its caller; None: OpenAI's way.
        `lists_strategies`: each model is listed with each strategy, too. `price` is that of a model by its own name."""
        self._lists_strategies, self._price = lists_strategies, price
        self._models, self._registry, self._admission = models, registry, admission
        self._metrics, self._engine_metrics, self._error_body = metrics, engine_metrics, error_body
        self._lister, self._ledger = lister, ledger
        self.joined: Callable[[bytes], Awaitable[bytes]] | None = None
        """Puts beside this server's series those of the others, where one of several answers for all."""
        self._since = time.monotonic()
        self._lock = asyncio.Lock()
        self._found = HealthReport({}, {})
        self._checked = float("-inf")
        self._states: Sequence[State | None] = ()
        """How the engines stood then, as far as anybody watches them."""
        self._counted: dict[int, tuple[int, Checked]] = {}
        """What the metrics were told of each supervisor; models in one engine have one."""

    # -- models -------------------------------------------------------------------------------------------------------

    def _names(self, key: Key) -> Iterator[tuple[str, str, ServedModel]]:
        """(name or other name, own name, model) of the models that a key may ask."""
        for own, served in self._models.items():
            if key.may_ask(own):
                for name in (own, *aliases_of(own, served)):
                    yield name, own, served

    def _ids(self, key: Key) -> Iterator[tuple[str, ServedModel]]:
        """The models alone, and then each with each strategy: a list to choose from begins with the usual."""
        for name, _, served in self._names(key):
            yield name, served
        for name, _, served in self._names(key):
            for strategy in filter(key.may_use, self._registry.strategies):
                yield f"{name}:{strategy}", served

    def ids(self, key: Key) -> Iterator[tuple[str, ServedModel]]:
        """What a key is told that it may ask: the models under all their names, and under their own with each strategy
        where the configuration lets that be listed."""
        others = {name for name, own, _ in self._names(key) if name != own}
        for id, served in self._ids(key):
            if ":" not in id or (self._lists_strategies() and id.rpartition(":")[0] not in others):
                yield id, served

    async def models(self, request: Request, key: Caller) -> Any:
        """Lists the models. With the header anthropic-version, as Anthropic does."""
        found = list(self.ids(key))
        if (lister := self._lister(request.headers)) is not None:
            return lister.several(found, request.query_params)
        return Models(object="list", data=[self._model(name, served, key) for name, served in found])

    async def model(self, request: Request, id: str, key: Caller) -> Any:
        """Finds one of the models listed. Ids may hold slashes."""
        for name, served in self._ids(key):
            if name == id:
                lister = self._lister(request.headers)
                return self._model(name, served, key) if lister is None else lister.one(name, served)
        raise NotFound(
            "this server has no such model; GET /v1/models lists those it has", param="model", code="model_not_found"
        )

    def _model(self, name: str, served: ServedModel, key: Key) -> Model:
        own = next(own for own, one in self._models.items() if one is served)
        card, price = served.engine.card, self._price(own)
        caps = (served.settings.max_thinking_budget, key.highest_budget)
        return Model(
            id=name,
            object="model",
            created=card.created,
            owned_by=card.owner,
            max_model_len=card.context,
            context_length=card.context,
            input_modalities=["text", "image"] if "image" in card.modalities else ["text"],
            max_thinking_budget=min(cap for cap in caps if cap is not None),
            answer_tokens=served.settings.answer_tokens,
            prices=None if price is None else _prices(price),
        )

    async def delete_model(self, request: Request, id: str, key: Caller) -> Model:
        """Refuses: what is served is decided where the server is configured, and no request changes that."""
        await self.model(request, id, key)
        raise NotPermitted(
            "a model that is served is not deleted over HTTP: take it out of the server's configuration and start it "
            "again",
            param="model",
            code="model_is_served",
        )

    async def strategies(self, key: Caller) -> Strategies:
        """Lists what may stand in `strategy` and `verifier`, with the schemas of their parameters."""
        known = self._registry.strategies.values()
        return Strategies(
            data=[_listed(entry, "strategy") for entry in known if key.may_use(entry.name)],
            verifiers=[_listed(entry, "verifier") for entry in self._registry.verifiers.values()],
        )

    # -- health -------------------------------------------------------------------------------------------------------

    async def live(self) -> Fine:
        """Says that the process answers. It does not where the engine of a model went away and cannot be started again
        from here: what runs this server should start it anew."""
        for served in self._models.values():
            if (supervision := supervision_of(served.engine)) is not None and supervision.state == "failed":
                await supervision.ready()
        return Fine()

    async def ready(self) -> Fine:
        """Says that every model answers, the ledger can be written to and the server is not going down. A reward model
        that is away makes answers worse, not impossible, so it does not count here."""
        if (fault := await self._fault()) is not None:
            raise fault
        return Fine()

    async def health(self, request: Request) -> Any:
        """Says the same with details, for those who run the server."""
        fault, found = await self._fault(), await self._check()
        details = Health(
            status="ok" if all(found.reward_models.values()) else "degraded",
            version=release(),
            uptime_seconds=round(time.monotonic() - self._since, 3),
            inflight=self._admission.inside,
            queued=self._admission.queued,
            draining=self._admission.draining,
            errors=[
                RecentError(code=one.code, status=one.status, count=one.count, last_at=one.last_ms // 1000)
                for one in self._metrics.errors.by_code()
            ],
            models={name: _details(name, served, found) for name, served in self._models.items()},
        )
        if fault is None:
            return details
        details.status = "draining" if self._admission.draining else "unavailable"
        error = self._error_body(errors.failure(fault, request.state.request_id))
        told = {**error, **details.model_dump(exclude_unset=True)}
        return JSONResponse(told, 503, {"retry-after": str(RETRY_SECONDS)})

    async def _fault(self) -> Unavailable | None:
        """Why no request should come here now."""
        if self._admission.draining:
            return Unavailable("the server is going down", code="draining", retry_after=RETRY_SECONDS)
        if self._ledger is not None and self._ledger.away:
            return Unavailable("the ledger cannot be written to", code="ledger_unavailable", retry_after=RETRY_SECONDS)
        # What is known without asking is not a second old.
        for served in self._models.values():
            supervision = supervision_of(served.engine)
            if supervision is not None and supervision.state != "up":
                wait = max(1.0, supervision.wait)
                elsewhere = isinstance(served.engine, HasReplicas)
                why = "no replica of a model can be used" if elsewhere else "a model is being started again"
                return Unavailable(why, code="engine_unavailable", retry_after=wait)
        if not all((await self._check()).models.values()):
            return Unavailable("a model does not answer", code="engine_unavailable", retry_after=RETRY_SECONDS)
        return None

    async def _check(self) -> HealthReport:
        """Which models answer; asked once for all who want to know at the same time."""
        async with self._lock:
            watched = [supervision_of(one) for one in self._engines()]
            states: list[State | None] = [None if one is None else one.state for one in watched]
            if time.monotonic() - self._checked > FRESH_SECONDS or states != self._states:
                self._states = states
                async with TaskGroup() as group:
                    models = {
                        name: group.create_task(self._answers(name, "generator", served.engine))
                        for name, served in self._models.items()
                    }
                    reward_models = {
                        name: group.create_task(self._answers(name, "verifier", served.reward_model))
                        for name, served in self._models.items()
                        if served.reward_model is not None
                    }
                self._found = HealthReport(
                    {name: task.result() for name, task in models.items()},
                    {name: task.result() for name, task in reward_models.items()},
                )
                self._checked = time.monotonic()
            return self._found

    def _engines(self) -> Iterator[Engine | RewardModel | None]:
        for served in self._models.values():
            yield from (served.engine, served.reward_model)

    async def _answers(self, name: str, role: Role, model: Engine | RewardModel) -> bool:
        up = True
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                took = await model.check()
            if took is not None:
                self._metrics.checked(name, role, took)
        except (PonderError, TimeoutError):
            up = False
        self._metrics.engine_up(name, role, up)
        self._count(name, role, model)
        return up

    def _count(self, name: str, role: Role, model: Engine | RewardModel) -> None:
        """Tells the metrics what a supervisor has done since they were told last."""
        supervision = supervision_of(model)
        if supervision is None:
            return
        restarts, checked = self._counted.get(id(supervision), (0, Checked(0)))
        self._metrics.restarted(name, role, supervision.restarts - restarts)
        self._metrics.checked(name, role, supervision.checked - checked)
        self._counted[id(supervision)] = supervision.restarts, supervision.checked

    # -- metrics ------------------------------------------------------------------------------------------------------

    async def metrics(self) -> Response:
        """Gives the server's series to Prometheus. Whether the models answer is found out on the way."""
        content, media = await self.own_metrics()
        if self.joined is not None:
            content = await self.joined(content)
        return Response(content, headers={"content-type": media})

    async def own_metrics(self) -> tuple[bytes, str]:
        """The series of this server alone, and their media type."""
        await self._check()
        return self._metrics.render()

    async def metrics_of_engine(self) -> Response:
        """Gives the engine's own series, apart, because their names break Prometheus' rules."""
        content = self._engine_metrics() if self._engine_metrics else b""
        return Response(content, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})


def _details(name: str, served: ServedModel, found: HealthReport) -> ModelHealth:
    told = ModelHealth(answers=found.models[name], context=served.engine.card.context, chain_p50=served.lengths.p50)
    _supervised(told, served.engine)
    if (slots := served.slots.get("generator")) is not None:
        told.calls = CallsHealth(
            places=slots.places, held=slots.held, waiting=slots.waiting, tokens_per_second=round(slots.rate, 3)
        )
    if isinstance(served.engine, HasReplicas):
        told.replicas = [ReplicaHealth(**asdict(one)) for one in served.engine.replicas]
    if served.reward_model is not None:
        told.reward_model = RewardModelHealth(name=served.reward_model.name, answers=found.reward_models[name])
        _supervised(told.reward_model, served.reward_model)
    return told


def _supervised(told: ModelHealth | RewardModelHealth, model: Engine | RewardModel) -> None:
    """Adds how its engine stands, where that is started again when it goes away."""
    if (supervision := supervision_of(model)) is not None:
        told.engine, told.restarts = supervision.state, supervision.restarts
        told.answers = told.answers and supervision.state == "up"


def _prices(price: Price) -> TokenPrices:
    each = (price.prompt, price.cached, price.thinking, price.answer, price.verifier)
    return TokenPrices(**dict(zip(TokenPrices.model_fields, (one / NANO for one in each), strict=True)))


def _listed(entry: Entry, kind: Literal["strategy", "verifier"]) -> Listed:
    return Listed(name=entry.name, object=kind, description=entry.description, parameters=entry.schema)
