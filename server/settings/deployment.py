"""How many replicas of a model Ray Serve keeps, and what each takes of the cluster."""

from __future__ import annotations

from pydantic import Field, model_validator

from ponder.server.settings.table import Table


class DeploymentSettings(Table):
    """The replicas of one model, or of one reward model, on Ray Serve."""

    min_replicas: int = Field(default=1, ge=1, le=4096, description="Replicas that there are always.")
    max_replicas: int | None = Field(
        default=None, ge=1, le=4096, description="Replicas that there are at most; left out: min_replicas."
    )
    backlog_seconds: float = Field(
        default=10,
        gt=0,
        le=3600,
        description="Replicas are added where the last call that waits will wait longer for its place.",
    )
    up_after: float = Field(default=5, ge=0, le=3600, description="Seconds that must be so before some are added.")
    down_after: float = Field(
        default=300, ge=0, le=86400, description="Seconds in which fewer would do before some are taken out."
    )
    cpus: float = Field(default=1, ge=0, le=1024, description="Processors of the cluster that a replica takes.")
    gpus: float | None = Field(
        default=None,
        ge=0,
        le=64,
        description="GPUs of the cluster that a replica takes; left out: as many as the model is spread over "
        "(tensor_parallel_size), and none where the vLLM installed is for processors.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> DeploymentSettings:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}")
        return self

    @property
    def most(self) -> int:
        """Replicas at most."""
        return self.min_replicas if self.max_replicas is None else self.max_replicas
