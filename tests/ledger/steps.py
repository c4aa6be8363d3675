"""Small steps that tests of the ledger share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select, text

from proxy.ledger.ingest import Done, Ingest
from proxy.ledger.tables import attempts, dimensions, quarters
from proxy.ledger.verify import verify
from tests.ledger.told import NOON, SECOND

LATER = NOON + 3600 * SECOND


class Clock:
    """A clock that stands until it is set."""

    def __init__(self, now_ns: int = LATER) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns


def all_of(ingest: Ingest) -> Done:
    """Steps until nothing is left; what they did in all."""
    total = Done()
    while True:
        done = ingest.step()
        for name in ("events", "rows", "duplicates", "corrections", "resolved"):
            setattr(total, name, getattr(total, name) + getattr(done, name))
        total.rejected += done.rejected
        total.torn += done.torn
        if done.caught_up:
            return total


def taken(engine: Engine, home: Path, clock: Clock | None = None, **options: Any) -> Done:
    """What a new ingest does with what is there."""
    return all_of(Ingest(engine, home, clock=clock or Clock(), **options))


def rows(engine: Engine, table: Any = attempts) -> list[Any]:
    """All rows of a table, with their dimensions where they have some."""
    with engine.connect() as db:
        query = select(table).order_by(*table.primary_key)
        if "dimension" in table.c:
            about = [c.label(f"of_{c.name}") for c in dimensions.columns]
            query = select(table, *about).join_from(table, dimensions, table.c.dimension == dimensions.c.id)
            query = query.order_by(*table.primary_key)
        return [*db.execute(query)]


def spent(engine: Engine, table: Any = quarters) -> int:
    """The sum over a roll-up."""
    with engine.connect() as db:
        return int(db.scalar(select(func.coalesce(func.sum(table.c.nanodollars), 0))))


def sound(engine: Engine) -> None:
    """The chain and the roll-ups hold."""
    assert verify(engine).problems == []


def tamper(engine: Engine, statement: str) -> None:
    """What somebody with all rights does to the database by hand."""
    with engine.begin() as db:
        on = " ON attempts" if db.dialect.name == "postgresql" else ""
        db.execute(text(f"DROP TRIGGER IF EXISTS attempts_fixed{on}"))
        assert db.execute(text(statement)).rowcount > 0
