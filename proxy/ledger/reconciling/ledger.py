"""The ledger's side: what it recorded of one provider, by UTC day, and what stands in it more than once.

Rules: reads only. Providers' days are UTC, so the roll-ups by day are all that is needed; only to find the same request
twice are the rows of that day read, and each day once.
"""

from __future__ import annotations

from datetime import date
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, case, func, select

from proxy.ledger import tables
from proxy.ledger.reconciling.books import Key, project_of
from proxy.ledger.reconciling.items import plain
from proxy.ledger.reporting.cells import Belonging, Cell
from proxy.ledger.reporting.periods import Period, number_of
from proxy.ledger.reporting.source import Source, belonging_of

UTC: Final = ZoneInfo("UTC")


def recorded(source: Source, provider: str, first: date, last: date) -> list[Cell]:
    """The provider's cells of these days."""
    return [cell for cell in source.cells(Period(first, last, UTC)) if is_of(cell.belonging, provider)]


def is_of(who: Belonging, provider: str) -> bool:
    """Whether a cost is the provider's: by its name, or where that isn't known by the upstream's."""
    return (who.provider or who.upstream or "").lower() == provider


class Repeated:
    """Asks for what stands in the ledger more than once, a day at a time."""

    def __init__(self, db: Connection, provider: str) -> None:
        self._db, self._provider = db, provider
        self._days: dict[date, dict[tuple[str, str], int]] = {}

    def __call__(self, key: Key) -> int:
        """In nano-dollars."""
        found = self._days.get(key.day)
        if found is None:
            found = self._days[key.day] = self._of(key.day)
        return sum(amount for (project, model), amount in found.items() if _fits(key, project, model))

    def _of(self, day: date) -> dict[tuple[str, str], int]:
        a, d = tables.attempts.c, tables.dimensions
        first = number_of(day) * tables.QUARTERS_A_DAY
        uses = func.sum(case((a.entry == "reversal", -1), else_=1))
        query = (
            select(a.dimension, uses.label("uses"), func.sum(a.nanodollars))
            .where(a.quarter >= first, a.quarter < first + tables.QUARTERS_A_DAY, a.upstream_request_id.is_not(None))
            .group_by(a.dimension, a.upstream_request_id)
            .having(uses > 1)
        )
        sums: dict[int, int] = {}
        for dimension, count, amount in self._db.execute(query):
            sums[dimension] = sums.get(dimension, 0) + int(amount or 0) * (int(count) - 1) // int(count)
        rows = self._db.execute(select(d).where(d.c.id.in_(sums))) if sums else ()
        return self._by_name(sums, [row._mapping for row in rows])

    def _by_name(self, sums: dict[int, int], rows: list[Any]) -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        for row in rows:
            who = belonging_of(row)
            if is_of(who, self._provider):
                name = project_of(who), plain(who.served or who.model or "")
                found[name] = found.get(name, 0) + sums[row["id"]]
        return found


def _fits(key: Key, project: str, model: str) -> bool:
    return key.project in (project, "*") and key.model in (model, "*")
