"""Keeping the books: it goes on by itself, whatever the database does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.ledger import keeping
from proxy.ledger.facts import facts
from proxy.ledger.keeping import Bookkeeper, Closing, Keep
from proxy.ledger.labels import Accounts
from proxy.ledger.opening import open_ledger
from tests.ledger.postgres import Postgres
from tests.ledger.steps import rows, sound, spent
from tests.ledger.told import NOON, Segment, exchange_id, journal, whole
from tests.patience import PATIENCE_S

Logged = list[tuple[str, str, dict[str, Any]]]
Start = Callable[..., Bookkeeper]


@pytest.fixture
def logged() -> Logged:
    """What was said."""
    return []


@pytest.fixture
def start(home: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts keepers, and ends them. They ask a database that is away often."""
    monkeypatch.setattr(keeping, "LONGEST_WAIT_S", 0.05)
    started: list[Bookkeeper] = []

    def starting(url: str, keep: Keep | None = None) -> Bookkeeper:
        def log(level: str, event: str, fields: dict[str, Any]) -> None:
            logged.append((level, event, fields))

        keeper = Bookkeeper(home, url, lambda: (Accounts(), keep or Keep()), log=log, poll_s=0.01)
        keeper.start()
        started.append(keeper)
        return keeper

    yield starting
    for keeper in started:
        keeper.stop()


def until(true: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Waits for something to become true."""
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s, "it didn't happen"
        threading.Event().wait(0.01)


def test_what_is_written_comes_into_the_ledger(start: Start, url: str, home: Path) -> None:
    """Without being asked; the report says that nothing is behind."""
    segment = Segment(home)
    keeper = start(url)
    segment.write(*whole(exchange_id(1)))
    until(lambda: keeper.report().counts.rows == 2)
    known = facts(home, keeper.report())
    assert (known.up, known.behind_bytes, known.behind_s, known.events) == (True, 0, 0.0, 3)


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
    until(lambda: keeper.report().counts.rows == 2)
    postgres.stop()
    try:
        segment.write(*whole(exchange_id(2)))
        until(lambda: not keeper.report().up)
        assert facts(home, keeper.report()).behind_bytes > 0
        segment.write(*whole(exchange_id(3)))
        until(lambda: keeper.report().counts.failures >= 3)
    finally:
        postgres.start()
    until(lambda: keeper.report().up and keeper.report().counts.rows == 6)
    assert facts(home, keeper.report()).behind_bytes == 0
    assert [event for _, event, _ in logged] == ["ledger", "ledger is back"]
    engine = open_ledger(url, home)
    assert spent(engine) == 21_000
    sound(engine)


def test_a_ledger_that_cant_be_opened_is_tried_again(start: Start, home: Path, logged: Logged) -> None:
    """A directory in the way is an error that is told, and over as soon as it is gone."""
    (home / "ledger.db").mkdir()
    keeper = start("sqlite:///ledger.db")
    journal(home, *whole(exchange_id(1)))
    until(lambda: not keeper.report().up)
    (home / "ledger.db").rmdir()
    until(lambda: keeper.report().counts.rows == 2)
    assert logged[0][:2] == ("error", "ledger")


def test_what_is_torn_or_not_understood_is_told(start: Start, home: Path, logged: Logged) -> None:
    """The log names the files that people should look at."""
    segment = Segment(home)
    segment.write({"event": "invented"})  # type: ignore[arg-type]
    segment.write_bytes(b"torn")
    segment.leave()
    keeper = start("sqlite:///ledger.db")
    until(lambda: keeper.report().counts.torn)
    told = {event: fields for _, event, fields in logged}
    assert Path(told["journal torn"]["kept"]).read_bytes() == b"torn"
    assert (home / "journal" / "rejected").read_bytes() == b'{"event":"invented"}\n'


@pytest.mark.parametrize("url", ["sqlite:///ledger.db"])
def test_a_month_that_is_due_is_closed(start: Start, url: str, home: Path, logged: Logged) -> None:
    """As the files say, once everything is taken in; the report counts it."""
    journal(home, *whole(exchange_id(1), NOON - 6 * 365 * 86_400 * 10**9))
    keeper = start(url, Keep(closing=Closing(86_400.0)))
    until(lambda: keeper.report().counts.closed == 1)
    assert [said["attempts"] for _, event, said in logged if event == "month closed"] == [1]
    assert not keeper.report().waiting


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
    assert keeper.report().counts.removed == 1
    assert rows(open_ledger("sqlite:///ledger.db", home))[0].nanodollars == 7_000
