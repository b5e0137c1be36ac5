"""What the requests of all dialects are checked with: strict models, and the bounds of single numbers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field


class Wire(BaseModel):
    """Strict types (no "5" for 5, no true for 1); unknown keys are let through, and `slips.ignored` reports them."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, protected_namespaces=())

    part_lists: ClassVar[str | None] = None
    """A field that may be a list of parts, each an object with its text under its `type` or `text`."""
    free_keys: ClassVar[bool] = False
    """Keys beside the fields are not this server's to know: something else checks them."""


Item = TypeVar("Item")
Several = Annotated[list[Item], Field(fail_fast=True)]
"""A list that is complained of once: a complaint of each entry would take longer than reading them."""

WITHOUT_EFFECT: dict[str, Any] = {"x-without-effect": True}
"""`json_schema_extra` of a field that is taken and changes nothing."""

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
Tokens = Annotated[int, Field(ge=0, le=2**31)]
SomeTokens = Annotated[int, Field(ge=1, le=2**31)]
WishedTokens = Annotated[int, Field(ge=-1, le=2**31)]
Effort = Name
"""A word for a budget, which the server's configuration turns into tokens."""
