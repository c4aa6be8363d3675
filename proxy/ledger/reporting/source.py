"""Reads the roll-ups: the only module of the reports that knows the ledger's tables.

Rules: reads only, in one snapshot. Quarters are summed to the zone's days by the database; where the zone is UTC the
day's roll-up is read instead. What of a period's cost stands in another one (an attempt sent before midnight and
settled after it) is read from the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, Integer, Table, case, func, literal_column, not_, select

from proxy.ledger import tables
from proxy.ledger.reporting.cells import Belonging, Cell, Sums
from proxy.ledger.reporting.periods import Offset, Period, day_of, offsets

_COUNTED: Final = (
    "exchanges",
    "attempts",
    "unpriced",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
_NAMED: Final = {"started_by": "policy"}


class Saved(msgspec.Struct, frozen=True):
    """What a policy claims to have saved on a day, and by how many savings."""

    cell: Cell
    policy: str
    model: str
    known: str
    savings: int
    nanodollars: int


class Arm(msgspec.Struct, frozen=True):
    """The exchanges of one arm of a policy with a holdout, by whom they are of. `squares` sums
    (nanodollars // 10,000)²."""

    policy: str
    arm: str
    belonging: Belonging
    exchanges: int
    nanodollars: int
    squares: int


class Closing(msgspec.Struct, frozen=True):
    """A month that was closed."""

    month: str
    zone: str
    closed_s: int
    attempts: int
    nanodollars: int
    rolled: str
    accrued: int


class Accrued(msgspec.Struct, frozen=True):
    """Attempts sent in a period and not settled in it: `settled` since then, or still `open`, at their estimate; and
    those of an earlier period that are settled in this one (`carried`). Amounts are nano-dollars."""

    open_attempts: int = 0
    open_estimate: int = 0
    settled_attempts: int = 0
    settled: int = 0
    carried_attempts: int = 0
    carried: int = 0


class Source:
    """The ledger as reports see it, in one snapshot."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._belongings: dict[int, Belonging] = {}
        self._raw: dict[int, Any] | None = None

    def cells(self, period: Period) -> list[Cell]:
        """The sums of every day of the period."""
        table, day, within = _days_of(tables.quarters, tables.days, period)
        sums = [func.sum(table.c[name]) for name in (*_COUNTED, "nanodollars")]
        query = select(table.c.dimension, day, *sums).where(*within).group_by(table.c.dimension, day)
        return [self._cell(int(row[0]), int(row[1]), row[2:]) for row in self._db.execute(query)]

    def savings(self, period: Period) -> list[Saved]:
        """What policies claim to have saved."""
        table, day, within = _days_of(tables.saving_quarters, tables.saving_days, period)
        keys = (table.c.dimension, day, table.c.policy, table.c.model, table.c.known)
        sums = (func.sum(table.c.savings), func.sum(table.c.nanodollars))
        found = self._db.execute(select(*keys, *sums).where(*within).group_by(*keys))
        return [
            Saved(Cell(day_of(int(row[1])), self._of(int(row[0])), Sums()), *row[2:5], int(row[5]), int(row[6]))
            for row in found
        ]

    def arms(self, period: Period) -> list[Arm]:
        """What the exchanges of the arms of policies with a holdout cost."""
        table, _, within = _days_of(tables.arm_quarters, tables.arm_days, period)
        keys = (table.c.policy, table.c.arm, table.c.dimension)
        sums = [func.sum(table.c[name]) for name in tables.ARM]
        found = self._db.execute(select(*keys, *sums).where(*within).group_by(*keys))
        return [Arm(row[0], row[1], self._of(int(row[2])), *map(int, row[3:])) for row in found]

    def began_s(self) -> int | None:
        """When the first quarter with any record begins, Unix seconds; None for an empty ledger."""
        first = self._db.scalar(select(func.min(tables.quarters.c.quarter)))
        return None if first is None else int(first) * tables.QUARTER_S

    def closing(self, month: str) -> Closing | None:
        """How a month was closed, if it was."""
        c = tables.closings.c
        columns = (c.month, c.zone, c.closed_ns, c.attempts, c.nanodollars, c.rolled, c.accrued_nanodollars)
        row = self._db.execute(select(*columns).where(c.month == month)).one_or_none()
        return None if row is None else Closing(row[0], row[1], int(row[2]) // 10**9, int(row[3]), *row[4:])

    def accrued(self, period: Period) -> Accrued:
        """What was sent in the period and not settled in it, and the other way round."""
        if period.whole_month and self.closing(period.name) is not None:
            open_ = self._accruals(period.name)
            return Accrued(*open_, 0, 0, *self._carried(period))
        return Accrued(*self._open(period), *self._settled_after(period), *self._carried(period))

    def _accruals(self, month: str) -> tuple[int, int]:
        c = tables.accruals.c
        row = self._db.execute(select(func.count(), func.sum(c.nanodollars)).where(c.month == month)).one()
        return int(row[0]), int(row[1] or 0)

    def _open(self, period: Period) -> tuple[int, int]:
        c = tables.open_attempts.c
        sent = c.reserved_ns.between(period.start_s * 10**9, period.end_s * 10**9 - 1)
        count = amount = 0
        for record in self._db.scalars(select(c.record).where(sent)):
            estimate = (json.loads(record).get("estimate") or {}).get("nanodollars")
            count, amount = count + 1, amount + (estimate or 0)
        return count, amount

    def _settled_after(self, period: Period) -> tuple[int, int]:
        return self._sent_before(period.end_s, period.start_s)

    def _carried(self, period: Period) -> tuple[int, int]:
        return self._sent_before(period.start_s, None)

    def _sent_before(self, moment_s: int, not_before_s: int | None) -> tuple[int, int]:
        """Attempts settled after a moment that were sent before it: all of the first hour, then those that took longer
        than one, which have an index of their own."""
        c = tables.attempts.c
        quarter = moment_s // tables.QUARTER_S
        sent = [c.reserved_ns < moment_s * 10**9]
        if not_before_s is not None:
            sent.append(c.reserved_ns >= not_before_s * 10**9)
        soon = (c.quarter >= quarter, c.quarter < quarter + 4, not_(tables.LATE))
        late = (c.quarter >= quarter, tables.LATE)
        uses = func.sum(case((c.entry == "reversal", -1), else_=1))
        query = select(uses, func.sum(c.nanodollars))
        found = [self._db.execute(query.where(*sent, *when)).one() for when in (soon, late)]
        return sum(int(row[0] or 0) for row in found), sum(int(row[1] or 0) for row in found)

    def _cell(self, dimension: int, number: int, row: Sequence[Any]) -> Cell:
        belonging = self._of(dimension)
        sums = Sums(*map(int, row[:-1]))
        match belonging.known:
            case "estimated":
                sums.estimated = int(row[-1])
            case "unknown":
                sums.unknown = int(row[-1])
            case _:
                sums.observed = int(row[-1])
        return Cell(_day(number), belonging, sums)

    def _of(self, dimension: int) -> Belonging:
        found = self._belongings.get(dimension)
        if found is None:
            if self._raw is None:
                self._raw = {row[0]: row for row in self._db.execute(select(tables.dimensions))}
            found = self._belongings[dimension] = belonging_of(self._raw[dimension]._mapping)
        return found


_day = cache(day_of)


def belonging_of(row: Mapping[str, Any]) -> Belonging:
    """A row of `dimensions`."""
    fields = {_NAMED.get(name, name): row[name] for name in tables.DIMENSIONS}
    fields["tags"] = tuple(sorted(json.loads(row["tags"] or "{}").items()))
    return Belonging(**fields)


@contextmanager
def reading(engine: Engine) -> Iterator[Source]:
    """One snapshot of the ledger."""
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.begin() as db:
        yield Source(db)


def _days_of(quarters: Table, days: Table, period: Period) -> tuple[Table, ColumnElement[Any], Iterable[Any]]:
    """The roll-up to read, the number of the local day of its rows, and which rows are of the period."""
    changes = offsets(period.start_s, period.end_s, period.zone)
    if all(change.offset_s == 0 for change in changes):
        first, end = period.start_s // 86_400, period.end_s // 86_400
        return days, days.c.day, (days.c.day >= first, days.c.day < end)
    quarter = quarters.c.quarter
    first, end = period.start_s // tables.QUARTER_S, period.end_s // tables.QUARTER_S
    return quarters, _local_day(changes), (quarter >= first, quarter < end)


def _local_day(changes: Sequence[Offset]) -> ColumnElement[Any]:
    """`(quarter + offset) / 96`, by the offset that holds then. Written out, since it must be the same expression in
    the list and in GROUP BY, which parameters wouldn't be."""
    ahead = str(changes[-1].offset_s // tables.QUARTER_S)
    cases = [
        f"WHEN quarter < {after.from_s // tables.QUARTER_S} THEN {change.offset_s // tables.QUARTER_S}"
        for change, after in pairwise(changes)
    ]
    offset = f"CASE {' '.join(cases)} ELSE {ahead} END" if cases else ahead
    return literal_column(f"(quarter + {offset}) / {tables.QUARTERS_A_DAY}", Integer)
