"""`weir ledger` and `weir close`, and `weir why` once the journal's segments are gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.ledger.ingest import Ingest
from proxy.ledger.opening import open_ledger
from tests.cli.conftest import Weir
from tests.ledger.steps import all_of, tamper
from tests.ledger.told import NOON, exchange_id, journal, whole

LONG_AGO = NOON - 365 * 24 * 3600 * 10**9
URL = "sqlite:///ledger.db"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a year-old exchange in its journal."""
    home = tmp_path / "home"
    home.mkdir()
    journal(home, *whole(exchange_id(1), LONG_AGO), started_ns=LONG_AGO)
    return home


def taken(home: Path) -> None:
    """What the supervisor does."""
    engine = open_ledger(URL, home)
    all_of(Ingest(engine, home))
    engine.dispose()


def test_closing_takes_in_the_journal_first(weir: Weir, home: Path) -> None:
    """The month's sums are told, and a second time it is refused."""
    done = weir("close", "2025-11", "--home", str(home))
    assert done.returncode == 0, done.stderr
    assert "2025-11 is closed (UTC): 1 attempts, $0.000007" in done.stdout
    again = weir("close", "2025-11", "--home", str(home))
    assert (again.returncode, again.stderr) == (1, "weir: 2025-11 is closed already\n")


def test_the_month_is_that_of_the_policy_files_zone(weir: Weir, home: Path, tmp_path: Path) -> None:
    """Unless another one is named."""
    (tmp_path / "policies.yaml").write_text("version: 1\ntime_zone: Asia/Kolkata\npolicies: []\n")
    (tmp_path / "weir.yaml").write_text(
        "version: 1\nhome: home\nupstreams: {openai: {url: 'https://api.openai.com/v1'}}\npolicies: policies.yaml\n"
    )
    done = weir("close", "2025-11")
    assert "2025-11 is closed (Asia/Kolkata)" in done.stdout, done.stderr


def test_what_is_no_month_is_told(weir: Weir, home: Path) -> None:
    """One line, status 1."""
    done = weir("close", "soon", "--home", str(home))
    assert (done.returncode, done.stderr) == (1, "weir: soon is no month: write it like 2026-11\n")


def test_verify_says_what_it_saw(weir: Weir, home: Path) -> None:
    """Unchanged is 0; anything else is 1 and named."""
    taken(home)
    done = weir("ledger", "verify", "--home", str(home))
    assert done.returncode == 0
    assert "2 rows in 1 blocks" in done.stdout
    assert "unchanged" in done.stdout
    engine = open_ledger(URL, home)
    tamper(engine, "UPDATE attempts SET nanodollars = 1")
    engine.dispose()
    done = weir("ledger", "verify", "--json", "--home", str(home))
    assert done.returncode == 1
    assert "a row was changed" in json.loads(done.stdout)["problems"][0]


def test_status_tells_how_it_stands(weir: Weir, home: Path) -> None:
    """Rows, closed months, and what is behind."""
    taken(home)
    weir("close", "2025-11", "--home", str(home))
    path = journal(home, *whole(exchange_id(2)))
    found = json.loads(weir("ledger", "status", "--json", "--home", str(home)).stdout)
    assert (found["rows"], found["blocks"], found["closed"], found["segments"]) == (2, 2, "2025-11", 2)
    assert found["behind_bytes"] == path.stat().st_size
    text = weir("ledger", "status", "--home", str(home)).stdout
    assert "up to 2025-11 (UTC)" in text


def test_without_a_ledger_there_is_one_line(weir: Weir, tmp_path: Path) -> None:
    """It says when there will be one."""
    done = weir("ledger", "status", "--home", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("weir: no ledger yet")


def test_why_and_tail_find_what_the_journal_has_no_more(weir: Weir, home: Path) -> None:
    """The same story, from the ledger."""
    taken(home)
    before = weir("why", exchange_id(1), "--json", "--home", str(home)).stdout
    tail = weir("journal", "tail", "--home", str(home)).stdout
    for path in (home / "journal").glob("*.journal"):
        path.unlink()
    assert json.loads(weir("why", exchange_id(1), "--json", "--home", str(home)).stdout) == json.loads(before)
    assert weir("journal", "tail", "--home", str(home)).stdout == tail
    unknown = weir("why", "x", "--home", str(home))
    assert (unknown.returncode, "no exchange x" in unknown.stderr) == (1, True)
