"""`policy-options.md`: the options of every policy that is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.config.policies import Envelope
from proxy.config.reference import table
from proxy.config.schemas import schema

_BEGINNING = """# Options of policies

<!-- Written by `python -m proxy.reference`; change the docstrings of `policies/`, then run it again. -->

Each stands beside the keys of the [envelope](configuration.md#policy-file-envelope), which all policies have. What they
are for, with examples, is in the [guide](../guide/policies.md).
"""


def page() -> str:
    """The whole page."""
    found = schema("policies")
    variants = [one for one in found["properties"]["policies"]["items"]["oneOf"] if "use" in one["properties"]]
    parts = [_BEGINNING]
    for variant in variants:
        parts.extend(_policy(variant, found["$defs"]))
    return "\n".join(parts).rstrip() + "\n"


def _policy(variant: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    name = variant["title"]
    own = {key: value for key, value in variant["properties"].items() if key not in Envelope.model_fields}
    yield f"## {name}\n"
    yield from table({**variant, "properties": own})
    for key, model in sorted(definitions.items()):
        if key.startswith(f"{name}.") and "properties" in model:
            yield f"### {key}\n"
            yield from table(model)
