"""A simulated day in small: kills, an outage, failing lines; nothing is lost, late or paid twice."""

from __future__ import annotations

import pytest

from bench.batch.day import measure


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_day(seed: int) -> None:
    """Each seed kills the worker at other moments."""
    told = await measure(60, seed)
    assert told["accepted"] >= 58  # of one that is being accepted when the worker dies there may be no job
    assert {told[name] for name in ("lost", "late", "run twice", "not booked", "booked twice")} == {0}, told
    assert told["saved"] >= 0.45
