"""What can be configured: every field with its description, its bounds and its default.

`ponder.example.toml` shows them all; `load_settings.py` reads them.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
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
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ponder.compute.errors import PonderError
from ponder.engines.profiles import PROFILES, Profile
from ponder.engines.reward_profiles import REWARD_PROFILES, RewardProfile

PREFIX = "PONDER_"

EFFORT = {"none": 0, "minimal": 512, "low": 2048, "medium": 8192, "high": 24576, "xhigh": 65536}

Scope = Literal["infer", "usage", "admin", "reveal", "trace"]


class WrongSettings(PonderError):
    """The configuration is at fault; the message has one line for each thing that is wrong."""


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


class _Table(BaseModel):
    """A table of the configuration: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


DType = Literal["auto", "bfloat16", "float16", "float32"]


class _Engine(_Table):
    """How vLLM is started. What is left out is chosen for the device."""

    max_model_len: int | None = Field(
        default=None, ge=64, description="Tokens of prompt and output together; left out: what the model was made for."
    )
    kv_cache_memory_bytes: int | None = Field(
        default=None, ge=1 << 20, description="Memory for the key-value cache of this model; left out: 1 GiB on a CPU."
    )
    gpu_memory_utilization: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the GPU this model may fill; left out: 0.9, and for two models on one GPU 0.7 and 0.22.",
    )
    max_num_seqs: int | None = Field(
        default=None, ge=1, le=4096, description="Chains that are written at the same time."
    )
    tail_cache: bool | None = Field(
        default=None,
        description="Keep the half-full last block of a chain too: of one that is continued nothing is read twice. "
        "Left out: true on a CPU, false on a GPU.",
    )
    tensor_parallel_size: int = Field(default=1, ge=1, le=64, description="GPUs one model is spread over.")

    def over(self, more: Self) -> Self:
        """These settings, with those that are set in `more` in their place."""
        return self.model_copy(update={f: getattr(more, f) for f in more.model_fields_set})


class EngineSettings(_Engine):
    """How vLLM is started for a model."""

    dtype: DType = Field(default="auto", description="Numbers the weights are in.")
    enforce_eager: bool | None = Field(
        default=None, description="No compiling: starts sooner, writes slower. Left out: true on a CPU, false on a GPU."
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Start of the engine's own random numbers.")
    repetition_in_answers: bool = Field(
        default=False,
        description="End an answer that goes in circles (the same 128 to 512 tokens four times, one behind the other). "
        "A thought is ended in any case.",
    )
    trust_remote_code: bool = Field(
        default=False, description="Run program code that comes with the model. Only for models whose code was read."
    )


class RewardEngineSettings(_Engine):
    """How vLLM is started for a reward model beside a model."""

    dtype: DType | None = Field(default=None, description="Numbers the weights are in; left out: as for the model.")
    enforce_eager: bool | None = Field(
        default=None, description="No compiling: starts sooner, reads slower. Left out: as for the model."
    )
    trust_remote_code: bool | None = Field(
        default=None, description="Run program code that comes with the reward model; left out: as for the model."
    )


class _Defaults(_Table):
    """What may be said for one model, and for all that are silent about it."""

    profile: Thinks | None = Field(
        default=None,
        description="How the model thinks: the name of a family (see the README) or a table of your own. "
        "Left out: found by the model's configuration and chat template.",
    )
    strategy: Choosing | None = Field(
        default=None,
        description='What spends the budget when a request is silent: a name such as "majority_vote", or a table of it '
        "and parameters.",
    )
    verifier: Choosing | None = Field(
        default=None,
        description="What judges candidates when a request is silent: a name, or a table of it and parameters.",
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


class ModelSettings(_Defaults):
    """One served model."""

    path: str = Field(
        description='A folder, a hub id such as "Qwen/Qwen3-0.6B", "demo" (bundled), or "smollm2" (made here once).'
    )


class KeySettings(_Table):
    """One API key. `ponder keys new NAME` makes one and prints this table."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_.@-]{1,64}$", description="Who it belongs to; shown in metrics, never secret."
    )
    hash: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", description="SHA-256 of the key; the key itself is not kept.")
    scopes: frozenset[Scope] = Field(
        default=frozenset({"infer", "usage"}),
        description="infer: ask models. usage: read metrics. admin: read health details. "
        "reveal: see thoughts. trace: see the tree of calls.",
    )
    max_thinking_budget: int | None = Field(default=None, ge=0, description="Highest thinking_budget of one request.")
    models: frozenset[str] | None = Field(default=None, description="Names of the models it may ask; left out: all.")


class Limits(_Table):
    """Bounds on what one request may bring, so that no request can tie up the server."""

    body_bytes: int = Field(default=1 << 20, ge=1024, le=1 << 28, description="Size of a request's body.")
    body_timeout: float = Field(default=30, gt=0, le=3600, description="Seconds for a body to arrive.")
    header_bytes: int = Field(default=32768, ge=1024, le=1 << 20, description="Size of a request's line and headers.")
    header_timeout: float = Field(default=10, gt=0, le=3600, description="Seconds for the headers to arrive.")
    send_timeout: float = Field(
        default=30, gt=0, le=3600, description="Seconds a reader may let us wait before it is dropped."
    )
    connections: int = Field(default=2048, ge=1, le=1 << 20, description="Open connections; more are answered 503.")
    json_depth: int = Field(default=64, ge=4, le=500, description="Nesting of a body's brackets.")
    schema_depth: int = Field(default=32, ge=1, le=200, description="Nesting of a JSON schema for tools or answers.")
    messages: int = Field(default=1024, ge=1, le=1 << 16, description="Messages of a conversation.")
    n: int = Field(default=64, ge=1, le=1024, description="Choices of one request.")
    samples: int = Field(default=256, ge=1, le=4096, description="Chains one choice's strategy may ask for.")
    stop: int = Field(default=4, ge=0, le=64, description="Stop strings.")
    stop_chars: int = Field(default=256, ge=1, le=4096, description="Characters of a stop string.")
    tools: int = Field(default=128, ge=0, le=1024, description="Tools offered.")
    metadata: int = Field(default=16, ge=0, le=64, description="Entries of metadata.")
    logit_bias: int = Field(default=1024, ge=0, le=1 << 16, description="Entries of logit_bias.")
    logprobs: int = Field(
        default=20, ge=0, le=20, description="top_logprobs of one token; the engine gives 20 at most."
    )


class Settings(BaseSettings, _Defaults):  # pyright: ignore[reportIncompatibleVariableOverride]
    """All of the server's configuration. Made by `load`, or in tests by its constructor."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    host: str = Field(
        default="127.0.0.1", description="Address to listen on. Beyond loopback only with at least one key."
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 chooses a free one and prints it."
    )
    model: str = Field(
        default="demo",
        description="The model to serve: a folder, a hub id, demo, or smollm2 (fetched and converted once); with a "
        "models table, the one of it to serve alone.",
    )
    models: dict[str, ModelSettings] = Field(default_factory=dict, description="Models to serve, by name.")
    keys: list[KeySettings] = Field(default_factory=list[KeySettings], description="Who may ask.")
    effort: dict[str, int] = Field(
        default=EFFORT, description="What reasoning_effort means in tokens.", validate_default=True
    )
    timeout: float = Field(default=540, gt=0, le=86400, description="Seconds for an answer that is not streamed.")
    stream_timeout: float = Field(default=3600, gt=0, le=86400, description="Seconds for an answer that is streamed.")
    keepalive: float = Field(default=10, gt=0, le=300, description="Seconds between comments on a silent stream.")
    drain_timeout: float = Field(
        default=30,
        ge=0,
        le=3600,
        description="Seconds running requests have after SIGTERM before they answer with their best.",
    )
    max_inflight: int = Field(default=256, ge=1, le=1 << 16, description="Requests that run at the same time.")
    max_queue: int = Field(default=1024, ge=0, le=1 << 20, description="Requests that wait; more are answered 429.")
    traces: int = Field(
        default=1000, ge=0, le=1 << 20, description="Requests whose traces are kept in memory for GET /v1/traces/{id}."
    )
    trace_bytes: int = Field(
        default=1 << 26, ge=0, le=1 << 40, description="Bytes of memory that all traces may take; the oldest go first."
    )
    retain_text: bool = Field(
        default=False, description="Keep thoughts and answers with the traces, for keys with the scope reveal."
    )
    access_log: bool = Field(default=False, description="A line in the log for each request (no content, ever).")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="What the log tells.")
    limits: Limits = Field(default=Limits(), description="Bounds on one request.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @field_validator("effort")
    @classmethod
    def _whole_effort(cls, given: dict[str, int]) -> dict[str, int]:
        for name, tokens in given.items():
            if name not in EFFORT:
                raise ValueError(f"{name} is no effort{nearest(name, EFFORT)}; there are {', '.join(EFFORT)}")
            if tokens < 0:
                raise ValueError(f"{name} is {tokens} tokens: at least 0")
        return EFFORT | given

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        for name in self.models:
            if not name or ":" in name or name != name.strip():
                raise ValueError(f'models: "{name}" cannot be a name; ":" separates a model from a strategy')
        if self.models and "model" in self.model_fields_set and self.model not in self.models:
            raise ValueError(
                f"model: {self.model} is not among the models configured ({', '.join(self.models)})"
                f"{nearest(self.model, self.models)}; name none to serve them all"
            )
        names = [key.name for key in self.keys]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"keys: two keys are called {twice[0]}; a name belongs to one key")
        served = self.served()
        for key in self.keys:
            for model in sorted(key.models or ()):
                if model not in served:
                    raise ValueError(f"keys: {key.name} may ask {model}, which is not served{nearest(model, served)}")
        if not self.keys and not loopback(self.host):
            raise ValueError(
                f"host: without an API key the server listens on loopback only, not on {self.host}. "
                "Make a key with `ponder keys new NAME`, put what it prints into ponder.toml, and start again"
            )
        return self

    def served(self) -> dict[str, ModelSettings]:
        """The models to serve, by name; what one is silent about is taken from the settings for all."""
        models = self.models
        if not models:
            folder = Path(self.model)
            name = folder.resolve().name if folder.is_dir() else self.model
            models = {name.replace(":", "-"): ModelSettings(path=self.model)}
        elif "model" in self.model_fields_set:
            models = {self.model: models[self.model]}
        return {name: self._completed(model) for name, model in models.items()}

    def _completed(self, model: ModelSettings) -> ModelSettings:
        silent = [f for f in _Defaults.model_fields if f not in model.model_fields_set]
        update = {f: getattr(self, f) for f in silent}
        update |= {"engine": self.engine.over(model.engine), "prm_engine": self.prm_engine.over(model.prm_engine)}
        return model.model_copy(update=update)


def loopback(host: str) -> bool:
    """The address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def nearest(word: str, words: Sequence[str] | Mapping[str, Any], cutoff: float = 0.6) -> str:
    """`; did you mean ...?`, or nothing."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=cutoff)
    return f"; did you mean {found[0]}?" if found else ""
