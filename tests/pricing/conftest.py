"""The published prices, compiled once for all tests."""

from __future__ import annotations

import pytest

from proxy.pricing import RateCards


@pytest.fixture(scope="session")
def cards() -> RateCards:
    """Published prices, as a worker reads them."""
    return RateCards.from_bytes(RateCards.compile().to_bytes())
