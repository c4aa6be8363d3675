"""The base of every model that a file is checked against.

Rules: unknown keys are errors, nothing changes after it was checked, the docstring under a field is its documentation
(the JSON Schema and the reference are made from it), and an error never repeats its input, which may be a secret.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A frozen model without unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        coerce_numbers_to_str=True,  # `cost_centre: 4711`; the reader keeps numbers whose text matters as text
        protected_namespaces=(),
    )


@cache
def documentation(model: type[BaseModel]) -> dict[str, str]:
    """The documentation of a model's fields: `Field(description=...)`, else the docstring under the field.

    Pydantic can collect docstrings itself, but does so while the class is made, which a worker would pay for (60 ms).
    """
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _docstrings(base)
    described = {name: field.description for name, field in model.model_fields.items() if field.description}
    return {name: text for name, text in {**found, **described}.items() if name in model.model_fields}


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    except (OSError, TypeError, SyntaxError):  # no source: frozen, or made at run time
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found: dict[str, str] = {}
    for field, following in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(following):
            found[field.target.id] = inspect.cleandoc(ast.literal_eval(following.value))  # type: ignore[attr-defined]
    return found


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
