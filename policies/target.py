"""A model that a policy may send a request to, as policy files name one.

    to: [gpt-4o-mini, {model: llama, lacks: [tools]}]

Rules: a policy adds its own fields; where it needs none of them, the name alone stands for the whole.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema


class ModelTarget(BaseModel):
    """A model by its name, written alone or with what else the policy wants to know of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """Its name, as clients would ask for it."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}
