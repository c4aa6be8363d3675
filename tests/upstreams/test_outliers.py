"""Who stands out from the others."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.balancing import Outliers
from proxy.upstreams.outliers import Seen, standing_out

RULES = Outliers()


def streams(count: int, each_s: float, failed: int = 0, place: int = 0, **fields: bool | int) -> Seen:
    return Seen((0, count), (0.0, count * each_s), failed, place=place, **fields)  # type: ignore[arg-type]


def test_the_slow_one() -> None:
    """Three times the others' median is too slow; a little less isn't."""
    good = [streams(20, 0.3, place=place) for place in range(3)]
    assert [index for index, _ in standing_out([*good, streams(20, 1.5, place=9)], RULES, True)] == [3]
    assert standing_out([*good, streams(20, 0.8, place=9)], RULES, True) == []


def test_weights_are_the_choice() -> None:
    """Where latency doesn't choose, it doesn't leave out."""
    seen = [streams(20, 0.3, place=1), streams(20, 3.0, place=2)]
    assert standing_out(seen, RULES, False) == []


def test_whole_answers_and_streams_apart() -> None:
    """A deployment that gives more whole answers isn't slow: they are compared with whole answers."""
    mixed = Seen((20, 20), (20 * 4.0, 20 * 0.3), place=1)
    streaming = Seen((2, 40), (2 * 4.0, 40 * 0.3), place=2)
    assert standing_out([mixed, streaming], RULES, True) == []


def test_the_failing_one() -> None:
    """So much more failures than the others; not where all of them fail, nor one alone."""
    good = streams(20, 0.3, place=1)
    assert [index for index, _ in standing_out([good, streams(12, 0.3, 8, place=2)], RULES, False)] == [1]
    assert standing_out([streams(10, 0.3, 10, place=1), streams(9, 0.3, 11, place=2)], RULES, False) == []
    assert standing_out([streams(0, 0, 20, place=1)], RULES, True) == []


def test_known_ones_need_fewer_answers() -> None:
    """One that stood out before is known by its first answers."""
    good = [streams(20, 0.3, place=place) for place in range(3)]
    assert standing_out([*good, streams(2, 1.5, place=9)], RULES, True) == []
    assert len(standing_out([*good, streams(2, 1.5, place=9, before=1)], RULES, True)) == 1


def test_keys_of_one_upstream_are_no_peers() -> None:
    """Three keys of a slow upstream don't make the quick one stand out, nor hide each other."""
    slow = [streams(10, 3.0, place=1) for _ in range(3)]
    found = standing_out([*slow, streams(10, 0.3, place=2)], RULES, True)
    assert {index for index, _ in found} == {1, 2}  # of four, no more than two


@given(
    st.lists(
        st.builds(
            Seen,
            st.tuples(st.integers(0, 50), st.integers(0, 50)),
            st.tuples(st.floats(0, 500), st.floats(0, 500)),
            st.integers(0, 50),
            st.booleans(),
            st.integers(0, 5),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=12,
    ),
    st.floats(0, 1),
)
@settings(print_blob=True, deadline=None)
def test_never_more_than_the_share(seen: list[Seen], at_most: float) -> None:
    """However bad they are, with those that are out already they are no more than the rules' share."""
    found = standing_out(seen, Outliers(at_most=at_most), True)
    already = sum(one.out for one in seen)
    assert len(found) <= max(int(at_most * len(seen)) - already, 0)
    assert all(not seen[index].out for index, _ in found)
    assert len({index for index, _ in found}) == len(found)
