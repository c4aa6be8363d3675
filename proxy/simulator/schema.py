"""JSON that fits a JSON Schema: for `response_format: json_schema` and for the arguments of tool calls.

Covers what structured outputs allow: objects, arrays, scalars, enum, const, anyOf/oneOf/allOf, $ref (recursive too),
bounds, and the common formats. `pattern` is not generated. A schema that can't end raises ValueError.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

_FORMATS = {
    "date": "2026-03-01",
    "date-time": "2026-03-01T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "P3D",
    "email": "lock@river.example",
    "uri": "https://river.example/weir",
    "uuid": "0f8e7d6c-5b4a-4938-a271-605f4e3d2c1b",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "river.example",
}
_WORDS = ("river", "weir", "gauge", "sluice", "north", "amber", "lock", "mill", "ford", "delta")
_KINDS = frozenset(("object", "array", "string", "integer", "number", "boolean", "null"))
_DEEP = 8
_TOO_DEEP = 40


def fitting(schema: dict[str, Any], random: Random, answer: Any = None) -> Any:
    """A value that the schema accepts. The first free scalar of `answer`'s type takes `answer`. Raises ValueError."""
    return _Filler(schema, random, answer).value(schema, 0)


class _Filler:
    def __init__(self, root: dict[str, Any], random: Random, answer: Any) -> None:
        self.root = root
        self.random = random
        self.answer = answer

    def value(self, schema: Any, depth: int) -> Any:
        if depth > _TOO_DEEP:
            raise ValueError("the schema requires itself without end")
        if not isinstance(schema, dict):
            return "river"
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self.random.choice(schema["enum"])
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return self.value(self._chosen(schema[key], depth), depth + 1)
        kind = self._kind(schema, depth)
        if kind not in _KINDS:
            raise ValueError(f"unknown type {kind!r} in the schema")
        return getattr(self, f"_{kind}")(schema, depth)

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        for _ in range(_TOO_DEEP):
            if "$ref" not in schema:
                break
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**self._referred(schema["$ref"]), **rest}
        if "allOf" in schema:
            schema = self._merged(schema)
        return schema

    def _referred(self, reference: str) -> dict[str, Any]:
        node: Any = self.root
        for step in reference.lstrip("#").strip("/").split("/"):
            if step:
                node = node.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(node, dict) else {}
        if not isinstance(node, dict):
            raise ValueError(f"{reference!r} does not lead to a schema")
        return node

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in map(self._resolved, schema["allOf"]):
            properties = {**merged.get("properties", {}), **part.get("properties", {})}
            required = [*merged.get("required", []), *part.get("required", [])]
            merged = {**merged, **part, "properties": properties, "required": required}
        return merged

    def _chosen(self, options: list[Any], depth: int) -> Any:
        # Below a certain depth only an option that ends may be taken, or a recursive schema would never do.
        simple = [
            o for o in options if isinstance(o, dict) and o.get("type") in ("null", "string", "integer", "number")
        ]
        return simple[0] if depth > _DEEP and simple else self.random.choice(options)

    def _kind(self, schema: dict[str, Any], depth: int) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            return str("null" if "null" in kind and depth > _DEEP else kind[0])
        if kind is None:
            return "object" if "properties" in schema else "array" if "items" in schema else "string"
        return str(kind)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        wanted = [name for name in properties if depth <= _DEEP or name in required]
        filled = {name: self.value(properties[name], depth + 1) for name in wanted}
        for name in required:
            filled.setdefault(name, "river")
        return filled

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        low = schema.get("minItems", 0)
        high = schema.get("maxItems", max(low, 3))
        size = low if depth > _DEEP else self.random.randint(max(low, min(1, high)), max(low, min(high, low + 3)))
        return [self.value(schema.get("items", {}), depth + 1) for _ in range(size)]

    def _string(self, schema: dict[str, Any], depth: int) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        low, high = schema.get("minLength", 0), schema.get("maxLength", 1 << 20)
        text = self._take(str) or " ".join(self.random.choices(_WORDS, k=2))
        while len(text) < low:
            text += " " + self.random.choice(_WORDS)
        return text[:high]

    def _integer(self, schema: dict[str, Any], depth: int) -> int:
        low, high = self._bounds(schema, 1)
        step = schema.get("multipleOf", 1)
        taken = self._take(int)
        if taken is not None and low <= taken <= high and taken % step == 0:
            return int(taken)
        start, end = self._range(low, high)
        least = math.ceil(start / step)
        return int(self.random.randint(least, max(least, math.floor(end / step))) * step)

    def _number(self, schema: dict[str, Any], depth: int) -> float:
        low, high = self._bounds(schema, 0.01)
        taken = self._take((int, float))
        if taken is not None and low <= taken <= high:
            return float(taken)
        start, end = self._range(low, high)
        return round(start + (end - start) * self.random.random(), 2)

    @staticmethod
    def _bounds(schema: dict[str, Any], gap: float) -> tuple[float, float]:
        low = schema.get("minimum", schema["exclusiveMinimum"] + gap if "exclusiveMinimum" in schema else -math.inf)
        high = schema.get("maximum", schema["exclusiveMaximum"] - gap if "exclusiveMaximum" in schema else math.inf)
        return low, high

    @staticmethod
    def _range(low: float, high: float) -> tuple[float, float]:
        """At most a hundred values within the bounds, from 0 where that is allowed."""
        start = low if low > -math.inf else min(0.0, high)
        return start, min(high, start + 100)

    def _boolean(self, schema: dict[str, Any], depth: int) -> bool:
        return self.random.random() < 0.5

    def _null(self, schema: dict[str, Any], depth: int) -> None:
        return None

    def _take(self, kind: Any) -> Any:
        """The answer, once, where its type fits."""
        if self.answer is None or not isinstance(self.answer, kind):
            return None
        taken, self.answer = self.answer, None
        return taken
