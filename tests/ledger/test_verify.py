"""`verify` finds what was changed by hand, and names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from proxy.ledger.closing import close, month
from proxy.ledger.verify import verify
from tests.ledger.steps import sound, taken, tamper
from tests.ledger.told import NOON, SECOND, ended, exchange_id, journal, saving, whole

DECEMBER = NOON + 31 * 24 * 3600 * SECOND


@pytest.fixture
def ledger(engine: Engine, home: Path) -> Engine:
    """Three blocks, and a closed month."""
    for number in range(3):
        records = whole(exchange_id(number), NOON + number * 900 * SECOND, 1_000)
        journal(home, *records, ended(exchange_id(number + 9), savings=[saving()]), started_ns=NOON + number)
        taken(engine, home)
    close(engine, month("2026-11"), DECEMBER)
    return engine


def test_an_untouched_ledger_is_sound(ledger: Engine) -> None:
    """Everything was looked at."""
    found = verify(ledger)
    assert (found.problems, found.blocks, found.rows, found.months) == ([], 4, 12, 1)
    assert len(found.head) == 64


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE attempts SET nanodollars = 1 WHERE seq = 5", "block 2 .* a row was changed"),
        ("UPDATE attempts SET usage = NULL WHERE seq = 5", "block 2 .* a row was changed"),
        ("DELETE FROM attempts WHERE seq = 5", "block 2 .* row 5 is missing"),
        ("DELETE FROM savings WHERE seq = 12", "block 3 .* row 12 is missing"),
        ("UPDATE blocks SET digest = 'x' WHERE number = 2", "block 2 .* was changed itself"),
        ("DELETE FROM blocks WHERE number = 2", "block 3 .*blocks between are missing"),
        ("UPDATE blocks SET dropped_ns = NULL, hash = 'x' WHERE number = 3", "block 3 .* was changed itself"),
        ("UPDATE closings SET nanodollars = 1", "block 4 .* the closing of 2026-11 was changed"),
        ("DELETE FROM closings", "block 4 .* the closing is missing"),
        ("UPDATE dimensions SET team = 'other' WHERE model IS NOT NULL", "dimension .* was changed"),
        ("DELETE FROM dimensions WHERE model IS NOT NULL", "row 1 of attempts has a dimension that is missing"),
        ("UPDATE quarters SET nanodollars = nanodollars + 1 WHERE attempts = 1", "2026-11: its roll-ups"),
        ("UPDATE days SET nanodollars = nanodollars + 1 WHERE attempts = 3", r"days of 2026-11-01 .*3001.*3000"),
        ("DELETE FROM saving_days", r"saving_days of 2026-11-01 .*'cache'.* says nothing"),
    ],
)
def test_what_was_changed_is_named(ledger: Engine, statement: str, told: str) -> None:
    """The first problem says where to look."""
    tamper(ledger, statement)
    problems = verify(ledger).problems
    assert problems
    assert any(re.search(told, problem) for problem in problems), problems


def test_a_row_that_was_slipped_in_is_found(ledger: Engine) -> None:
    """A copy of a row behind the last block is in no block."""
    columns = "exchange, attempt, entry, dimension, quarter, at_ns, tokens, input_tokens, output_tokens, cached_tokens"
    more = "cache_write_tokens, reasoning_tokens, nanodollars, cards, total_ns, outcome, worker, told_by"
    names = f"{columns}, {more}"
    tamper(ledger, f"INSERT INTO attempts (seq, version, {names}) SELECT 99, 7, {names} FROM attempts WHERE seq = 1")
    assert "row 99 of attempts is in no block" in verify(ledger).problems


def test_rows_refuse_to_be_changed(ledger: Engine) -> None:
    """The database itself says no, unless somebody takes the trigger away first."""
    with pytest.raises(DBAPIError, match="append-only"), ledger.begin() as db:
        db.execute(text("UPDATE attempts SET nanodollars = 0"))
    sound(ledger)
