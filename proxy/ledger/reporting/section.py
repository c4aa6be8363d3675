"""A section of a report: a table of typed columns, which every format writes down in its own way.

Rules: a value is text, integer nano-dollars, a count, a share (0.05 is 5 %), a number, or None where there is none; its
column says which. A section's `total` is the sum of what it shows, from the ledger, not of rounded values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

Kind = Literal["text", "money", "count", "share", "number"]
Value = str | int | float | None
Row = tuple[Value, ...]


class Column(msgspec.Struct, frozen=True):
    """A column: `key` for programs, `title` for people. `wide`: left out where there is little room; `sums`: has a
    total."""

    key: str
    title: str
    kind: Kind = "text"
    wide: bool = False
    sums: bool = False


class Section(msgspec.Struct, frozen=True):
    """A table with a heading."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: list[Row]
    total: Row | None = None
    note: str = ""


def money(key: str, title: str, *, wide: bool = False, sums: bool = True) -> Column:
    """Of amounts, in nano-dollars."""
    return Column(key, title, "money", wide, sums)


def count(key: str, title: str, *, wide: bool = False, sums: bool = True) -> Column:
    """Of whole numbers."""
    return Column(key, title, "count", wide, sums)


_TITLES: Final = {
    "gl_account": "GL account",
    "provider_project": "Provider project",
    "policy": "Started by",
    "asked": "Model asked",
    "served": "Model served",
    "known": "Cost",
}


def title_of(dimension: str) -> str:
    """`cost_centre` as `Cost centre`, `tag:env` as `env`."""
    if dimension.startswith("tag:"):
        return dimension[4:]
    return _TITLES.get(dimension, dimension.replace("_", " ").capitalize())


def groups(by: Sequence[str]) -> tuple[Column, ...]:
    """What a report is cut by."""
    return tuple(Column(dimension, title_of(dimension)) for dimension in by)


def sums_of(rows: Sequence[Row], columns: Sequence[Column]) -> Row:
    """The sums of all columns but the first, where they have one."""
    return tuple(
        sum(int(row[index] or 0) for row in rows) if column.sums else None for index, column in enumerate(columns)
    )[1:]
