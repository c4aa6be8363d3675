"""Closing a month: from then on nothing is counted in it, and its report is the same for ever.

Rules:
1. Months are closed in order, in one time zone, once they are over; what comes later for a closed month is counted in
   the first open quarter hour, and says so (`adjustment`).
2. What was sent in the month and not settled when it ended is written down (`accruals`) as it stands at the closing.
3. The closing is a block of the chain: its digest covers the month's roll-ups and accruals, so that they can be
   verified when the rows are long gone.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
from sqlalchemy import Connection, Engine, func, select

from proxy.ledger import chain, rollups
from proxy.ledger.labels import Accounts, Labels
from proxy.ledger.opening import LedgerError
from proxy.ledger.records import Settled, decode_reserved
from proxy.ledger.reporting.budgets import Budget
from proxy.ledger.reporting.kept import keep
from proxy.ledger.tables import (
    QUARTER_S,
    accruals,
    attempts,
    closings,
    dimensions,
    exchanges,
    open_attempts,
    quarters,
)

QUARTER_NS: Final = QUARTER_S * 10**9


class ClosedAlready(LedgerError):  # noqa: N818
    """The month is closed."""


class Watermark:
    """The closed months. `quarter` is the first open one."""

    def __init__(self, closed: Iterable[tuple[str, int]]) -> None:
        self._months = sorted((end, month) for month, end in closed)
        self._ends = [end for end, _ in self._months]
        self.quarter = self._ends[-1] if self._ends else 0

    def month_of(self, at_ns: int) -> str | None:
        """The closed month of a moment, None where it is open; what came before the first counts to the first."""
        index = bisect_right(self._ends, at_ns // QUARTER_NS)
        return self._months[index][1] if index < len(self._months) else None


def watermark(db: Connection) -> Watermark:
    """The closed months as they stand."""
    return Watermark(db.exec_driver_sql("SELECT month, end_quarter FROM closings").fetchall())


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month in a time zone."""

    name: str
    zone: str
    first_quarter: int
    end_quarter: int


def month(name: str, zone: str = "UTC") -> Month:
    """The month called `2026-11`. Raises LedgerError."""
    found = re.fullmatch(r"(\d{4})-(\d\d)", name)
    if not found or not 1 <= int(found[2]) <= 12:
        raise LedgerError(f"{name} is no month: write it like 2026-11")
    try:
        where = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise LedgerError(f"{zone} is no time zone: write it like Europe/Berlin") from None
    year, number = int(found[1]), int(found[2])
    first = datetime(year, number, 1, tzinfo=where)
    end = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=where)
    return Month(name, zone, int(first.timestamp()) // QUARTER_S, int(end.timestamp()) // QUARTER_S)


@dataclass(frozen=True, slots=True)
class Closed:
    """A month as it was closed."""

    month: Month
    attempts: int
    nanodollars: int
    accrued: int
    accrued_nanodollars: int
    hash: str


def close(
    engine: Engine,
    wanted: Month,
    now_ns: int,
    accounts: Accounts | None = None,
    budgets: tuple[Budget, ...] = (),
) -> Closed:
    """Closes a month; the journal must have been ingested before. Raises LedgerError where the rules forbid it.

    `budgets` are those that its report will have from then on.
    """
    with engine.begin() as db:
        head = chain.head(db)
        _may_close(db, wanted, now_ns)
        accrued = _accrue(db, wanted, accounts or Accounts())
        rolled = hash_of(db, wanted.first_quarter, wanted.end_quarter, wanted.name)
        sums = db.execute(
            select(func.coalesce(func.sum(quarters.c.attempts), 0), func.coalesce(func.sum(quarters.c.nanodollars), 0))
            .where(quarters.c.quarter >= wanted.first_quarter)
            .where(quarters.c.quarter < wanted.end_quarter)
        ).one()
        values: dict[str, Any] = {
            "month": wanted.name,
            "zone": wanted.zone,
            "first_quarter": wanted.first_quarter,
            "end_quarter": wanted.end_quarter,
            "closed_ns": now_ns,
            "block": head.number + 1,
            "last_seq": head.last_seq,
            "attempts": int(sums[0]),
            "nanodollars": int(sums[1]),
            "rolled": rolled,
            "accrued_nanodollars": sum(one or 0 for one in accrued),
        }
        db.execute(closings.insert().values(**values))
        keep(db, wanted.name, budgets)
        end = chain.append(db, head, "close", now_ns, digest_of(values))
    return Closed(
        wanted, values["attempts"], values["nanodollars"], len(accrued), values["accrued_nanodollars"], end.hash
    )


def digest_of(closing: dict[str, Any]) -> str:
    """The digest of a closing's block."""
    return sha256(orjson.dumps([closing[column.name] for column in closings.columns])).hexdigest()


def hash_of(db: Connection, first_quarter: int, end_quarter: int, name: str) -> str:
    """The hash of a month's roll-ups and accruals."""
    whole = sha256()
    for row in rollups.rows_between(db, first_quarter, end_quarter):
        whole.update(orjson.dumps(row))
    standing = db.execute(select(accruals).where(accruals.c.month == name)).fetchall()
    for one in sorted(tuple(row) for row in standing):
        whole.update(orjson.dumps(one))
    return whole.hexdigest()


def _may_close(db: Connection, wanted: Month, now_ns: int) -> None:
    if now_ns // QUARTER_NS < wanted.end_quarter:
        raise LedgerError(f"{wanted.name} isn't over in {wanted.zone}")
    before = db.execute(select(closings).order_by(closings.c.end_quarter.desc())).first()
    if before is not None:
        if db.scalar(select(closings.c.month).where(closings.c.month == wanted.name)):
            raise ClosedAlready(f"{wanted.name} is closed already")
        if before.zone != wanted.zone:
            raise LedgerError(f"{before.month} was closed in {before.zone}: close {wanted.name} there, too")
        if wanted.end_quarter <= before.end_quarter:
            raise LedgerError(f"{before.month} is closed, so {wanted.name} is, too")
    since = before.end_quarter if before is not None else None
    first = _first_row(db, since)
    if first is not None and first < wanted.first_quarter:
        earlier = datetime.fromtimestamp(first * QUARTER_S, ZoneInfo(wanted.zone))
        raise LedgerError(f"{earlier:%Y-%m} is still open: close it before {wanted.name}")


def _first_row(db: Connection, since: int | None) -> int | None:
    found = [
        db.scalar(
            select(func.min(table.c.quarter)).where(table.c.quarter >= (since if since is not None else -(2**40)))
        )
        for table in (attempts, exchanges)
    ]
    return min((int(one) for one in found if one is not None), default=None)


def _accrue(db: Connection, wanted: Month, accounts: Accounts) -> list[int | None]:
    """Writes down what was sent before the end of the month and settled after it, or not yet."""
    end_ns = wanted.end_quarter * QUARTER_NS
    found = [
        (row.exchange, row.attempt, row.reserved_ns, row.dimension, row.nanodollars)
        for row in db.execute(
            select(attempts)
            .where(attempts.c.version == 0, attempts.c.quarter >= wanted.end_quarter)
            .where(attempts.c.reserved_ns < end_ns, attempts.c.reserved_ns >= wanted.first_quarter * QUARTER_NS)
            .where(attempts.c.at_ns >= end_ns)
        )
    ]
    labels = Labels(accounts)
    for (record,) in db.execute(select(open_attempts.c.record).where(open_attempts.c.reserved_ns < end_ns)):
        reserved = decode_reserved(record)
        guess = Settled(at=0, exchange=reserved.exchange, attempt=reserved.attempt, known="estimated")
        dimension = labels.of_attempt(reserved, guess)
        found.append((reserved.exchange, reserved.attempt, reserved.at, dimension, reserved.estimate.nanodollars))
    if labels.new:
        known = {id for (id,) in db.execute(select(dimensions.c.id).where(dimensions.c.id.in_(labels.new)))}
        names = [column.name for column in dimensions.columns]
        fresh = [dict(zip(names, (id, *values), strict=True)) for id, values in labels.new.items() if id not in known]
        if fresh:
            db.execute(dimensions.insert(), fresh)
    names = [column.name for column in accruals.columns]
    if found:
        db.execute(accruals.insert(), [dict(zip(names, (wanted.name, *one), strict=True)) for one in found])
    return [one[-1] for one in found]
