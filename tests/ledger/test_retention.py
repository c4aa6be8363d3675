"""What is let go of, and what isn't: segments of the journal, and rows of months long closed."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Engine

from proxy.ledger.closing import close, month
from proxy.ledger.ingest import Ingest
from proxy.ledger.retention import drop_rows, sweep
from proxy.ledger.tables import attempts, days, exchanges, quarters, segments
from proxy.ledger.verify import verify
from tests.ledger.steps import Clock, all_of, rows, spent, taken, tamper
from tests.ledger.told import NOON, SECOND, Segment, exchange_id, journal, reserved, settled, whole

DAY = 24 * 3600 * SECOND
DECEMBER = NOON + 31 * DAY


def swept(ingest: Ingest, engine: Engine, home: Path, keep_s: float = 0, keep_bytes: int = 2**30) -> list[str]:
    """A sweep a day after everything was written."""
    for path in (home / "journal").glob("*.journal"):
        os.utime(path, ns=(NOON, NOON))
    return sweep(engine, home, ingest.host, ingest.offsets, NOON + DAY, keep_s, keep_bytes)


def test_a_segment_goes_once_all_of_it_is_in_the_ledger(engine: Engine, home: Path) -> None:
    """Not before, and the ledger remembers that it went."""
    path = journal(home, *whole(exchange_id(1)))
    ingest = Ingest(engine, home, clock=Clock())
    assert swept(ingest, engine, home) == []
    all_of(ingest)
    assert swept(ingest, engine, home, keep_s=2 * 24 * 3600) == [], "too young"
    assert swept(ingest, engine, home) == [path.name]
    assert not path.exists()
    assert rows(engine, segments)[0].removed_ns == NOON + DAY
    assert all_of(ingest).events == 0


def test_a_segment_in_use_stays(engine: Engine, home: Path) -> None:
    """Its worker may write there any moment."""
    segment = Segment(home)
    segment.write(*whole(exchange_id(1)))
    ingest = Ingest(engine, home, clock=Clock())
    all_of(ingest)
    assert swept(ingest, engine, home) == []
    segment.leave()
    assert swept(ingest, engine, home) == [segment.path.name]


def test_a_segment_with_an_open_attempt_stays(engine: Engine, home: Path) -> None:
    """What announced an attempt is kept until that is settled, wherever that is told."""
    first = journal(home, reserved(exchange_id(1)))
    ingest = Ingest(engine, home, clock=Clock())
    all_of(ingest)
    assert swept(ingest, engine, home) == []
    second = journal(home, settled(exchange_id(1)), started_ns=NOON + 1)
    all_of(ingest)
    assert swept(ingest, engine, home) == [first.name, second.name]


def test_too_many_bytes_let_the_oldest_go_sooner(engine: Engine, home: Path) -> None:
    """Only as many as must, and only what may go."""
    paths = [journal(home, *whole(exchange_id(n)), started_ns=NOON + n) for n in range(3)]
    ingest = Ingest(engine, home, clock=Clock())
    all_of(ingest)
    size = paths[0].stat().st_size
    assert swept(ingest, engine, home, keep_s=10 * 24 * 3600, keep_bytes=2 * size) == [paths[0].name]


def test_old_rows_of_closed_months_go_and_all_else_stays(engine: Engine, home: Path) -> None:
    """Sums don't change, the chain holds across the cut, and the open month keeps its rows."""
    for number, at in enumerate((NOON, NOON + DAY, DECEMBER)):
        journal(home, *whole(exchange_id(number), at), started_ns=NOON + number)
        taken(engine, home)
    assert drop_rows(engine, 10, DECEMBER) == 0, "no month is closed"
    close(engine, month("2026-11"), DECEMBER)
    before = rows(engine, quarters), rows(engine, days)
    assert drop_rows(engine, 40, DECEMBER) == 0, "too young"
    assert drop_rows(engine, 10, DECEMBER) == 4
    assert (rows(engine, quarters), rows(engine, days)) == before
    for table in (attempts, exchanges):
        assert [row.exchange for row in rows(engine, table)] == [exchange_id(2)]
    found = verify(engine)
    assert (found.problems, found.dropped, found.rows) == ([], 2, 2)
    assert spent(engine) == 21_000


def test_what_was_dropped_is_still_verified_by_its_closing(engine: Engine, home: Path) -> None:
    """Nobody can change the sums of a month just because its rows are gone."""
    journal(home, *whole(exchange_id(1)))
    taken(engine, home)
    close(engine, month("2026-11"), DECEMBER)
    assert drop_rows(engine, 1, DECEMBER) == 2
    assert rows(engine, attempts) == []
    tamper(engine, "UPDATE quarters SET nanodollars = 1 WHERE attempts = 1")
    assert verify(engine).problems == ["2026-11: its roll-ups or accruals were changed after it was closed"]
