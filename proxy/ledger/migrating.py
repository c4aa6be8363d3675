"""Ledgers that earlier versions made, brought to this one's tables.

Rules:
1. A step goes from one version to the next, inside the transaction that opens the ledger: all of them or none.
2. Rows stay as they are. A step adds columns behind the others, whose value in old rows says "not known" (null, or ""
   where the column can't be null); a block is then verified by the columns that its rows had (`forms`). An older
   program that still runs, on another host, can go on writing until it ends.
3. There is no way back: an older program doesn't open a newer ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Connection, text

Parts = list[list[tuple[Any, ...]]]
"""The rows of a block: of `attempts`, `exchanges` and `savings`."""

_ADDED: Final = {"2": (1, 0, 1)}
"""How many columns each of those three has more than in the version before."""


def _to_2(db: Connection) -> str:
    """The hash of the policies on each attempt and saving."""
    db.execute(text("ALTER TABLE attempts ADD COLUMN policies_hash TEXT"))
    db.execute(text("ALTER TABLE savings ADD COLUMN policies_hash TEXT NOT NULL DEFAULT ''"))
    return "2"


STEPS: Final[Mapping[str, Callable[[Connection], str]]] = {"1": _to_2}
"""By the version that is found: what makes it the next one, which it names."""


def forms(parts: Parts) -> Iterator[Parts]:
    """The rows of a block as they are; then as those of each earlier version, as long as they say nothing newer."""
    yield parts
    for version in sorted(_ADDED, key=int, reverse=True):
        added = _ADDED[version]
        for rows, count in zip(parts, added, strict=True):
            if count and any(value not in (None, "") for row in rows for value in row[-count:]):
                return
        parts = [[row[: len(row) - count] for row in rows] for rows, count in zip(parts, added, strict=True)]
        yield parts
