"""Reads the roll-ups: the only module of the reports that knows the ledger's tables.

Rules: reads only, in one snapshot. The days of a zone are put together from the roll-ups by day and by quarter. What of
a period's cost stands in another one (an attempt sent before midnight and settled after it) is read from the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from functools import cache
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, Row, Table, case, func, select, text

from proxy.ledger import tables
from proxy.ledger.reporting.cells import Belonging, Cell, Sums
from proxy.ledger.reporting.periods import Edge, Period, day_of, edges, number_of

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
_ONE_DAY: Final = timedelta(days=1)


class Saved(msgspec.Struct, frozen=True):
    """What a policy claims to have saved, and by how many savings."""

    belonging: Belonging
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

    @property
    def connection(self) -> Connection:
        """The snapshot's connection, for those who read rows."""
        return self._db

    def cells(self, period: Period) -> list[Cell]:
        """The sums of every day of the period.

        A local day is UTC's of the same date, and what lies between their beginnings is added or taken away: so the
        roll-up by day is read, and of that by quarter only as many hours a day as the zone is away from UTC.
        """
        sums: dict[tuple[int, date], list[int]] = {}
        columns = [*_COUNTED, "nanodollars"]
        c = tables.days.c
        whole = select(c.dimension, c.day, *(c[name] for name in columns))
        for row in self._db.execute(whole.where(*_within(c.day, period))).all():
            sums[row[0], _day(row[1])] = [*row[2:]]
        for edge in edges(period):
            for row in self._between(tables.quarters, ("dimension",), columns, edge):
                _move(sums, row[0], edge, [int(value) for value in row[1:]], period)
        return [self._cell(dimension, day, row) for (dimension, day), row in sums.items() if any(row)]

    def savings(self, period: Period) -> list[Saved]:
        """What policies claim to have saved in the whole period."""
        keys, measures = ("dimension", "policy", "model", "known"), ("savings", "nanodollars")
        found = self._whole(tables.saving_days, tables.saving_quarters, keys, measures, period)
        return [Saved(self._of(key[0]), *key[1:], *row) for key, row in found]

    def arms(self, period: Period) -> list[Arm]:
        """What the exchanges of the arms of policies with a holdout cost in the whole period."""
        found = self._whole(tables.arm_days, tables.arm_quarters, ("dimension", "policy", "arm"), tables.ARM, period)
        return [Arm(key[1], key[2], self._of(key[0]), *row) for key, row in found]

    def _whole(
        self, days: Table, quarters: Table, keys: Sequence[str], measures: Sequence[str], period: Period
    ) -> list[tuple[tuple[Any, ...], list[int]]]:
        """The sums of a period, not by day: of UTC's days of the same dates, with only the two ends put right."""
        columns = [days.c[key] for key in keys]
        query = select(*columns, *(func.sum(days.c[name]) for name in measures)).group_by(*columns)
        sums: dict[tuple[Any, ...], list[int]] = {}
        _add(sums, self._db.execute(query.where(*_within(days.c.day, period))), len(keys), 1)
        first, *_, last = edges(period)
        _add(sums, self._between(quarters, keys, measures, first), len(keys), first.sign)
        _add(sums, self._between(quarters, keys, measures, last), len(keys), -last.sign)
        return [(key, row) for key, row in sums.items() if any(row)]

    def _between(self, table: Table, keys: Sequence[str], measures: Sequence[str], edge: Edge) -> Iterable[Row[Any]]:
        if edge.first == edge.end:
            return ()
        columns, quarter = [table.c[key] for key in keys], table.c.quarter
        query = select(*columns, *(func.sum(table.c[name]) for name in measures)).group_by(*columns)
        return self._db.execute(query.where(quarter >= edge.first, quarter < edge.end)).all()

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

    def accrued(self, period: Period, closing: Closing | None) -> Accrued:
        """What was sent in the period and not settled in it, and the other way round. Of a closed month: as it stood
        when it, and the month before it, were closed."""
        if closing is not None:
            return Accrued(*self._accruals(period.name), 0, 0, *self._accruals(period.previous.name))
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
        soon = (c.quarter >= quarter, c.quarter < quarter + 4, text(f"NOT ({tables.LATE.text})"))
        late = (c.quarter >= quarter, tables.LATE)
        uses = func.sum(case((c.entry == "reversal", -1), else_=1))
        query = select(uses, func.sum(c.nanodollars))
        found = [self._db.execute(query.where(*sent, *when)).one() for when in (soon, late)]
        return sum(int(row[0] or 0) for row in found), sum(int(row[1] or 0) for row in found)

    def _cell(self, dimension: int, day: date, row: Sequence[int]) -> Cell:
        belonging = self._of(dimension)
        sums = Sums(*row[:-1])
        match belonging.known:
            case "estimated":
                sums.estimated = row[-1]
            case "unknown":
                sums.unknown = row[-1]
            case _:
                sums.observed = row[-1]
        return Cell(day, belonging, sums)

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


def _within(day: ColumnElement[int], period: Period) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return day >= number_of(period.first), day <= number_of(period.last)


def _move(
    sums: dict[tuple[int, date], list[int]], dimension: int, edge: Edge, row: Sequence[int], period: Period
) -> None:
    """What lies on the edge of a day is of that day and not of the one before, or the other way round."""
    for day, sign in ((edge.day, edge.sign), (edge.day - _ONE_DAY, -edge.sign)):
        if period.first <= day <= period.last:
            own = sums.get((dimension, day))
            if own is None:
                sums[dimension, day] = [sign * value for value in row]
            else:
                for index, value in enumerate(row):
                    own[index] += sign * value


def _add(sums: dict[tuple[Any, ...], list[int]], rows: Iterable[Row[Any]], keys: int, sign: int) -> None:
    for row in rows:
        own = sums.setdefault(tuple(row[:keys]), [0] * (len(row) - keys))
        for index, value in enumerate(row[keys:]):
            own[index] += sign * int(value)
