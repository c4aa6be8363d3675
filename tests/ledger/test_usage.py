"""What a tenant used, from the ledger and the rest of the journal."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from proxy.ledger import usage
from proxy.ledger.ingest import Ingest
from proxy.supervisor.usage import TenantUsage
from tests.ledger.steps import Clock, all_of
from tests.ledger.told import NOON, SECOND, Segment, ended, exchange_id, reserved, settled, whole

DAY = 24 * 3600 * SECOND
TODAY = datetime.fromtimestamp((NOON + DAY) / SECOND, UTC)


def test_each_record_is_counted_once_wherever_it_is(engine: Engine, url: str, home: Path) -> None:
    """After every record, taken in or not, the sums are the same as those of the journal alone."""
    segment = Segment(home)
    ingest = Ingest(engine, home, clock=Clock(NOON + 2 * DAY))
    records = [
        *whole(exchange_id(1), NOON),
        reserved(exchange_id(2), NOON + DAY),
        settled(exchange_id(2), NOON + DAY),
        reserved(exchange_id(2), NOON + DAY, attempt=3),
        settled(exchange_id(2), NOON + DAY, attempt=3, usage=None, nanodollars=0, outcome="failed"),  # not billed
        reserved(exchange_id(2), NOON + DAY, attempt=2),
        settled(exchange_id(2), NOON + DAY + 1, attempt=2, nanodollars=None, known="unpriced"),
        ended(exchange_id(2), NOON + DAY + 2, nanodollars=None),
        *whole(exchange_id(3), NOON + DAY, tenant="other"),
    ]
    taken = TenantUsage(home, lambda: TODAY, ledger=url)
    for count, record in enumerate(records):
        segment.write(record)
        before = taken.of("t1")
        if count % 2:
            all_of(ingest)
            assert taken.of("t1") == before
    assert taken.of("t1") == {
        "zone": "UTC",
        "today": {"exchanges": 1, "input_tokens": 240, "output_tokens": 80, "nanodollars": 7_000, "unpriced": 1},
        "month": {"exchanges": 2, "input_tokens": 360, "output_tokens": 120, "nanodollars": 14_000, "unpriced": 1},
    }
    assert taken.of("nobody")["month"]["exchanges"] == 0


def test_segments_that_are_gone_still_count(engine: Engine, url: str, home: Path) -> None:
    """The ledger has them."""
    segment = Segment(home)
    segment.write(*whole(exchange_id(1), NOON))
    all_of(Ingest(engine, home, clock=Clock()))
    segment.path.unlink()
    assert TenantUsage(home, lambda: TODAY, ledger=url).of("t1")["month"]["nanodollars"] == 7_000


def test_a_ledger_far_behind_leaves_it_to_the_journal(
    engine: Engine, url: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is the same; it isn't read anew each time."""
    monkeypatch.setattr(usage, "MOST_BYTES", 10)
    Segment(home).write(*whole(exchange_id(1), NOON))
    assert TenantUsage(home, lambda: TODAY, ledger=url).of("t1")["month"]["nanodollars"] == 7_000


@pytest.mark.parametrize("address", ["sqlite:///none.db", "postgresql://weir@127.0.0.1:9/none"])
def test_without_a_ledger_the_journal_tells(home: Path, address: str) -> None:
    """None yet, or one that is away."""
    Segment(home).write(*whole(exchange_id(1), NOON))
    assert TenantUsage(home, lambda: TODAY, ledger=address).of("t1")["month"]["exchanges"] == 1
