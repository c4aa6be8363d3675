"""Whether the ledger is what it was: the chain against the rows, the roll-ups against the rows, the closings.

Rules: reads only, in one view of the database. What it finds is told in the order of the chain, the first difference
first, by block, row, time, or the key of a roll-up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from proxy.ledger import chain, rollups
from proxy.ledger.closing import digest_of, hash_of
from proxy.ledger.labels import id_of
from proxy.ledger.migrating import forms
from proxy.ledger.tables import QUARTER_S, QUARTERS_A_DAY, attempts, blocks, closings, dimensions, exchanges, savings

_ROWS = (attempts, exchanges, savings)


@dataclass(slots=True)
class Verified:
    """What was looked at, and what is wrong. `head` is the hash that the whole ledger comes down to."""

    blocks: int = 0
    dropped: int = 0  # blocks whose rows are gone, by retention
    rows: int = 0
    months: int = 0
    head: str = chain.GENESIS
    problems: list[str] = field(default_factory=list)


def verify(engine: Engine, most: int = 20) -> Verified:
    """Looks at everything; stops looking after `most` problems."""
    found = Verified()
    with engine.connect() as db:
        if db.dialect.name == "postgresql":
            db.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for problem in _problems(db, found):
            found.problems.append(problem)
            if len(found.problems) >= most:
                break
    return found


def _problems(db: Connection, found: Verified) -> Iterator[str]:
    since = 0
    expected = chain.Head(0, 0, chain.GENESIS)
    for row in db.execution_options(stream_results=True).execute(select(blocks).order_by(blocks.c.number)):
        yield from _block(db, expected, row, found)
        if row.dropped_ns is not None:
            since = max(since, (row.last_quarter or 0) + 1)
            found.dropped += 1
        expected = chain.Head(row.number, row.last_seq, row.hash)
        found.blocks += 1
    found.head = expected.hash
    yield from _beyond(db, expected.last_seq)
    yield from _dimensions(db)
    yield from _closings(db, found)
    for one in rollups.differences(db, since):
        yield _told(one)


def _block(db: Connection, expected: chain.Head, row: Any, found: Verified) -> Iterator[str]:
    name = f"block {row.number} of {_time(row.at_ns / 1e9)} (rows {row.first_seq} to {row.last_seq})"
    if row.number != expected.number + 1:
        yield f"{name}: follows block {expected.number}, blocks between are missing"
    if row.previous != expected.hash or row.first_seq != expected.last_seq + 1:
        yield f"{name}: isn't chained to the block before"
    block = chain.Block(*(getattr(row, column) for column in chain.Block._fields))
    if block.hash != row.hash:
        yield f"{name}: was changed itself"
    if row.kind == "close":
        yield from _closing(db, row, name)
    elif row.dropped_ns is None:
        parts = [_rows(db, table, row) for table in _ROWS]
        count = sum(map(len, parts))
        found.rows += count
        if count != row.last_seq - row.first_seq + 1:
            yield f"{name}: has {count} rows instead of {row.last_seq - row.first_seq + 1}; {_gap(parts, row)}"
        elif row.digest not in (chain.digest_of(*form) for form in forms(parts)):
            yield f"{name}: a row was changed"


def _rows(db: Connection, table: Any, row: Any) -> list[tuple[Any, ...]]:
    query = select(table).where(table.c.seq.between(row.first_seq, row.last_seq)).order_by(table.c.seq)
    return [tuple(one) for one in db.execute(query)]


def _gap(parts: list[list[tuple[Any, ...]]], row: Any) -> str:
    seen = {one[0] for part in parts for one in part}
    missing = next((seq for seq in range(row.first_seq, row.last_seq + 1) if seq not in seen), None)
    return "a row is there twice" if missing is None else f"row {missing} is missing"


def _closing(db: Connection, row: Any, name: str) -> Iterator[str]:
    closing = db.execute(select(closings).where(closings.c.block == row.number)).first()
    if closing is None:
        yield f"{name}: the closing is missing"
    elif digest_of(closing._asdict()) != row.digest:
        yield f"{name}: the closing of {closing.month} was changed"


def _beyond(db: Connection, last_seq: int) -> Iterator[str]:
    for table in _ROWS:
        beyond = db.scalar(select(func.min(table.c.seq)).where(table.c.seq > last_seq))
        if beyond is not None:
            yield f"row {beyond} of {table.name} is in no block"


def _dimensions(db: Connection) -> Iterator[str]:
    for row in db.execute(select(dimensions)):
        id, *values = row
        if id_of(tuple(values)) != id:
            yield f"dimension {id} was changed"
    for table in _ROWS:
        query = select(table.c.seq).outerjoin(dimensions, table.c.dimension == dimensions.c.id)
        lost = db.scalar(query.where(dimensions.c.id.is_(None)).order_by(table.c.seq).limit(1))
        if lost is not None:
            yield f"row {lost} of {table.name} has a dimension that is missing"


def _closings(db: Connection, found: Verified) -> Iterator[str]:
    for row in db.execute(select(closings).order_by(closings.c.end_quarter)):
        found.months += 1
        if hash_of(db, row.first_quarter, row.end_quarter, row.month) != row.rolled:
            yield f"{row.month}: its roll-ups or accruals were changed after it was closed"


def _told(one: rollups.Difference) -> str:
    period, *rest = one.key
    seconds = period * QUARTER_S * (QUARTERS_A_DAY if one.table.endswith("days") else 1)
    stands = "nothing" if one.stands is None else one.stands
    right = "nothing" if one.summed is None else one.summed
    return f"{one.table} of {_time(seconds)}, {rest}: says {stands}, its rows sum to {right}"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
