"""What usage teaches."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.tokens.learned import MOST, Learned, SizeClass, dumped, loaded, size_of


def test_nothing_learnt() -> None:
    """Without usage, estimates stand, and the family's promise is the margin."""
    learned = Learned()
    assert learned.correction(0) == 1
    assert learned.p99(1, 1.5) == 1.5


def test_it_converges() -> None:
    """A model that counts 40 % more is corrected so, after a hundred requests to within 3 %."""
    learned = Learned()
    for _ in range(100):
        learned.add(500, 700)
    assert learned.correction(1) == pytest.approx(1.4, rel=0.03)


def test_late_answers_do_no_harm() -> None:
    """A hundred requests that were all estimated before the first was settled correct no more than once."""
    learned = Learned()
    raw = [random.Random(5).uniform(200, 1000) for _ in range(100)]
    for one in raw:
        learned.add(one, round(one * 1.4))
    assert learned.correction(1) == pytest.approx(1.4, rel=0.03)


def test_one_request_alone_changes_little() -> None:
    """An absurd count counts as eight times the estimate, and as one of three."""
    learned = Learned()
    learned.add(10, 10**9)
    assert learned.correction(0) == pytest.approx((1 + 1 + 8) / 3)


def test_other_sizes_are_a_first_guess() -> None:
    """What large requests taught is believed of small ones until these say otherwise."""
    learned = Learned()
    for _ in range(50):
        learned.add(5000, 7500)
    assert learned.correction(0) == pytest.approx(1.5, rel=0.05)
    for _ in range(50):
        learned.add(50, 50)
    assert learned.correction(0) == pytest.approx(1.0, rel=0.05)


def test_the_percentile_is_the_percentile() -> None:
    """Of ten thousand more from the same source, about one in a hundred lies beyond it."""
    source = random.Random(11)
    learned = Learned()
    for _ in range(2000):
        learned.add(1000, round(1000 * source.lognormvariate(0, 0.2)))
    p99 = learned.p99(1, 9.9)
    beyond = sum(source.lognormvariate(0, 0.2) > p99 for _ in range(10_000))
    assert 20 <= beyond <= 180


def test_few_observations_never_lower_the_promise() -> None:
    """Below 99 observations the margin is the promise, or the largest seen."""
    learned = Learned()
    for _ in range(98):
        learned.add(100, 100)
    assert learned.p99(1, 1.5) == pytest.approx(1.5)
    learned.add(100, 300)
    assert learned.p99(1, 1.5) >= 3


@given(st.lists(st.tuples(st.floats(1, 1e6), st.integers(1, 10**7)), max_size=200))
def test_margins_are_sound(seen: list[tuple[float, int]]) -> None:
    """Whatever was seen: corrections and margins are positive, finite and within eightfold."""
    learned = Learned()
    for raw, observed in seen:
        learned.add(raw, observed)
    for size in range(3):
        assert 1 / 9 < learned.correction(size) < 9
        assert 0 < learned.p99(size, 1.5) < 8.5 * 9


def test_old_observations_fade() -> None:
    """A model that changed is followed: what is old counts half, again and again."""
    learned = Learned()
    for _ in range(MOST):
        learned.add(1000, 1000)
    for _ in range(2 * MOST):
        learned.add(1000, 2000)
    assert learned.correction(1) > 1.8
    assert learned.count <= MOST


def test_they_add_up() -> None:
    """What two workers learnt, added, is what one would have learnt from both; taken away again, it is gone."""
    one, other, both = Learned(), Learned(), Learned()
    for observed in (100, 120, 140):
        one.add(100, observed)
        both.add(100, observed)
    for observed in (90, 300):
        other.add(100, observed)
        both.add(100, observed)
    one.merge(other)
    assert one == both
    one.merge(other, -1)
    assert one.sizes[1].count == 3


def test_kept_and_read_again() -> None:
    """As bytes and back it is the same; bytes of another shape are no failure."""
    learned = Learned()
    learned.add(100, 150)
    assert loaded(dumped(learned)) == learned
    assert loaded(b'{"sizes": []}') is None
    assert loaded(dumped(Learned(sizes=[SizeClass(steps=[1])] * 3))) is None
    assert loaded(b"?") is None


def test_sizes() -> None:
    """Three classes, the last without an end."""
    assert [size_of(raw) for raw in (1, 95, 96, 1535, 1536, 10**9)] == [0, 0, 1, 1, 2, 2]
