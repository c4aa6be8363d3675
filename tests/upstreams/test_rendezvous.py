"""Places of keys."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.upstreams.rendezvous import first, seed_of

SEEDS = [seed_of(f"replica-{number}") for number in range(8)]


@pytest.mark.parametrize("weights", [[1.0] * 8, [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]])
def test_keys_spread_by_weight(weights: list[float]) -> None:
    """Each place gets its share, within the noise of 20,000 draws (seed 7)."""
    draws = random.Random(7)
    found = Counter(first(draws.getrandbits(64), SEEDS, weights) for _ in range(20_000))
    for place, weight in enumerate(weights):
        assert found[place] == pytest.approx(20_000 * weight / sum(weights), rel=0.15)


@given(st.integers(0, 2**64 - 1), st.integers(0, 7))
@settings(print_blob=True, deadline=None)
def test_a_place_that_goes_moves_only_its_own(key: int, gone: int) -> None:
    """All other keys stay where they were."""
    before = first(key, SEEDS, [1.0] * 8)
    others = [seed for number, seed in enumerate(SEEDS) if number != gone]
    after = others[first(key, others, [1.0] * 7)]
    assert before == gone or after == SEEDS[before]


def test_the_same_in_every_process() -> None:
    """No seed of a process takes part: these never change."""
    assert seed_of("replica-1") == 0xF0EA5E6F2524CC97
    assert [first(key, SEEDS, [1.0] * 8) for key in (1, 12345, 2**63)] == [1, 7, 3]
