"""The fading quantile: close to the true one, and it follows when times change."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.quantile import FadingQuantile


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_close_to_the_true_one(share: float) -> None:
    """Of log-normal times, within a bucket's width and the sample's own error."""
    draws, found = random.Random(7), FadingQuantile()
    times = [draws.lognormvariate(-1, 0.5) for _ in range(1900)]
    for seconds in times:
        found.add(seconds)
    true = sorted(times)[int(share * len(times))]
    assert found.value_s(share) == pytest.approx(true, rel=0.08)


@given(st.lists(st.floats(1e-4, 300), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_never_too_low(times: list[float], share: float) -> None:
    """At least the share of times isn't above it, and it is at most a bucket above one of them."""
    found = FadingQuantile()
    for seconds in times:
        found.add(seconds)
    value = found.value_s(share)
    assert sum(seconds <= value * 1.0001 for seconds in times) >= share * len(times)
    assert min(value / seconds for seconds in times if seconds <= value * 1.0001) <= 2 ** (1 / 16) * 1.0001


def test_it_follows() -> None:
    """When everything gets ten times slower, so does the quantile, after two windows."""
    found = FadingQuantile()
    for _ in range(5000):
        found.add(0.1)
    for _ in range(2 * FadingQuantile.WINDOW):
        found.add(1.0)
    assert 0.9 < found.value_s(0.95) < 1.1


def test_a_lower_bound_is_as_good() -> None:
    """Times that were cut off above the quantile leave it where it is."""
    whole, cut = FadingQuantile(), FadingQuantile()
    draws = random.Random(1)
    for _ in range(1000):
        seconds = 5.0 if draws.random() < 0.05 else draws.uniform(0.1, 0.2)
        whole.add(seconds)
        cut.add(min(seconds, 0.25))
    assert whole.value_s(0.9) == cut.value_s(0.9)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e9])
def test_extremes(seconds: float) -> None:
    """Times beyond the buckets fall into the outermost ones."""
    found = FadingQuantile()
    found.add(seconds)
    assert 0 < found.value_s(0.5) < 500


def test_nothing_seen() -> None:
    """Nothing is known at first."""
    assert FadingQuantile().value_s(0.5) == 0


def test_looked_up_now_and_then() -> None:
    """The recent value is looked up anew after a few durations, not at each."""
    found = FadingQuantile()
    found.add(0.1)
    first = found.recent_s(0.5)
    for _ in range(FadingQuantile.FRESH - 1):
        found.add(10.0)
        assert found.recent_s(0.5) == first
    found.add(10.0)
    assert found.recent_s(0.5) > 9
