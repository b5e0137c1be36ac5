"""The replicas of a model: vLLM servers elsewhere, in the place of an engine here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from ponder.engines.replicas.membership import address
from ponder.server.settings.table import Table


def _key(value: SecretStr) -> SecretStr:
    if not all("!" <= char <= "~" for char in value.get_secret_value()):
        raise ValueError("a key has no spaces, line breaks or letters beyond ASCII")
    return value


class ReplicaSettings(Table):
    """Where the replicas of a model are, and how they are reached and watched."""

    urls: list[Annotated[str, AfterValidator(address)]] = Field(
        default_factory=list[str], max_length=4096, description="Addresses of vLLM servers, http(s)://host:port."
    )
    file: Path | None = Field(
        default=None,
        description="A file with one address a line, read again when it changes: servers join and leave without a "
        "restart.",
    )
    dns: Annotated[str, AfterValidator(address)] | None = Field(
        default=None,
        description="http(s)://name:port: each address that DNS has for the name is a replica, with https with a "
        "certificate for the name; asked again every dns_interval seconds.",
    )
    dns_interval: float = Field(default=5, ge=0.5, le=3600, description="Seconds between two questions for the name.")
    key: Annotated[SecretStr, AfterValidator(_key)] | None = Field(
        default=None, description="What the servers were started with as --api-key."
    )
    key_file: Path | None = Field(
        default=None, description="A file with that key, read anew whenever a replica is connected to."
    )
    ca: Path | None = Field(
        default=None,
        description="File of certificates (PEM) that vouch for the servers', in the place of the machine's.",
    )
    served_model: str | None = Field(
        default=None, description="The model's name at the servers; left out: that of the one they have."
    )
    places: int = Field(
        default=256,
        ge=1,
        le=1 << 16,
        description="Chains that a server writes at the same time: its --max-num-seqs.",
    )
    interval: float = Field(
        default=1, ge=0.1, le=60, description="Seconds between two questions to a server whether it lives."
    )
    patience: float = Field(
        default=1,
        ge=0.1,
        le=60,
        description="Seconds that it may take to answer, while its chains get no token, before they go on elsewhere.",
    )
    stall: float = Field(
        default=60,
        ge=5,
        le=3600,
        description="Seconds without a token, though it says that it lives, after which a server counts as hung.",
    )

    @model_validator(mode="after")
    def _some(self) -> ReplicaSettings:
        if not (self.urls or self.file or self.dns):
            raise ValueError("name the replicas: urls, a file, or dns")
        if self.key is not None and self.key_file is not None:
            raise ValueError("key and key_file: set one of them")
        return self

    def moved(self, new: ReplicaSettings) -> ReplicaSettings:
        """These with the replicas of another configuration: where they are may change while the server serves."""
        return self.model_copy(update={name: getattr(new, name) for name in MEMBERSHIP})


MEMBERSHIP = ("urls", "file", "dns", "dns_interval")
"""What says who the replicas are."""


def _table(value: object) -> Any:
    """A list is that of the addresses."""
    if isinstance(value, str):
        return {"urls": [value]}
    return {"urls": cast("list[Any]", value)} if isinstance(value, list) else value


Replicas = Annotated[ReplicaSettings, BeforeValidator(_table)]
