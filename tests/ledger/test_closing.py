"""Closing a month: nothing is counted in it any more, and what it said it says for ever."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine

from proxy.journal import Estimate
from proxy.ledger.closing import Closed, close, hash_of, month
from proxy.ledger.opening import LedgerError
from proxy.ledger.tables import accruals, closings, exchanges, quarters
from tests.ledger.steps import Clock, rows, sound, spent, taken
from tests.ledger.told import SECOND, exchange_id, journal, reserved, settled, whole

DAY = 24 * 3600 * SECOND


def at(day: str, zone: str = "UTC") -> int:
    """A moment in Unix nanoseconds."""
    return int(datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).timestamp()) * SECOND


DECEMBER = at("2026-12-02")


def closed(engine: Engine, name: str = "2026-11", zone: str = "UTC", now_ns: int = DECEMBER) -> Closed:
    return close(engine, month(name, zone), now_ns)


def test_a_month_has_the_length_that_its_zone_gives_it() -> None:
    """Daylight saving and half hours are those of the zone."""
    berlin = month("2026-10", "Europe/Berlin")
    assert berlin.end_quarter - berlin.first_quarter == (31 * 24 + 1) * 4
    kolkata = month("2026-11", "Asia/Kolkata")
    assert kolkata.first_quarter * 900 == at("2026-10-31T18:30") // SECOND
    assert month("2026-12").end_quarter * 900 == at("2027-01-01") // SECOND


@pytest.mark.parametrize("wrong", [("2026-13", "UTC"), ("Nov", "UTC"), ("2026-11", "Mars/Base"), ("2026-11", "..")])
def test_what_is_no_month_is_refused(wrong: tuple[str, str]) -> None:
    """The message says how to write it."""
    with pytest.raises(LedgerError, match="write it like"):
        month(*wrong)


def test_closing_counts_what_is_in_the_month(engine: Engine, home: Path) -> None:
    """Only what happened in the month, in its zone, is in its sums."""
    journal(
        home,
        *whole(exchange_id(1), at("2026-11-01T00:30", "Europe/Berlin"), 1),
        *whole(exchange_id(2), at("2026-11-30T23:59:58", "Europe/Berlin"), 10),
        *whole(exchange_id(3), at("2026-12-01T00:00:01", "Europe/Berlin"), 100),
    )
    taken(engine, home)
    done = closed(engine, zone="Europe/Berlin")
    assert (done.attempts, done.nanodollars, done.accrued) == (2, 11, 0)
    (row,) = rows(engine, closings)
    assert (row.month, row.zone, row.nanodollars) == ("2026-11", "Europe/Berlin", 11)
    sound(engine)


def test_what_comes_late_is_an_adjustment_in_the_open_month(engine: Engine, home: Path) -> None:
    """A closed month's roll-ups don't change; the late row is counted in the first open quarter and says why."""
    journal(home, *whole(exchange_id(1), at("2026-11-10"), 1))
    taken(engine, home)
    closed(engine)
    november = month("2026-11")
    with engine.connect() as db:
        before = hash_of(db, november.first_quarter, november.end_quarter, "2026-11")
    journal(home, *whole(exchange_id(2), at("2026-11-11"), 10), started_ns=DECEMBER)
    taken(engine, home, Clock(DECEMBER + DAY))
    with engine.connect() as db:
        assert hash_of(db, november.first_quarter, november.end_quarter, "2026-11") == before
    late = rows(engine)[1]
    assert (late.entry, late.reference, late.quarter) == ("adjustment", "2026-11", november.end_quarter)
    assert late.at_ns == at("2026-11-11") + SECOND
    assert rows(engine, exchanges)[1].reference == "2026-11"
    assert spent(engine) == 11
    sound(engine)


def test_a_correction_of_a_closed_month_lands_in_the_open_one(engine: Engine, home: Path) -> None:
    """Neither the reversal nor what is so instead is counted where nothing may be counted."""
    clock = Clock(at("2026-11-10T01:00"))
    journal(home, reserved(exchange_id(1), at("2026-11-10")))
    taken(engine, home, clock, grace_s=0)
    closed(engine)
    journal(home, settled(exchange_id(1), at("2026-11-10T00:05")), started_ns=DECEMBER)
    taken(engine, home, Clock(DECEMBER + DAY))
    open_from = month("2026-11").end_quarter
    assert [(row.entry, row.quarter >= open_from) for row in rows(engine)] == [
        ("use", False),
        ("reversal", True),
        ("correction", True),
    ]
    assert rows(engine, closings)[0].nanodollars == 9_000
    assert spent(engine) == 7_000
    sound(engine)


def test_what_was_sent_before_the_end_and_settled_after_it_is_accrued(engine: Engine, home: Path) -> None:
    """Attempts that straddle the end, and those that are still open, are written down at the closing."""
    end = at("2026-12-01")
    journal(
        home,
        *whole(exchange_id(1), at("2026-11-10"), 1),
        reserved(exchange_id(2), end - 60 * SECOND),
        settled(exchange_id(2), end + 60 * SECOND, nanodollars=500),
        reserved(exchange_id(3), end - 30 * SECOND, estimate=Estimate(1, 2, 40)),
        reserved(exchange_id(4), end + 30 * SECOND),
    )
    taken(engine, home, Clock(end + 120 * SECOND))
    done = closed(engine)
    assert (done.nanodollars, done.accrued, done.accrued_nanodollars) == (1, 2, 540)
    assert [(row.exchange, row.nanodollars, row.of_team) for row in rows(engine, accruals)] == [
        (exchange_id(2), 500, "search"),
        (exchange_id(3), 40, "search"),
    ]
    sound(engine)


def test_a_month_that_isnt_over_stays_open(engine: Engine) -> None:
    """Also where it is over somewhere else."""
    with pytest.raises(LedgerError, match="isn't over"):
        closed(engine, now_ns=at("2026-11-30T23:59:59"))
    with pytest.raises(LedgerError, match="isn't over"):
        closed(engine, zone="America/New_York", now_ns=at("2026-12-01T03:00"))


def test_months_are_closed_in_order_and_once(engine: Engine, home: Path) -> None:
    """Each refusal says what to do."""
    journal(home, *whole(exchange_id(1), at("2026-10-10")), *whole(exchange_id(2), at("2026-11-10")))
    taken(engine, home)
    with pytest.raises(LedgerError, match="2026-10 is still open: close it before 2026-11"):
        closed(engine)
    closed(engine, "2026-10")
    with pytest.raises(LedgerError, match="2026-10 is closed already"):
        closed(engine, "2026-10")
    with pytest.raises(LedgerError, match="was closed in UTC"):
        closed(engine, zone="Europe/Berlin")
    closed(engine)
    with pytest.raises(LedgerError, match="2026-11 is closed, so 2026-09 is, too"):
        closed(engine, "2026-09")
    assert [row.month for row in rows(engine, closings)] == ["2026-10", "2026-11"]
    sound(engine)


def test_months_without_anything_may_be_left_out(engine: Engine, home: Path) -> None:
    """What comes for one of them later is late for the next closed one."""
    journal(home, *whole(exchange_id(1), at("2026-11-10")))
    taken(engine, home)
    closed(engine)
    journal(home, *whole(exchange_id(2), at("2026-08-10")), started_ns=DECEMBER)
    taken(engine, home, Clock(DECEMBER + DAY))
    assert [row.entry for row in rows(engine)] == ["use", "adjustment"]


def test_an_empty_month_can_be_closed(engine: Engine) -> None:
    """A closing without rows is a block like any other."""
    done = closed(engine)
    assert (done.attempts, done.nanodollars) == (0, 0)
    assert rows(engine, quarters) == []
    sound(engine)
