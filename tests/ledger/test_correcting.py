"""Corrections by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from proxy.ledger.correcting import correct
from proxy.ledger.opening import LedgerError
from proxy.ledger.tables import quarters
from tests.ledger.steps import LATER, rows, sound, spent, taken
from tests.ledger.told import exchange_id, journal, whole


def test_a_correction_reverses_and_says_what_is_so(engine: Engine, home: Path) -> None:
    """The old row stays, the sums become right, and each correction can be corrected."""
    journal(home, *whole(exchange_id(1)))
    taken(engine, home)
    correct(engine, exchange_id(1), 1, 7_500, "invoice 42", LATER)
    correct(engine, exchange_id(1), 1, 7_400, "invoice 42, page 2", LATER)
    assert [(row.version, row.entry, row.nanodollars, row.reference) for row in rows(engine)] == [
        (0, "use", 7_000, None),
        (1, "reversal", -7_000, "invoice 42"),
        (2, "correction", 7_500, "invoice 42"),
        (3, "reversal", -7_500, "invoice 42, page 2"),
        (4, "correction", 7_400, "invoice 42, page 2"),
    ]
    assert spent(engine) == 7_400
    (cost,) = [row for row in rows(engine, quarters) if row.attempts]
    assert (cost.attempts, cost.input_tokens, cost.ttfts) == (1, 120, 1)
    sound(engine)


def test_what_had_no_price_can_be_given_one(engine: Engine, home: Path) -> None:
    """It moves from the unpriced to the observed ones, and back."""
    journal(home, *whole(exchange_id(1)))
    taken(engine, home)
    correct(engine, exchange_id(1), 1, None, "no contract", LATER)
    by_known = {row.of_known: (row.attempts, row.unpriced, row.nanodollars) for row in rows(engine, quarters)}
    assert by_known["unpriced"] == (1, 1, 0)
    assert by_known["observed"] == (0, 0, 0)
    sound(engine)


def test_an_attempt_that_isnt_there_cant_be_corrected(engine: Engine) -> None:
    """The message names it."""
    with pytest.raises(LedgerError, match="attempt 2 of exchange x"):
        correct(engine, "x", 2, 1, "why", LATER)
