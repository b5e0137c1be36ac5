"""A model that is served: where it is, how it thinks, what spends its budget and what judges it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
)

from ponder.engines.profiles import PROFILES, Profile
from ponder.engines.reward_profiles import REWARD_PROFILES, RewardProfile
from ponder.server.settings.deployment import DeploymentSettings
from ponder.server.settings.engine import EngineSettings, RewardEngineSettings
from ponder.server.settings.prices import MOST_COST
from ponder.server.settings.replicas import Replicas
from ponder.server.settings.table import Table, nearest


def _budget(value: object) -> object:
    """A number of tokens from 0, or "auto" (also written -1); numbers come as text from the environment."""
    if isinstance(value, str) and value.removeprefix("-").isdecimal():
        value = int(value)
    if value is None or value in ("auto", -1):
        return None if value is None else "auto"
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError('it must be a number of tokens from 0, or "auto"')
    return value


def _family(families: Mapping[str, BaseModel]) -> AfterValidator:
    """A name of one of them."""

    def known(name: str) -> str:
        if name not in families:
            raise ValueError(f"there is no such family{nearest(name, families)}; there are {', '.join(families)}")
        return name

    return AfterValidator(known)


def _prm(value: str) -> str:
    """A folder, a hub id, or the address of a vLLM server, without the /v1 that clients of OpenAI's add to one."""
    if "://" not in value:
        return value
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.port == 0:
        raise ValueError("the address of a vLLM server is http://host:port or https://host:port")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the key of a reward model's server is set by prm_key, not in its address")
    return value.rstrip("/").removesuffix("/v1").rstrip("/")


def _key(value: SecretStr) -> SecretStr:
    if not all("!" <= char <= "~" for char in value.get_secret_value()):
        raise ValueError("a key has no spaces, line breaks or letters beyond ASCII")
    return value


def _name_or_table(value: object) -> str:
    return "name" if isinstance(value, str) else "table"


Thinks = Annotated[
    Annotated[str, _family(PROFILES), Tag("name")] | Annotated[Profile, Tag("table")],
    Discriminator(_name_or_table),
]
Judges = Annotated[
    Annotated[str, _family(REWARD_PROFILES), Tag("name")] | Annotated[RewardProfile, Tag("table")],
    Discriminator(_name_or_table),
]


class Chosen(BaseModel):
    """A strategy or verifier with parameters beside its name."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str


Choosing = Annotated[
    Annotated[str, Tag("name")] | Annotated[Chosen, Tag("table")],
    Discriminator(_name_or_table),
]
ThinkingBudget = Annotated[int | Literal["auto"] | None, BeforeValidator(_budget)]


class Defaults(Table):
    """What may be said for one model, and for all that are silent about it."""

    profile: Thinks | None = Field(
        default=None,
        description="How the model thinks: the name of a family or a table of your own (docs/write-a-family.md). "
        "Left out: found by what is in the model's files (docs/models.md).",
    )
    strategy: Choosing | None = Field(
        default=None,
        description='What spends the budget when a request is silent: a name such as "majority_vote", or a table of it '
        "and parameters.",
    )
    pro_strategy: Choosing = Field(
        default="best_of_n",
        description="What spends the budget of a request that asks for more work than usual without a strategy of its "
        'own (reasoning.mode: "pro" of the Responses API): a name, or a table of it and parameters.',
    )
    verifier: Choosing | None = Field(
        default=None,
        description="What judges candidates when a request is silent: a name, or a table of it and parameters.",
    )
    policy: Path | None = Field(
        default=None,
        description="A file with the numbers that `auto` goes by, learned for the model (`ponder calibrate`, "
        "docs/policy.md). Left out: the server's own rules.",
    )
    thinking_budget: ThinkingBudget = Field(
        default=None,
        description='Hidden tokens when a request is silent: a number, 0 for none, or "auto" (the default).',
    )
    max_thinking_budget: int = Field(
        default=1 << 18,
        ge=0,
        le=1 << 24,
        description="Highest thinking_budget of one request, over all its chains; what is above is clamped.",
    )
    max_cost_usd: Decimal | None = Field(
        default=None,
        gt=0,
        le=MOST_COST,
        description="Highest cost of one request in USD, where the model has a price (docs/metering.md); "
        "left out: only the limits in tokens bound it.",
    )
    answer_tokens: int = Field(
        default=1024,
        ge=1,
        le=1 << 20,
        description="Visible tokens kept back for the answer when a request sets no limit.",
    )
    prm: Annotated[str, AfterValidator(_prm)] | None = Field(
        default=None,
        description="A process reward model, which judges searches: folder or hub id of one to load beside the model, "
        "or the address (http://host:port) of a vLLM server of one.",
    )
    prm_model: str | None = Field(
        default=None,
        description="Folder or hub id of the tokenizer of a reward model that another server serves; "
        "left out: what that server says it was loaded from.",
    )
    prm_key: Annotated[SecretStr, AfterValidator(_key)] | None = Field(
        default=None, description="API key of the server that serves the reward model."
    )
    prm_profile: Judges | None = Field(
        default=None,
        description="How the reward model wants chains laid out and is read: the name of a family or a table of your "
        "own. Left out: found by the reward model's name.",
    )
    prm_engine: RewardEngineSettings = Field(
        default=RewardEngineSettings(), description="How vLLM is started for a reward model beside the model."
    )
    engine: EngineSettings = Field(default=EngineSettings(), description="How vLLM is started.")
    ray: DeploymentSettings = Field(
        default=DeploymentSettings(), description="How many engines there are on Ray Serve (docs/ray.md)."
    )
    prm_ray: DeploymentSettings = Field(
        default=DeploymentSettings(),
        description="The same of the reward model, where `prm` is not an address.",
    )

    @property
    def model_profile(self) -> Profile | None:
        """How the model thinks; None: its files tell."""
        chosen = self.profile
        return PROFILES[chosen] if isinstance(chosen, str) else chosen

    @property
    def reward_profile(self) -> RewardProfile | None:
        """How the reward model is read; None: its name tells."""
        chosen = self.prm_profile
        return REWARD_PROFILES[chosen] if isinstance(chosen, str) else chosen

    @property
    def prm_is_remote(self) -> bool:
        """The reward model is served by another server."""
        return self.prm is not None and "://" in self.prm


class ModelSettings(Defaults):
    """One served model."""

    path: str = Field(
        description='A folder, a hub id such as "Qwen/Qwen3-0.6B", "demo" (bundled), or "smollm2" (made here once).'
    )
    adapters: dict[str, str] = Field(
        default_factory=dict,
        description="LoRA adapters of the model, each a folder or hub id, by the names they are asked by.",
    )
    replicas: Replicas | None = Field(
        default=None,
        description="vLLM servers that serve the model, in the place of an engine here: a list of addresses, or a "
        "table (docs/replica-pool.md). `path` is its tokenizer's then.",
    )
    aliases: list[str] = Field(
        default_factory=list[str],
        description="Other names the model is asked by; keys, prices and metrics know it by the name of its table.",
    )
