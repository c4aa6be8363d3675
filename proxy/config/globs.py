"""Name patterns: `*`, `?` and `[a-z]`, compared with letter case.

Rules: patterns are compiled once; plain names cost one set lookup. A value that isn't there matches nothing, not even
`*`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable

Matches = Callable[[str | None], bool]


def is_glob(pattern: str) -> bool:
    """Whether the pattern can match more than itself."""
    return any(mark in pattern for mark in "*?[")


def globs(patterns: Iterable[str]) -> Matches:
    """A predicate: does the value match at least one of the patterns?"""
    patterns = tuple(patterns)
    if "*" in patterns:
        return _present
    if len(patterns) == 1 and patterns[0].endswith("*") and not is_glob(patterns[0][:-1]):
        return _beginning(patterns[0][:-1])
    names = frozenset(pattern for pattern in patterns if not is_glob(pattern))
    expressions = [fnmatch.translate(pattern) for pattern in patterns if is_glob(pattern)]
    if not expressions:
        return names.__contains__
    matches = re.compile("|".join(expressions)).match

    def either(value: str | None) -> bool:
        return value is not None and (value in names or matches(value) is not None)

    return either


def specificity(pattern: str) -> tuple[int, int]:
    """Orders patterns: a plain name before a glob, then the one with the longer fixed beginning."""
    fixed = re.match(r"[^*?\[]*", pattern)
    return (0 if is_glob(pattern) else 1, len(fixed[0]) if fixed else 0)


def _beginning(prefix: str) -> Matches:
    """`gpt-4*`, the usual form, at half the cost of a regular expression."""
    return lambda value: value is not None and value.startswith(prefix)


def _present(value: str | None) -> bool:
    return value is not None
