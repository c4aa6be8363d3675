"""Every row says under which policies it came to be."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine

from proxy.ledger.lookup import reserved_of
from proxy.ledger.tables import exchanges, savings
from tests.ledger.steps import rows, taken
from tests.ledger.told import Segment, ended, exchange_id, reserved, saving, settled


def test_on_every_row(engine: Engine, home: Path) -> None:
    """The attempt has the hash that it was sent under, also where its exchange never ended; a saving its exchange's."""
    one, cut = exchange_id(1), exchange_id(2)
    journal = Segment(home)
    journal.write(reserved(one, policies_hash="h1"), settled(one), ended(one, policies_hash="h1", savings=[saving()]))
    journal.write(reserved(cut, policies_hash="h2"), settled(cut))
    journal.leave()
    taken(engine, home)
    assert {row.exchange: row.policies_hash for row in rows(engine)} == {one: "h1", cut: "h2"}
    assert [row.policies_hash for table in (exchanges, savings) for row in rows(engine, table)] == ["h1", "h1"]
    with engine.connect() as db:
        assert reserved_of(db, cut, 1, 0)[0].policies_hash == "h2"
