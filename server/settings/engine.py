"""How vLLM is started, for a model and for a reward model beside one."""

from __future__ import annotations

from typing import Any, Literal, Self, cast

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ponder.engines.launch import GRAMMAR_SECONDS
from ponder.engines.options import DECIDED, checked, options
from ponder.server.settings.table import Table, nearest

DType = Literal["auto", "bfloat16", "float16", "float32"]


class _Engine(Table):
    """How vLLM is started. What is left out is chosen for the device. Any other option of vLLM's may be given by its
    own name."""

    model_config = ConfigDict(extra="allow", frozen=True)

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

    @model_validator(mode="before")
    @classmethod
    def _vllms(cls, given: Any) -> Any:
        """Checks the options that are vLLM's: those it has not, and those decided here, are refused."""
        if not isinstance(given, dict):
            return given
        return {
            name: value if name in cls.model_fields else cls._vllms_own(name, value)
            for name, value in cast("dict[str, Any]", given).items()
        }

    @classmethod
    def _vllms_own(cls, name: str, value: object) -> Any:
        """The value of an option that is none of ours, as vLLM takes it."""
        near = nearest(name, cls.model_fields, cutoff=0.8)
        known = name in DECIDED or (name in options() and name not in EngineSettings.model_fields)
        if not known and (near or name in EngineSettings.model_fields):
            raise PydanticCustomError("option", "{words}", {"option": name, "words": f"there is no such setting{near}"})
        try:
            return checked(name, value)
        except ValueError as error:
            raise PydanticCustomError("option", "{words}", {"option": name, "words": str(error)}) from None

    @property
    def options(self) -> dict[str, Any]:
        """For `ponder.engines.launch.EngineOptions`: what is set here, and under `more` what is vLLM's alone."""
        return {name: getattr(self, name) for name in type(self).model_fields} | {"more": self.model_extra or {}}

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
    grammar_seconds: float = Field(
        default=GRAMMAR_SECONDS,
        gt=0,
        le=600,
        description="Seconds of processor time that compiling one JSON schema may take, with this model's vocabulary.",
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
