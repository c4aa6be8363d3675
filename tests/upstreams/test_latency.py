"""The estimate of a deployment's time to its first token."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.upstreams.latency import FADING_S, SLOWEST_S, PeakEwma


def test_a_peak_counts_at_once() -> None:
    """A slow answer is the estimate; quick ones wear it down over seconds, not over answers."""
    one = PeakEwma()
    one.add(0.1, 0.0)
    one.add(2.0, 1.0)
    assert one.estimate_s(1.0) == 2.0
    for _ in range(50):
        one.add(0.1, 1.0)
    assert one.estimate_s(1.0) == 2.0
    one.add(0.1, 1.0 + 3 * FADING_S)
    assert 0.1 < one.estimate_s(1.0 + 3 * FADING_S) < 0.25


def test_fades_while_nobody_is_there() -> None:
    """Without news it is tried again, by one at a time: whoever waits there already will tell."""
    one = PeakEwma()
    one.add(5.0, 0.0)
    assert one.estimate_s(2 * FADING_S, idle=False) == 5.0
    assert one.estimate_s(2 * FADING_S) < 1.0


def test_failing_fast_attracts_nobody() -> None:
    """A failure counts as slow, the next as slower, within bounds."""
    one, seen = PeakEwma(), []
    one.add(0.01, 0.0)
    for _ in range(10):
        one.failed(0.0)
        seen.append(one.estimate_s(0.0))
    assert seen[:3] == [2.0, 4.0, 8.0]
    assert seen[-1] == SLOWEST_S


def test_given_up_calls_count_if_they_took_longer() -> None:
    """A call that was given up would have taken longer than that; an early end says nothing."""
    one = PeakEwma()
    one.add(0.5, 0.0)
    one.longer(0.2, 0.0)
    assert one.estimate_s(0.0) == 0.5
    one.longer(3.0, 0.0)
    assert one.estimate_s(0.0) == 3.0


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.001, 100)), min_size=1))
@settings(print_blob=True, deadline=None)
def test_stays_within_what_was_seen(steps: list[tuple[float, float]]) -> None:
    """The estimate is between nothing and the slowest answer."""
    one, now, slowest = PeakEwma(), 0.0, 0.0
    for gap, took in steps:
        now += gap
        one.add(took, now)
        slowest = max(slowest, took)
        least = min(took for _, took in steps)
        assert min(least, SLOWEST_S) - 1e-9 <= one.estimate_s(now) <= min(slowest, SLOWEST_S) + 1e-9
