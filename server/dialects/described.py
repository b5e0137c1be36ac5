"""What the models of answers are made of, for `/openapi.json`. Answers are written without them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


def may_be_left_out(schema: dict[str, Any]) -> None:
    """A default stands for a field that is left out where it does not apply: no value is meant."""
    for field in schema["properties"].values():
        field.pop("default", None)


class Part(BaseModel):
    """A piece of an answer."""

    model_config = ConfigDict(json_schema_extra=may_be_left_out)
