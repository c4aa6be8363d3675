"""The base of every model that a file is checked against.

Rules: unknown keys are errors, nothing changes after it was checked, the docstring under a field is its documentation
(the JSON Schema and the reference are made from it), and an error never repeats its input, which may be a secret.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A frozen model without unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        coerce_numbers_to_str=True,  # `cost_centre: 4711`; the reader keeps numbers whose text matters as text
        protected_namespaces=(),
    )
