"""Whether a value has the form that a JSON schema asks for. Pure.

Rules: the keywords that structured outputs and tools use (https://json-schema.org/draft/2020-12, validation and
applicator vocabularies); one that isn't known holds for everything, so that nothing is refused by mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

_DEPTH: Final = 48
_TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: not isinstance(value, bool) and (isinstance(value, int) or _is_whole(value)),
}


def fits(value: Any, schema: Any) -> bool:
    """Whether it does."""
    return _fits(value, schema, schema, _DEPTH)


def _fits(value: Any, schema: Any, root: Any, depth: int) -> bool:
    if not isinstance(schema, dict) or depth <= 0:
        return schema is not False
    if isinstance(reference := schema.get("$ref"), str):
        return _fits(value, _referred(reference, root), root, depth - 1)
    if not _of_type(value, schema.get("type")):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if isinstance(allowed := schema.get("enum"), list) and value not in allowed:
        return False
    if not _combined(value, schema, root, depth):
        return False
    if isinstance(value, dict):
        return _object(value, schema, root, depth)
    if isinstance(value, list):
        return _array(value, schema, root, depth)
    return _text(value, schema) if isinstance(value, str) else _number(value, schema)


def _of_type(value: Any, wanted: Any) -> bool:
    names = wanted if isinstance(wanted, list) else [wanted] if wanted is not None else []
    return not names or any(_TYPES.get(str(name), lambda _: True)(value) for name in names)


def _combined(value: Any, schema: dict[str, Any], root: Any, depth: int) -> bool:
    def held(name: str) -> list[bool] | None:
        parts = schema.get(name)
        return [_fits(value, part, root, depth - 1) for part in parts] if isinstance(parts, list) else None

    every, some, one = held("allOf"), held("anyOf"), held("oneOf")
    return (
        (every is None or all(every))
        and (some is None or any(some))
        and (one is None or sum(one) == 1)
        and ("not" not in schema or not _fits(value, schema["not"], root, depth - 1))
    )


def _object(value: dict[str, Any], schema: dict[str, Any], root: Any, depth: int) -> bool:
    required, known = schema.get("required"), schema.get("properties")
    known = known if isinstance(known, dict) else {}
    if isinstance(required, list) and any(name not in value for name in required):
        return False
    others = schema.get("additionalProperties", True)
    return all(_fits(each, known.get(name, others), root, depth - 1) for name, each in value.items()) and _within(
        len(value), schema, "minProperties", "maxProperties"
    )


def _array(value: list[Any], schema: dict[str, Any], root: Any, depth: int) -> bool:
    items = schema.get("items", True)
    return all(_fits(each, items, root, depth - 1) for each in value) and _within(
        len(value), schema, "minItems", "maxItems"
    )


def _text(value: str, schema: dict[str, Any]) -> bool:
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        try:
            if re.search(pattern, value[:1000]) is None:
                return False
        except re.error:
            pass  # another dialect's
    return _within(len(value), schema, "minLength", "maxLength")


def _number(value: Any, schema: dict[str, Any]) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return True
    over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    return (
        _within(value, schema, "minimum", "maximum")
        and (not isinstance(over, (int, float)) or isinstance(over, bool) or value > over)
        and (not isinstance(under, (int, float)) or isinstance(under, bool) or value < under)
    )


def _within(size: float, schema: dict[str, Any], least: str, most: str) -> bool:
    low, high = schema.get(least), schema.get(most)
    return (not isinstance(low, (int, float)) or size >= low) and (not isinstance(high, (int, float)) or size <= high)


def _referred(reference: str, root: Any) -> Any:
    """The schema that a reference within the same document names; anything where there is none."""
    found = root
    for part in reference.removeprefix("#").split("/")[1:]:
        if not isinstance(found, dict) or part not in found:
            return True
        found = found[part]
    return found if reference.startswith("#") else True


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()
