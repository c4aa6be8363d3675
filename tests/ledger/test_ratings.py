"""Ratings in either kind of ledger: the last word counts, whatever order they come in; retention drops them."""

from __future__ import annotations

import time
from pathlib import Path

from sqlalchemy import Engine, func, select

from proxy.journal import Journal, Rated
from proxy.ledger.ingest import Ingest
from proxy.ledger.ratings import ratings
from proxy.ledger.retention import drop_rows
from proxy.ledger.tables import feedback

DAY_NS = 86_400 * 10**9


def rated(at: int, rating: float, key: str | None = "k", decisions: tuple[str, ...] = ()) -> Rated:
    about = ("t", key, None, "docs", None, "chat.completions", "gpt-4o", "gpt-4o-mini")
    return Rated(at, "x1", 0, *about, rating, "50 % \0 okay", list(decisions))


def test_the_last_word(engine: Engine, home: Path) -> None:
    """One row a key; an older word that comes later changes nothing."""
    now = time.time_ns()
    for records in ([rated(now, 0.2), rated(now + 2, 0.9, decisions=("cache=hit",))], [rated(now + 1, 0.0)]):
        journal = Journal(home / "journal", 0)
        for record in (*records, rated(now, 0.4, key=None, decisions=("a=b", "a=b", "c=d"))):
            journal.append(record)
        journal.close()
        assert Ingest(engine, home).step().rejected == []
    assert [(one.count, one.bad, round(one.mean, 3)) for one in ratings(engine, "team")] == [(2, 1, 0.65)]
    assert {one.value for one in ratings(engine, "policy")} == {None, "a=b", "c=d"}
    drop_rows(engine, 1, now + 2 * DAY_NS)
    with engine.connect() as db:
        assert db.scalar(select(func.count()).select_from(feedback)) == 0
