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
    draws, found = random.Random(7), FadingQuantile(share)
    times = [draws.lognormvariate(-1, 0.5) for _ in range(1900)]
    for seconds in times:
        found.add(seconds)
    true = sorted(times)[int(share * len(times))]
    assert found.value_s() == pytest.approx(true, rel=0.08)


@given(st.lists(st.floats(1e-4, 300), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_never_too_low(times: list[float], share: float) -> None:
    """At least the share of times isn't above it, and it is at most a bucket above one of them."""
    found = FadingQuantile(share)
    for seconds in times:
        found.add(seconds)
    value = found.value_s()
    assert sum(seconds <= value * 1.0001 for seconds in times) >= share * len(times)
    assert min(value / seconds for seconds in times if seconds <= value * 1.0001) <= 2 ** (1 / 16) * 1.0001


def test_it_follows() -> None:
    """When everything gets ten times slower, so does the quantile, after two windows."""
    found = FadingQuantile(0.95)
    for _ in range(5000):
        found.add(0.1)
    for _ in range(2 * FadingQuantile.WINDOW):
        found.add(1.0)
    assert 0.9 < found.value_s() < 1.1


def test_a_lower_bound_is_as_good() -> None:
    """Times that were cut off above the quantile leave it where it is."""
    whole, cut = FadingQuantile(0.9), FadingQuantile(0.9)
    draws = random.Random(1)
    for _ in range(1000):
        seconds = 5.0 if draws.random() < 0.05 else draws.uniform(0.1, 0.2)
        whole.add(seconds)
        cut.add(min(seconds, 0.25))
    assert whole.value_s() == cut.value_s()


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e9])
def test_extremes(seconds: float) -> None:
    """Times beyond the buckets fall into the outermost ones."""
    found = FadingQuantile(0.5)
    found.add(seconds)
    assert 0 < found.value_s() < 500


def test_nothing_seen() -> None:
    """Nothing is known at first."""
    assert FadingQuantile(0.5).value_s() == 0
