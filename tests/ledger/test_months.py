"""Months that are closed by themselves: when, for whom they wait, and that it is done once whoever dies."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from proxy.audit import AuditLog
from proxy.ledger import chain
from proxy.ledger.closing import close, month
from proxy.ledger.ingest import Ingest
from proxy.ledger.keeping import Closing
from proxy.ledger.labels import Accounts
from proxy.ledger.months import Months
from proxy.ledger.reporting.budgets import Budget, Limit
from proxy.ledger.reporting.kept import kept
from proxy.ledger.tables import closings
from tests.ledger.steps import Clock, all_of, rows, sound
from tests.ledger.test_closing import at
from tests.ledger.told import SECOND, Segment, exchange_id, journal, reserved, settled, whole

BUDGETS = (Budget("spend", ("team",), (Limit("usd", 10**9, 0),)),)
ASKED = Closing(5 * 86_400.0, "Europe/Berlin", BUDGETS)
NOVEMBER = at("2026-11-10")
DUE = at("2026-12-06", "Europe/Berlin")
SQLITE = pytest.mark.parametrize("url", ["sqlite:///ledger.db"])  # what is no matter of the database's


class Host:
    """A host's keeper of books: one that takes in its journal, and then looks for months."""

    def __init__(self, engine: Engine, home: Path, clock: Clock) -> None:
        home.mkdir(exist_ok=True)
        self.home, self.clock = home, clock
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.ingest = Ingest(engine, home, clock=clock)
        self.months = Months(engine, home, lambda level, event, said: self.logged.append((event, said)), clock)
        self.months.begin()

    def turn(self, asked: Closing | None = ASKED) -> None:
        all_ns = self.clock()
        all_of(self.ingest)
        self.months.turn(asked, Accounts(), all_ns)

    @property
    def did(self) -> list[str]:
        """What the audit log says."""
        return [f"{entry.who} {entry.act} {entry.subject}" for entry in AuditLog(self.home).entries()]


@pytest.fixture
def clock() -> Clock:
    """It is November, in all of the fleet."""
    return Clock(NOVEMBER + 60 * SECOND)


@pytest.fixture
def hosts(engine: Engine, home: Path, clock: Clock) -> tuple[Host, Host]:
    """Two hosts that had something to do in November."""
    both = Host(engine, home / "one", clock), Host(engine, home / "two", clock)
    for number, host in enumerate(both):
        journal(host.home, *whole(exchange_id(number, "abcdefabcde" + str(number)), NOVEMBER))
        host.turn()
    return both


def closed(engine: Engine) -> list[str]:
    return [row.month for row in rows(engine, closings)]


def test_a_month_is_closed_so_long_after_its_end(engine: Engine, hosts: tuple[Host, Host], clock: Clock) -> None:
    """Not a second before, in the zone of the files; once; the log, the audit log and its budgets are there."""
    one, two = hosts
    for clock.now_ns in (at("2026-12-01"), DUE - SECOND):
        one.turn()
        two.turn()
    assert closed(engine) == []
    clock.now_ns = DUE
    one.turn(None)
    assert closed(engine) == []
    for host in (one, two, one):
        host.turn()
    assert [(row.month, row.zone, row.attempts) for row in rows(engine, closings)] == [("2026-11", "Europe/Berlin", 2)]
    assert (one.did, two.did) == (["weir close 2026-11"], [])
    assert [event for event, _ in one.logged + two.logged] == ["month closed"]
    assert (one.months.closed, two.months.closed) == (1, 0)
    with engine.connect() as db:
        assert kept(db, "2026-11") == BUDGETS
    sound(engine)


@SQLITE
def test_months_are_closed_in_order_to_the_last(engine: Engine, home: Path, clock: Clock) -> None:
    """Those that had nothing, too; in the zone in which the first was closed, whatever the files say now."""
    host = Host(engine, home, clock)
    journal(home, *whole(exchange_id(1), at("2026-08-31T23:30")))
    clock.now_ns = DUE
    for asked in (ASKED, *[Closing(ASKED.after_s, "UTC")] * 4):
        host.turn(asked)
    assert [(row.month, row.zone) for row in rows(engine, closings)] == [
        (name, "Europe/Berlin") for name in ("2026-09", "2026-10", "2026-11")
    ]
    sound(engine)


@SQLITE
def test_it_waits_for_a_host_that_is_behind(engine: Engine, hosts: tuple[Host, Host], clock: Clock) -> None:
    """It is named once, with what to do; when it has caught up, all that it had is in the month."""
    one, two = hosts
    journal(two.home, *whole(exchange_id(7), NOVEMBER + 3600 * SECOND), started_ns=NOVEMBER + SECOND)
    clock.now_ns = DUE
    for _ in range(3):
        one.turn()
    assert closed(engine) == []
    assert len(one.months.waits_for) == 1
    assert [(event, said["month"]) for event, said in one.logged] == [("month waits", "2026-11")]
    two.turn()
    one.turn()
    assert [(row.month, row.attempts) for row in rows(engine, closings)] == [("2026-11", 3)]
    assert one.months.waits_for == ()
    assert one.did + two.did == ["weir close 2026-11"]


@SQLITE
def test_a_host_that_ended_is_not_waited_for(engine: Engine, hosts: tuple[Host, Host], clock: Clock) -> None:
    """It said itself that nothing was left."""
    one, two = hosts
    two.months.end()
    clock.now_ns = DUE
    one.turn()
    assert closed(engine) == ["2026-11"]


@SQLITE
def test_a_lost_host_holds_up_one_month(engine: Engine, hosts: tuple[Host, Host], clock: Clock) -> None:
    """Until somebody closes it by hand; the next one doesn't wait for whom nobody heard of in it."""
    one, _ = hosts
    clock.now_ns = DUE
    one.turn()
    close(engine, month("2026-11", "Europe/Berlin"), DUE)
    clock.now_ns = at("2027-01-06")
    one.turn()
    assert closed(engine) == ["2026-11", "2026-12"]


@SQLITE
def test_one_that_comes_back_is_waited_for_again(engine: Engine, hosts: tuple[Host, Host], clock: Clock) -> None:
    """It has ended, then it began again; one whose journal somebody still writes has not ended at all."""
    one, two = hosts
    two.months.end()
    two.months.begin()
    clock.now_ns = DUE
    one.turn()
    assert len(one.months.waits_for) == 1
    writer = Segment(two.home, "w5", NOVEMBER)
    two.months.end()
    one.turn()
    assert len(one.months.waits_for) == 1
    writer.leave()
    two.months.end()
    one.turn()
    assert closed(engine) == ["2026-11"]


@SQLITE
def test_it_waits_for_open_attempts(engine: Engine, home: Path, clock: Clock) -> None:
    """One that was sent in the month and is still running holds it up, until it is settled; then it is accrued."""
    host = Host(engine, home, clock)
    segment = Segment(home, started_ns=NOVEMBER)
    segment.write(*whole(exchange_id(1), NOVEMBER), reserved(exchange_id(2), NOVEMBER))
    clock.now_ns = DUE
    host.turn()
    assert ["1 open attempts" in one for one in host.months.waits_for] == [True]
    segment.write(settled(exchange_id(2), DUE))
    host.turn()
    assert closed(engine) == ["2026-11"]
    assert host.logged[-1][1]["accrued"] == 1


def test_two_at_once_close_it_once(engine: Engine, hosts: tuple[Host, Host], clock: Clock) -> None:
    """Whoever comes second finds it done, and says nothing."""
    clock.now_ns = DUE
    for host in hosts:
        host.turn(None)
    start = threading.Barrier(2)

    def turn(host: Host) -> None:
        start.wait()
        host.turn()

    threads = [threading.Thread(target=turn, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert closed(engine) == ["2026-11"]
    assert sorted(host.months.closed for host in hosts) == [0, 1]
    assert [event for host in hosts for event, _ in host.logged] == ["month closed"]
    sound(engine)


def test_when_the_closer_dies_another_takes_over(engine: Engine, hosts: tuple[Host, Host], clock: Clock) -> None:
    """What it began is undone with its connection, on which the other one has waited."""
    clock.now_ns = DUE
    for host in hosts:
        host.turn(None)
    dying = engine.connect()
    dying.begin()
    chain.head(dying)
    wanted = month("2026-11", "Europe/Berlin")
    begun: dict[str, Any] = dict.fromkeys(closings.columns.keys(), 0)
    begun |= {"month": wanted.name, "zone": "UTC", "rolled": "", "end_quarter": wanted.end_quarter}
    dying.execute(closings.insert().values(**begun))
    waiting = threading.Thread(target=hosts[1].turn)
    waiting.start()
    dying.invalidate()
    dying.close()
    waiting.join()
    assert [(row.month, row.attempts) for row in rows(engine, closings)] == [("2026-11", 2)]
    assert hosts[1].did == ["weir close 2026-11"]
    sound(engine)
