"""From the text of a file to YAML's nodes, or to words that say what its syntax should have been."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from proxy.config.plainly import Untagged

Refuse = Callable[[yaml.Mark | None, str, str], None]
"""Where, what is wrong, and what would be right."""

_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# What PyYAML says, what that usually means, and what would be right. The first that matches counts.
_INDENTATION = ("the indentation doesn't fit the lines above", "keys of one mapping begin in one column")
_SYNTAX = [
    (r"'\\t'", "a tab can't indent here", "indent with spaces"),
    (r"unexpected end of stream", "a quote is never closed", ""),
    (r"mapping values are not allowed", "a colon where no key can be", "check the indentation, or quote the text"),
    (r"expected <block end>", *_INDENTATION),
    (r"could not find expected ':'", "a line that is no `key: value`", "write a space after the colon"),
    (r"expected ',' or", "unreadable inside braces or brackets", 'quote text with { } [ ] or commas: "${NAME}"'),
    (
        r"expected the node content",
        "unreadable inside braces or brackets",
        'quote text with { } [ ] or commas: "${NAME}"',
    ),
    (r"expected alphabetic or numeric", "`*` and `&` begin an alias", 'quote it: "*"'),
    (r"undefined alias", "`*` begins an alias, and there is no such one", 'quote it: "*"'),
    (r"found character '[%@`]'", "text can't begin with this character", "quote it"),
    (r"single document", "a second document", "a file holds one; leave out the ---"),
]


def composed(text: str, refuse: Refuse) -> yaml.Node | None:
    """The nodes; None where it isn't YAML, which `refuse` is told, or where there are none."""
    try:
        return _compose(text, _Fast)
    except (yaml.YAMLError, RecursionError):
        pass  # libyaml's messages differ; PyYAML's own parser words them in one way
    try:
        return _compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        refuse(error.problem_mark or error.context_mark, *_worded(error))
    except RecursionError:
        refuse(None, "nested too deeply", "")
    return None


def _compose(text: str, base: Any) -> yaml.Node | None:
    class Plain(Untagged, base):  # type: ignore[misc]
        """The parser, and our reading of what it finds."""

    loader = Plain(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


def _worded(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    said = f"{error.context or ''} {error.problem or ''}"
    for pattern, message, hint in _SYNTAX:
        if re.search(pattern, said):
            return message, hint
    return error.problem or error.context or "not YAML", ""
