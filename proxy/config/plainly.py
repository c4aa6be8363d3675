"""The values of a composed YAML file, without their places: what most files need, in a third of the time.

Rules: only of files in which nothing needs more than that. Whatever does (a variable, an alias, a merge, a tag, a key
that is none or is written twice) is left to the reader that knows places (`proxy.config.source`), which says the same
of all others.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_VALUES = 300_000
"""Ten thousand keys in a teams file are a fifth of it."""
_TAGS = {
    yaml.ScalarNode: "tag:yaml.org,2002:str",
    yaml.SequenceNode: "tag:yaml.org,2002:seq",
    yaml.MappingNode: "tag:yaml.org,2002:map",
}
PLAIN_TAGS = frozenset(_TAGS.values())
_MARKS = re.compile(r"(?<![^\s,\[{:])[&*!]")  # an alias, an anchor or a tag begins where a value can
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class NeedsPlacesError(Exception):
    """The file must be read by the other way."""


class Untagged:
    """Before PyYAML's loaders, in a class of both: leaves the meaning of plain scalars to us."""

    def resolve(self, kind: type[yaml.Node], value: object, implicit: object) -> str:
        """The tag of what has none."""
        return _TAGS[kind]

    def descend_resolver(self, *_: object) -> None:
        """Nothing depends on where a node stands."""

    ascend_resolver = descend_resolver


def is_plain(text: str) -> bool:
    """Whether the values alone may do; False in doubt."""
    if "${" in text or "<<" in text:
        return False
    return not any(mark in text for mark in "&*!") or _MARKS.search(text) is None


def values(node: yaml.Node) -> Any:
    """The value of a document. Raises `NeedsPlacesError`."""
    reader = _Values()
    try:
        found = reader.value(node)
    except RecursionError as error:
        raise NeedsPlacesError from error
    if reader.count > MOST_VALUES:
        raise NeedsPlacesError
    return found


def plain(text: str) -> Any:
    """A plain scalar by YAML 1.2's core schema, restricted to what loses nothing."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "-0123456789":
        return text
    if _INTEGER.fullmatch(text) and len(text) < 19:
        return int(text)
    if _FLOAT.fullmatch(text) and repr(float(text)) == text:
        return float(text)
    return text


class _Values:
    """Walks the nodes once."""

    def __init__(self) -> None:
        self.count = 0

    def value(self, node: yaml.Node) -> Any:
        if node.tag != _TAGS[type(node)]:
            raise NeedsPlacesError
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style else plain(node.value)
        self.count += len(node.value)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item) for item in node.value]
        return self.mapping(node)

    def mapping(self, node: yaml.Node) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in found:
                raise NeedsPlacesError
            found[key.value] = self.value(value)
        return found
