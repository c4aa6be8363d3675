"""Exchanges whose segments are gone are told from the ledger as the journal told them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from proxy.journal import find
from proxy.ledger.lookup import last, records_of, told
from proxy.why import why
from tests.ledger.steps import taken
from tests.ledger.told import NOON, SECOND, ended, exchange_id, journal, reserved, saving, settled, whole


def test_an_exchange_is_told_alike(engine: Engine, url: str, home: Path) -> None:
    """`weir why` says the same from the ledger as from the journal, with retries, an open attempt and savings."""
    one = exchange_id(1)
    path = journal(
        home,
        reserved(one),
        settled(one, outcome="failed", status=500, error="server_error", nanodollars=0, usage=None, ttft_ns=None),
        reserved(one, NOON + 2 * SECOND, attempt=2, model="gpt-4o-mini", parent="p", kind="judge", started_by="cas"),
        settled(one, NOON + 3 * SECOND, attempt=2),
        ended(one, NOON + 4 * SECOND, attempts=2, savings=[saving()], saved_nanodollars=500),
        *whole(exchange_id(2)),
    )
    before: dict[str, Any] = why(find(home, one))
    taken(engine, home)
    assert told(home, url, one) == find(home, one)
    path.unlink()
    assert find(home, one) == []
    assert why(told(home, url, one)) == before


def test_one_that_still_runs_is_told_as_far_as_it_came(engine: Engine, url: str, home: Path) -> None:
    """An attempt that isn't settled yet is there, too."""
    path = journal(home, reserved(exchange_id(1)))
    before = why(find(home, exchange_id(1)))
    taken(engine, home)
    path.unlink()
    assert why(told(home, url, exchange_id(1))) == before


def test_segments_that_went_in_between_leave_no_half_told_exchange(engine: Engine, url: str, home: Path) -> None:
    """Where the journal only has the end of it, the ledger tells it all."""
    first, *rest = whole(exchange_id(1))
    path = journal(home, first)
    journal(home, *rest, started_ns=NOON + 1)
    before = why(find(home, exchange_id(1)))
    taken(engine, home)
    path.unlink()
    assert why(told(home, url, exchange_id(1))) == before


def test_nobody_knows_what_never_was(engine: Engine, url: str, home: Path) -> None:
    """An unknown exchange has no records; neither has any in a home without a ledger."""
    assert records_of(engine, "x") == told(home, url, "x") == []
    assert told(home, "sqlite:///none.db", "x") == []
    assert not (home / "none.db").exists()


def test_the_last_exchanges(engine: Engine, home: Path) -> None:
    """Those that ended last, oldest first, with all their records."""
    for number in range(4):
        journal(home, *whole(exchange_id(number), NOON + number), started_ns=NOON + number)
    taken(engine, home)
    found = last(engine, 2)
    assert [record["exchange"] for record in found] == [exchange_id(2)] * 3 + [exchange_id(3)] * 3
