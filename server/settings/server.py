"""The whole configuration: what holds for the server, and the tables of the others."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ponder.compute.price import Price
from ponder.server.settings.idempotency import IdempotencySettings
from ponder.server.settings.keys import KeySettings
from ponder.server.settings.ledger import LedgerSettings
from ponder.server.settings.limits import Limits
from ponder.server.settings.model import Defaults, ModelSettings
from ponder.server.settings.prices import DEMO, PriceBook
from ponder.server.settings.receipts import ReceiptSettings
from ponder.server.settings.replicas import Replicas
from ponder.server.settings.responses import ResponseSettings
from ponder.server.settings.sealed_thoughts import SealedThoughtSettings
from ponder.server.settings.table import nearest

PREFIX = "PONDER_"

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")

EFFORT = {"none": 0, "minimal": 512, "low": 2048, "medium": 8192, "high": 24576, "xhigh": 65536, "max": 131072}


class Settings(BaseSettings, Defaults):  # pyright: ignore[reportIncompatibleVariableOverride]
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
    tls_cert: Path | None = Field(
        default=None, description="File of the certificate chain (PEM) to speak HTTPS with; wants tls_key."
    )
    tls_key: Path | None = Field(default=None, description="File of its private key (PEM), without a password.")
    model: str = Field(
        default="demo",
        description="The model to serve: a folder, a hub id, demo, or smollm2 (fetched and converted once); with a "
        "models table, the one of it to serve alone.",
    )
    adapters: dict[str, str] = Field(
        default_factory=dict,
        description="LoRA adapters of the one model, each a folder or hub id, by the names they are asked by.",
    )
    aliases: list[str] = Field(
        default_factory=list[str], description="Other names the one model is asked by, such as a name of OpenAI's."
    )
    replicas: Replicas | None = Field(
        default=None,
        description="vLLM servers that serve the one model, in the place of an engine here: a list of addresses, or a "
        "table (docs/replica-pool.md). `model` is its tokenizer's then.",
    )
    ray_doors: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Replicas of the server itself on Ray Serve, each of which uses one core (docs/ray.md).",
    )
    list_strategies: bool = Field(
        default=True,
        description="GET /v1/models lists each model with each strategy (MODEL:STRATEGY), behind the models alone. "
        "They can be asked for and looked up in any case.",
    )
    models: dict[str, ModelSettings] = Field(default_factory=dict, description="Models to serve, by name.")
    keys: list[KeySettings] = Field(default_factory=list[KeySettings], description="Who may ask.")
    require_key: bool | None = Field(
        default=None,
        description="Ask for an API key though none stands here: there are those of `ponder keys create`. false: not "
        "even where there are such keys. Left out: as soon as there is a key, here or there.",
    )
    effort: dict[str, int] = Field(
        default=EFFORT,
        description="What reasoning_effort means in tokens; new words may be added.",
        validate_default=True,
    )
    timeout: float = Field(default=540, gt=0, le=86400, description="Seconds for an answer that is not streamed.")
    stream_timeout: float = Field(default=3600, gt=0, le=86400, description="Seconds for an answer that is streamed.")
    headers_after: float = Field(
        default=240,
        gt=0,
        le=86400,
        description="Seconds after which an answer that is not streamed begins with its headers and white space; some "
        "clients give up after 300.",
    )
    keepalive: float = Field(default=10, gt=0, le=300, description="Seconds between comments on a silent stream.")
    drain_timeout: float = Field(
        default=30,
        ge=0,
        le=3600,
        description="Seconds running requests have after SIGTERM, a tenth of it for answering with their best. The "
        "process ends five seconds later at the latest.",
    )
    max_inflight: int = Field(default=256, ge=1, le=1 << 16, description="Requests that run at the same time.")
    max_chains: int = Field(
        default=4096,
        ge=1,
        le=1 << 20,
        description="Chains that the requests which run may ask for, all together; others wait.",
    )
    max_queue: int = Field(default=1024, ge=0, le=1 << 20, description="Requests that wait; more are answered 429.")
    reduce_under_load: bool = Field(
        default=False,
        description="While calls wait for the model, let the strategy auto draw fewer chains; never where a request "
        "has a seed. The response says so (thinking.reduced_by_load).",
    )
    traces: int = Field(
        default=1000, ge=0, le=1 << 20, description="Requests whose traces are kept in memory for GET /v1/traces/{id}."
    )
    trace_bytes: int = Field(
        default=1 << 26, ge=0, le=1 << 40, description="Bytes of memory that all traces may take; the oldest go first."
    )
    shared_traces: bool = Field(
        default=True,
        description="Where the ledger is a PostgreSQL, keep traces there, too, sealed and for a day at most: each "
        "server that shares it shows them.",
    )
    retain_text: bool = Field(
        default=False, description="Keep prompts, thoughts and answers with the traces, for keys with the scope reveal."
    )
    loop_thoughts: int = Field(
        default=1 << 14,
        ge=0,
        le=1 << 24,
        description="Turns of each key whose thought is kept, in memory, until the results of their tool calls come: "
        "for models that read it then (docs/models.md). 0 keeps none.",
    )
    loop_thought_bytes: int = Field(
        default=1 << 28,
        ge=0,
        le=1 << 40,
        description="Bytes of memory that these thoughts may take, an equal share for each key; those not asked for "
        "the longest go first.",
    )
    loop_thought_timeout: float = Field(
        default=3600, gt=0, le=604800, description="Seconds such a thought is kept since it was last asked for."
    )
    summaries: bool = Field(
        default=True,
        description="Requests may ask for a summary of the thinking, in the model's own words. false: the wish has no "
        "effect, and the response says so.",
    )
    docs: bool | None = Field(
        default=None,
        description="A page at /docs to read and try the API. Left out: where there is no key. With keys, anybody may "
        "load the page, and it asks for one.",
    )
    cors_origins: list[str] = Field(
        default_factory=list[str],
        description='Sites whose pages may ask ("https://app.example.com"); "*" is all of them, with keys only.',
    )
    hosts: list[str] = Field(
        default_factory=list[str],
        description="Names beside this machine's own that a request may have in Host, where no key is configured.",
    )
    access_log: bool = Field(default=False, description="A line in the log for each request (no content, ever).")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="What the log tells.")
    log_format: Literal["text", "json"] = Field(default="text", description="Lines of the log: text, or JSON objects.")
    library_output: Literal["places", "all"] = Field(
        default="places",
        description="What the log tells of what libraries and engines write while callers are served. places: how much "
        "and from where in the code. all: the lines, which may quote requests.",
    )
    limits: Limits = Field(default=Limits(), description="Bounds on one request.")
    prices: PriceBook = Field(default=PriceBook(), description="What tokens cost, in USD for a million of them.")
    ledger: LedgerSettings = Field(default=LedgerSettings(), description="The durable account of all requests.")
    idempotency: IdempotencySettings = Field(
        default=IdempotencySettings(), description="Requests that carry an Idempotency-Key."
    )
    responses: ResponseSettings = Field(default=ResponseSettings(), description="Responses that are kept.")
    receipts: ReceiptSettings = Field(default=ReceiptSettings(), description="Signed receipts of what requests used.")
    sealed_thoughts: SealedThoughtSettings = Field(
        default=SealedThoughtSettings(), description="Thoughts that are sealed for their callers to hand back."
    )

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
            if name not in EFFORT and (meant := nearest(name, EFFORT)):
                raise ValueError(f"{name} is no effort{meant}")
            if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,64}", name):
                raise ValueError("the word for an effort has at most 64 of a-z, A-Z, 0-9, _, . and -")
            if tokens < 0:
                raise ValueError(f"{name} is {tokens} tokens: at least 0")
        return EFFORT | given

    @field_validator("cors_origins")
    @classmethod
    def _whole_origins(cls, given: list[str]) -> list[str]:
        for origin in given:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin} is no origin: scheme and name, in small letters, as in https://app.example.com"
                )
        return given

    @model_validator(mode="after")
    def _checked_together(self) -> Settings:
        return self.fits_together()

    def fits_together(self) -> Settings:
        """Itself. Raises `ValueError` where one setting rules another out."""
        for name in self.models:
            if not name or ":" in name or name != name.strip():
                raise ValueError(f'models: "{name}" cannot be a name; ":" separates a model from a strategy')
        if self.models and "model" in self.model_fields_set and self.model not in self.models:
            raise ValueError(
                f"model: {self.model} is not among the models configured ({', '.join(self.models)})"
                f"{nearest(self.model, self.models)}; name none to serve them all"
            )
        for model in self.prices.models:
            if model not in (known := [name for own, one in self.served().items() for name in (own, *one.adapters)]):
                raise ValueError(f"prices.models: {model} is not served{nearest(model, known)}")
        if self.models and self.adapters:
            raise ValueError("adapters: with a models table they stand in the table of their model")
        if self.models and self.aliases:
            raise ValueError("aliases: with a models table they stand in the table of their model")
        if self.models and self.replicas is not None:
            raise ValueError("replicas: with a models table they stand in the table of their model")
        for name, model in self.served().items():
            if model.replicas is not None and model.adapters:
                raise ValueError(
                    f"adapters: those of {name} are loaded by its replicas; serve each as a model of its own"
                )
        names = [key.name for key in self.keys]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"keys: two keys are called {twice[0]}; a name belongs to one key")
        served = [name for name, model in self.served().items() for name in (name, *model.adapters)]
        if twice := sorted({name for name in served if served.count(name) > 1}):
            raise ValueError(f"adapters: two models are called {twice[0]}; a name belongs to one model or adapter")
        if wrong := [name for name in served if not name or ":" in name or name != name.strip()]:
            raise ValueError(f'adapters: "{wrong[0]}" cannot be a name; ":" separates a model from a strategy')
        aliases = {alias: own for own, model in self.served().items() for alias in model.aliases}
        names = [*served, *(alias for model in self.served().values() for alias in model.aliases)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"aliases: two models are called {twice[0]}; a name belongs to one")
        if wrong := [name for name in aliases if not name or ":" in name or name != name.strip()]:
            raise ValueError(f'aliases: "{wrong[0]}" cannot be a name; ":" separates a model from a strategy')
        ids = [key.identity for key in self.keys]
        if twice := [key.name for key in self.keys if ids.count(key.identity) > 1]:
            raise ValueError(f"keys: {twice[0]} and {twice[1]} have the same id; an id belongs to one key")
        for key in self.keys:
            for model in sorted(key.models or ()):
                if model in aliases:
                    raise ValueError(f"keys: {key.name} may ask {model}, which is another name: say {aliases[model]}")
                if model not in served:
                    raise ValueError(f"keys: {key.name} may ask {model}, which is not served{nearest(model, served)}")
        if self.keys and self.require_key is False:
            raise ValueError("require_key: it is false, and keys are configured; take the one or the other out")
        if self.ledger.off and (limited := [key.name for key in self.keys if key.sums]):
            raise ValueError(
                f"keys: {limited[0]} has limits of what its requests take together, which are kept in the ledger, and "
                "[ledger] url is none"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key: set both, or neither")
        if not self.locked and "*" in self.cors_origins:
            raise ValueError(
                'cors_origins: "*" without an API key lets every web page use this server; name the origins'
            )
        if not self.locked and not loopback(self.host):
            raise ValueError(
                f"host: without an API key the server listens on loopback only, not on {self.host}. "
                "Make a key with `ponder keys new NAME`, put what it prints into ponder.toml, and start again; or make "
                "it with `ponder keys create NAME`, and set require_key = true"
            )
        return self

    def with_changes(self, **changes: Any) -> Settings:
        """This configuration with other values of some settings, which were checked for themselves. Raises `ValueError`
        where they do not fit together."""
        return self.model_copy(update=changes).fits_together()

    @property
    def has_docs(self) -> bool:
        """The page at /docs is there."""
        return not self.locked if self.docs is None else self.docs

    @property
    def locked(self) -> bool:
        """A key is asked for, whatever the database has."""
        return bool(self.keys) or self.require_key is True

    @property
    def owners(self) -> dict[str, str]:
        """The ids of those who may ask, by their names."""
        return {key.name: key.identity for key in self.keys} or {"anyone": "anyone"}

    def price_of(self, model: str) -> Price | None:
        """What tokens of a model cost; None where it has no price."""
        return (DEMO if self.prices.empty else self.prices).of(model)

    def served(self) -> dict[str, ModelSettings]:
        """The models to serve, by name; what one is silent about is taken from the settings for all."""
        models = self.models
        if not models:
            folder = Path(self.model)
            name = folder.resolve().name if folder.is_dir() else self.model
            models = {
                name.replace(":", "-"): ModelSettings(
                    path=self.model, adapters=self.adapters, aliases=self.aliases, replicas=self.replicas
                )
            }
        elif "model" in self.model_fields_set:
            models = {self.model: models[self.model]}
        return {name: self._completed(model) for name, model in models.items()}

    def _completed(self, model: ModelSettings) -> ModelSettings:
        silent = [f for f in Defaults.model_fields if f not in model.model_fields_set]
        update = {f: getattr(self, f) for f in silent}
        update |= {"engine": self.engine.over(model.engine), "prm_engine": self.prm_engine.over(model.prm_engine)}
        return model.model_copy(update=update)


def loopback(host: str) -> bool:
    """The address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
