"""The models, strategies and verifiers a request can choose from, and what it chose with its parameters checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ponder.compute.engine import Engine, HasSlots, RewardModel
from ponder.compute.errors import NotFound, RequestError
from ponder.compute.evidence import Evidence
from ponder.compute.lengths import Lengths
from ponder.compute.policy import BUILT_IN, Policy
from ponder.compute.run import Selection
from ponder.compute.slots import Slots
from ponder.metering.metrics import Role
from ponder.server.request import Asked
from ponder.server.settings import Chosen, KeySettings, ModelSettings, Settings, WrongSettings, nearest
from ponder.server.validation import wrong
from ponder.strategies import strategies
from ponder.verifiers import verifiers


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that is ready to be asked."""

    engine: Engine
    lengths: Lengths
    settings: ModelSettings
    reward_model: RewardModel | None = None
    evidence: Evidence = field(default_factory=Evidence)
    """What was learned about evidence beside votes."""
    slots: Mapping[Role, Slots] = field(init=False)
    """Those of the model and of its reward model, where they say how many calls they work on at a time."""

    def __post_init__(self) -> None:
        models: dict[Role, object] = {"generator": self.engine, "verifier": self.reward_model}
        found = {role: model.slots for role, model in models.items() if isinstance(model, HasSlots) and model.slots}
        object.__setattr__(self, "slots", found)


def takes_images(models: Mapping[str, ServedModel]) -> bool:
    """One of them reads images."""
    return any("image" in served.engine.card.modalities for served in models.values())


PARAMETERS = 64
"""Of a strategy or verifier at most: each that it does not have would be complained of."""


@cache
def _read(kind: type[Any]) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    """What reads the parameters of a strategy or verifier, and their JSON schema."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return adapter, adapter.json_schema()


class Entry:
    """A strategy or verifier that can be asked for: its name, words, JSON schema, and itself with parameters."""

    def __init__(self, name: str, kind: type[Any]) -> None:
        self.name = name
        self.kind = kind
        self.description = (kind.__doc__ or name).strip().partition("\n")[0]
        self._adapter, self.schema = _read(kind)
        self._plain: Selection[Any] | None = None

    def made(self, parameters: Mapping[str, Any], param: str, most: int) -> Selection[Any]:
        """With these parameters, and `most` chains at most. Raises `RequestError` that names the parameter that is
        wrong, `param` before it."""
        if not parameters and self._plain is not None:
            return self._plain
        if len(parameters) > PARAMETERS:
            raise RequestError(f"{param} has more than {PARAMETERS} parameters", param=param, code="too_many")
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

    def forget(self) -> None:
        """Makes it anew also without parameters."""
        self._plain = None

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


def chains(call: Any, policy: Policy | None = None) -> int:
    """Chains a strategy may ask for, from its parameters, or where those leave them to the model's `policy`, from that.
    Of a tree that is searched, those in the race at a time."""
    if policy is not None and getattr(call, "n", 0) is None:
        return policy.chains
    return max(_number(call, "chains") * (_number(call, "rounds") + 1), *(_number(call, name) for name in WIDTHS))


def _number(call: Any, name: str) -> int:
    value = getattr(call, name, 0)
    return value if isinstance(value, int) else 0


def configured(chosen: str | Chosen) -> Asked:
    """What the configuration names, as a request would."""
    return Asked(chosen) if isinstance(chosen, str) else Asked(chosen.name, chosen.model_extra or {})


def aliases_of(name: str, served: ServedModel) -> Sequence[str]:
    """Other names of a model; an adapter, which has the settings of its model, has none of them."""
    return () if name in served.settings.adapters else served.settings.aliases


def _own_name(models: Mapping[str, ServedModel], asked: str) -> str | None:
    if asked in models:
        return asked
    return next((name for name, served in models.items() if asked in aliases_of(name, served)), None)


class Registry:
    """The strategies and verifiers of this server."""

    def __init__(self) -> None:
        self.strategies = {name: Entry(name, kind) for name, kind in strategies().items()}
        self.verifiers = {name: Entry(name, kind) for name, kind in verifiers().items()}
        self.policies: Mapping[str, Policy] = {}
        """What `auto` goes by, by the names of models; those that are not there go by the server's own rules."""

    def policy(self, model: str, most: int) -> Policy:
        """What `auto` goes by for a model, with `most` chains at most."""
        policy = self.policies.get(model, BUILT_IN)
        return policy if policy.chains <= most else policy.with_at_most(most)

    def forget(self) -> None:
        """What was made without parameters is made anew: the bounds on it may be others."""
        for entry in (*self.strategies.values(), *self.verifiers.values()):
            entry.forget()

    def pick(self, models: Mapping[str, ServedModel], asked: str) -> tuple[str, ServedModel, str | None]:
        """The model under its own name and, where it is `MODEL:STRATEGY`, the strategy that an id asks for; a model may
        be asked by other names of its own (`aliases`). Raises `NotFound`."""
        if (own := _own_name(models, asked)) is not None:
            return own, models[own], None
        name, colon, strategy = asked.rpartition(":")
        if colon and strategy in self.strategies and (own := _own_name(models, name)) is not None:
            return own, models[own], strategy
        raise NotFound(
            "this server has no such model; GET /v1/models lists those it has", param="model", code="model_not_found"
        )

    def choose(
        self, table: Mapping[str, Entry], wish: Asked, param: Literal["strategy", "verifier"], most: int
    ) -> Selection[Any]:
        """What a request names, with its parameters. Raises `RequestError`."""
        name = wish.name
        if name not in table:
            known = ", ".join(table) or "none"
            raise RequestError(f"there is no such {param}; there are: {known}", param=param, code=f"{param}_not_found")
        return table[name].made(wish.parameters, param, most)

    def check_keys(self, keys: Sequence[KeySettings]) -> None:
        """The strategies that keys may ask for exist. Raises `WrongSettings`."""
        for key in keys:
            for name in sorted(key.strategies or ()):
                if name not in self.strategies:
                    hint = nearest(name, self.strategies) or f"; there are {', '.join(self.strategies)}"
                    raise WrongSettings(f"keys: {key.name} may ask for {name}, which is no strategy{hint}")

    def check(self, settings: Settings) -> None:
        """Strategies and verifiers that are configured exist, take their parameters, ask for no more chains than a
        request may and have what they need; those that keys may ask for exist. Raises `WrongSettings`."""
        self.check_keys(settings.keys)
        self._check_models(settings.served(), settings.limits.samples)

    def _check_models(self, models: Mapping[str, ModelSettings], most: int) -> None:
        for model, settings in models.items():
            chosen: list[tuple[Literal["strategy", "verifier"], str | Chosen | None, Mapping[str, Entry]]] = [
                ("strategy", settings.strategy, self.strategies),
                ("strategy", settings.pro_strategy, self.strategies),
                ("verifier", settings.verifier, self.verifiers),
            ]
            for param, wish, table in chosen:
                if wish is None:
                    continue
                asked = configured(wish)
                name = asked.name
                where = f"{param} {name} (of model {model})"
                if name not in table:
                    hint = nearest(name, table) or f"; there are {', '.join(table)}"
                    raise WrongSettings(f"{where}: there is no such {param}{hint}")
                try:
                    self.choose(table, asked, param, most)
                except RequestError as error:
                    raise WrongSettings(f"{where}: {error.message}") from None
                if name == "prm" and settings.prm is None:
                    raise WrongSettings(
                        f"{where}: it judges by a process reward model, and none is configured; set prm to its folder, "
                        "its hub id or the address of its server"
                    )
