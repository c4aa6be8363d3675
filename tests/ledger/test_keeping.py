"""The supervisor's duty: goes on by itself, whatever the database does."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.ledger import keeping
from proxy.ledger.keeping import Bookkeeper, Keep
from proxy.ledger.labels import Accounts
from proxy.ledger.opening import open_ledger
from tests.ledger.postgres import Postgres
from tests.ledger.steps import rows, sound, spent
from tests.ledger.told import NOON, Segment, exchange_id, journal, whole

Logged = list[tuple[str, str, dict[str, Any]]]
Start = Callable[[str], Bookkeeper]


@pytest.fixture
def logged() -> Logged:
    """What was said."""
    return []


@pytest.fixture
def start(home: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts keepers, and ends them. They ask a database that is away often."""
    monkeypatch.setattr(keeping, "LONGEST_WAIT_S", 0.05)
    started: list[Bookkeeper] = []

    def starting(url: str) -> Bookkeeper:
        def log(level: str, event: str, fields: dict[str, Any]) -> None:
            logged.append((level, event, fields))

        keeper = Bookkeeper(home, url, lambda: (Accounts(), Keep()), log=log, poll_s=0.01)
        keeper.start()
        started.append(keeper)
        return keeper

    yield starting
    for keeper in started:
        keeper.stop()


def until(true: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Waits for something to become true."""
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s, "it didn't happen"
        threading.Event().wait(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a nice value for each thread")
def test_its_work_never_takes_a_workers_turn(start: Start, url: str) -> None:
    """Its thread waits for all others; the thread that started it, and what that starts, don't."""
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    start(url)
    (its,) = [thread.native_id for thread in threading.enumerate() if thread.name == "ledger"]
    assert its is not None
    until(lambda: os.getpriority(os.PRIO_PROCESS, its) == 19)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine < 19


def test_what_is_written_comes_into_the_ledger(start: Start, url: str, home: Path) -> None:
    """Without being asked; `facts` say that nothing is behind."""
    segment = Segment(home)
    keeper = start(url)
    segment.write(*whole(exchange_id(1)))
    until(lambda: keeper.facts().rows == 2)
    facts = keeper.facts()
    assert (facts.up, facts.behind_bytes, facts.behind_s, facts.events) == (True, 0, 0.0, 3)


def test_stopping_takes_in_what_is_there(start: Start, url: str, home: Path) -> None:
    """What the workers wrote last is in the ledger when the supervisor ends."""
    keeper = start(url)
    journal(home, *whole(exchange_id(1)))
    keeper.stop()
    assert spent(open_ledger(url, home)) == 7_000


def test_a_database_that_is_away_only_delays(start: Start, home: Path, logged: Logged, postgres: Postgres) -> None:
    """It crashes with rows on their way, comes back, and everything is there once; told once each."""
    url = postgres.database("away")
    keeper = start(url)
    segment = Segment(home)
    segment.write(*whole(exchange_id(1)))
    until(lambda: keeper.facts().rows == 2)
    postgres.stop()
    try:
        segment.write(*whole(exchange_id(2)))
        until(lambda: not keeper.facts().up)
        assert keeper.facts().behind_bytes > 0
        segment.write(*whole(exchange_id(3)))
        until(lambda: keeper.facts().failures >= 3)
    finally:
        postgres.start()
    until(lambda: keeper.facts().up and keeper.facts().rows == 6)
    assert keeper.facts().behind_bytes == 0
    assert [event for _, event, _ in logged] == ["ledger", "ledger is back"]
    engine = open_ledger(url, home)
    assert spent(engine) == 21_000
    sound(engine)


def test_a_ledger_that_cant_be_opened_is_tried_again(start: Start, home: Path, logged: Logged) -> None:
    """A directory in the way is an error that is told, and over as soon as it is gone."""
    (home / "ledger.db").mkdir()
    keeper = start("sqlite:///ledger.db")
    journal(home, *whole(exchange_id(1)))
    until(lambda: not keeper.facts().up)
    (home / "ledger.db").rmdir()
    until(lambda: keeper.facts().rows == 2)
    assert logged[0][:2] == ("error", "ledger")


def test_what_is_torn_or_not_understood_is_told(start: Start, home: Path, logged: Logged) -> None:
    """The log names the files that people should look at."""
    segment = Segment(home)
    segment.write({"event": "invented"})  # type: ignore[arg-type]
    segment.write_bytes(b"torn")
    segment.leave()
    keeper = start("sqlite:///ledger.db")
    until(lambda: keeper.facts().torn)
    told = {event: fields for _, event, fields in logged}
    assert Path(told["journal torn"]["kept"]).read_bytes() == b"torn"
    assert (home / "journal" / "rejected").read_bytes() == b'{"event":"invented"}\n'


def test_old_segments_go_by_themselves(home: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the files say: here, at once."""
    path = journal(home, *whole(exchange_id(1)), started_ns=NOON - 10**15)

    def log(level: str, event: str, fields: dict[str, Any]) -> None:
        logged.append((level, event, fields))

    keep = Keep(keep_s=-1)
    keeper = Bookkeeper(home, "sqlite:///ledger.db", lambda: (Accounts(), keep), log=log, poll_s=0.01)
    keeper.start()
    until(lambda: not path.exists())
    keeper.stop()
    assert keeper.facts().removed == 1
    assert rows(open_ledger("sqlite:///ledger.db", home))[0].nanodollars == 7_000
