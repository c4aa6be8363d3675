"""A ledger that an earlier version made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Engine, Table, select, text

from proxy.ledger import chain
from proxy.ledger.opening import LedgerError, current, engine_of, open_ledger
from proxy.ledger.tables import VERSION, attempts, blocks, exchanges, feedback, meta, savings
from proxy.ledger.verify import verify
from tests.ledger.steps import LATER, Clock, rows, spent, taken
from tests.ledger.told import SECOND, Segment, ended, exchange_id, reserved, saving, settled

_ROWS = (attempts, exchanges, savings)
_OLD: dict[Table, list[Column[Any]]] = {
    table: [column for column in table.c if column.name != "policies_hash" or table is exchanges] for table in _ROWS
}


def old(engine: Engine) -> None:
    """Makes it what version 1 would have written: without two columns and a table, and chained without them."""
    with engine.begin() as db:
        db.execute(meta.update().values(value="1"))
        feedback.drop(db)
        for name in ("attempts", "savings"):
            db.execute(text(f"ALTER TABLE {name} DROP COLUMN policies_hash"))
        previous = chain.GENESIS
        for row in db.execute(select(blocks).order_by(blocks.c.number)).fetchall():
            within = [table.c.seq.between(row.first_seq, row.last_seq) for table in _ROWS]
            queries = [select(*_OLD[t]).where(where).order_by(t.c.seq) for t, where in zip(_ROWS, within, strict=True)]
            parts = [[tuple(one) for one in db.execute(query)] for query in queries]
            told = {**row._asdict(), "previous": previous, "digest": chain.digest_of(*parts)}
            block = chain.Block(*(told[name] for name in chain.Block._fields))
            changed = {"previous": previous, "digest": block.digest, "hash": block.hash}
            db.execute(blocks.update().where(blocks.c.number == row.number).values(changed))
            previous = block.hash
    engine.dispose()


@pytest.fixture
def first(engine: Engine, home: Path) -> Iterator[Segment]:
    """A journal of which one exchange is in a ledger of version 1."""
    journal, one = Segment(home), exchange_id(1)
    journal.write(reserved(one), settled(one), ended(one, policies_hash="h1", savings=[saving()]))
    taken(engine, home)
    old(engine)
    yield journal


def test_it_is_brought_to_this_version(
    first: Segment, url: str, home: Path, reopen: Callable[[], Engine], engine: Engine
) -> None:
    """Its rows stay and verify, what comes is added behind them, and a reader before that says who will do it."""
    with pytest.raises(LedgerError, match=r"version 1.*`weir serve` brings it"):
        current(engine_of(url, home, reading=True))
    again = reopen()
    current(again)
    assert (verify(again).problems, len(rows(again)), spent(again)) == ([], 1, 7_000)
    two = exchange_id(2)
    first.write(reserved(two, policies_hash="h2"), settled(two), ended(two, policies_hash="h2", savings=[saving()]))
    taken(again, home, Clock(LATER + SECOND))
    assert [row.policies_hash for row in rows(again)] == [None, "h2"]
    assert [row.policies_hash for row in rows(again, savings)] == ["", "h2"]
    assert (verify(reopen()).problems, spent(again)) == ([], 14_000)


@pytest.mark.parametrize("change", ["policies_hash = 'forged'", "nanodollars = nanodollars - 1"])
def test_old_rows_are_still_guarded(first: Segment, reopen: Callable[[], Engine], change: str) -> None:
    """No row of the earlier version can be changed without being found out, nor can what it never said be put in."""
    again = reopen()
    with pytest.raises(Exception, match="append-only"), again.begin() as db:
        db.execute(text(f"UPDATE attempts SET {change}"))
    with again.begin() as db:
        where = " ON attempts" if db.dialect.name == "postgresql" else ""
        db.execute(text(f"DROP TRIGGER attempts_fixed{where}"))
        db.execute(text(f"UPDATE attempts SET {change}"))
    assert any("a row was changed" in problem for problem in verify(again).problems)


def test_nothing_is_done_by_halves(first: Segment, url: str, home: Path, reopen: Callable[[], Engine]) -> None:
    """Where a step fails, the ledger is what it was, and can be opened once the reason is gone."""
    with engine_of(url, home).begin() as db:
        db.execute(text("ALTER TABLE savings ADD COLUMN policies_hash TEXT"))
    with pytest.raises(Exception, match="policies_hash"):
        open_ledger(url, home)
    with engine_of(url, home).begin() as db:
        assert db.scalar(select(meta.c.value)) == "1"
        db.execute(text("ALTER TABLE savings DROP COLUMN policies_hash"))
    assert verify(reopen()).problems == []


def test_a_newer_ledger_is_left_alone(engine: Engine, url: str, home: Path) -> None:
    """Neither written nor read: the error says what can be done."""
    newer = str(int(VERSION) + 1)
    with engine.begin() as db:
        db.execute(meta.update().values(value=newer))
    for attempt in (lambda: open_ledger(url, home), lambda: current(engine_of(url, home, reading=True))):
        with pytest.raises(LedgerError, match=f"version {newer}, this program knows up to {VERSION}: run the version"):
            attempt()
