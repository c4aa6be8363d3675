"""The statistics that verdicts are made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import quantiles

SAMPLES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200)


def test_percentile_is_the_nearest_rank() -> None:
    """p99 of 1..100 is 99, p50 is 50, p100 the largest, and nothing is interpolated."""
    samples = list(range(100, 0, -1))
    assert [quantiles.percentile(samples, p) for p in (1, 50, 99, 99.5, 100)] == [1, 50, 99, 100, 100]


def test_percentile_of_nothing_is_refused() -> None:
    """No samples have no percentile."""
    with pytest.raises(ValueError, match="at least one"):
        quantiles.percentile([], 99)


@given(SAMPLES, st.floats(0.1, 100))
def test_percentile_covers_its_share(samples: list[float], percent: float) -> None:
    """At least p percent of the samples don't exceed the percentile, and it is one of them."""
    found = quantiles.percentile(samples, percent)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= percent / 100 * len(samples) - 1e-9


def test_paired_ratio_ignores_a_slow_spell_that_met_both() -> None:
    """A machine ten times slower in one round changes neither the ratio nor its order."""
    assert quantiles.paired_ratio([20, 200, 20], [10, 100, 10]) == 2
    assert quantiles.paired_difference([20, 200, 21], [10, 100, 10]) == 11


def test_bootstrap_interval_holds_its_point_and_is_repeatable() -> None:
    """The interval surrounds the median ratio, and the same rounds give the same interval."""
    subject, reference = [3.0, 2.0, 4.0, 2.5, 3.5, 9.0], [1.0] * 6
    first = quantiles.bootstrap_ratio(subject, reference)
    assert first.low <= first.point <= first.high
    assert first.point == 3.25
    assert first == quantiles.bootstrap_ratio(subject, reference)


def test_bootstrap_of_equal_rounds_has_no_width() -> None:
    """Where every round says the same, there is nothing to be uncertain of."""
    found = quantiles.bootstrap_ratio([4.0] * 5, [2.0] * 5)
    assert (found.low, found.point, found.high) == (2.0, 2.0, 2.0)


def test_one_outlier_does_not_lift_the_lower_bound() -> None:
    """A single round beside itself widens the interval upwards; the verdict looks at its lower end."""
    found = quantiles.bootstrap_ratio([1.0] * 11 + [50.0], [1.0] * 12)
    assert found.low == 1.0
