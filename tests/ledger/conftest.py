"""Ledgers to test on: SQLite in a temporary directory, and a real PostgreSQL that the tests start.

PostgreSQL doesn't run as root, so it gets a directory of its own and, where the tests are root, another user. Without
it (Debian: `apt-get install postgresql`) its tests are skipped and say so.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from proxy.ledger.opening import open_ledger
from tests.ledger.postgres import Postgres, PostgresMissing

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server."""
    try:
        server = Postgres()
    except PostgresMissing as why:
        pytest.skip(str(why))
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The address of a new ledger."""
    if request.param == "sqlite":
        return "sqlite:///ledger.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database(f"ledger_{next(_numbers)}")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory."""
    return tmp_path


@pytest.fixture
def engine(url: str, home: Path) -> Iterator[Engine]:
    """A new ledger."""
    engine = open_ledger(url, home)
    yield engine
    engine.dispose()


@pytest.fixture
def reopen(url: str, home: Path) -> Iterator[Callable[[], Engine]]:
    """Opens the same ledger again."""
    opened: list[Engine] = []

    def again() -> Engine:
        opened.append(open_ledger(url, home))
        return opened[-1]

    yield again
    for engine in opened:
        engine.dispose()
