"""What providers tell of a key's limits, and what is made of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.upstreams.allowance import LONGEST_WAIT_S, Allowance, Stock
from proxy.wire.headers import Headers

OPENAI: Headers = [
    (b"x-ratelimit-limit-requests", b"60"),
    (b"x-ratelimit-remaining-requests", b"20"),
    (b"x-ratelimit-reset-requests", b"40s"),
    (b"x-ratelimit-limit-tokens", b"150000"),
    (b"x-ratelimit-remaining-tokens", b"30000"),
    (b"x-ratelimit-reset-tokens", b"6m0s"),
    (b"x-request-id", b"req_1"),
]
ANTHROPIC: Headers = [
    (b"anthropic-ratelimit-requests-limit", b"50"),
    (b"anthropic-ratelimit-requests-remaining", b"2"),
    (b"anthropic-ratelimit-requests-reset", b"1970-01-01T00:00:30Z"),
    (b"anthropic-ratelimit-input-tokens-limit", b"40000"),
    (b"anthropic-ratelimit-input-tokens-remaining", b"1000"),
    (b"anthropic-ratelimit-input-tokens-reset", b"1970-01-01T00:01:00Z"),
    (b"anthropic-ratelimit-output-tokens-limit", b"8000"),
    (b"anthropic-ratelimit-output-tokens-remaining", b"8000"),
    (b"anthropic-ratelimit-output-tokens-reset", b"1970-01-01T00:01:00Z"),
]


def told(headers: Headers) -> Allowance:
    found = Allowance()
    found.told(headers, 100.0, 0.0)
    return found


def test_openais_names() -> None:
    """Requests and tokens, with durations as resets; a fifth of the tokens is left."""
    allowance = told(OPENAI)
    assert allowance.share_left(100.0) == pytest.approx(0.2)
    assert allowance.has_room(20_000, 100.0)
    assert not allowance.has_room(29_000, 100.0)  # within the margin


def test_anthropics_names() -> None:
    """Input and output apart, with points in time as resets."""
    allowance = told(ANTHROPIC)
    assert allowance.share_left(100.0) == pytest.approx(0.025)
    assert allowance.has_room(100, 100.0)
    assert not allowance.has_room(500, 100.0)
    assert allowance.share_left(160.0) == 1.0


def test_what_flows_back() -> None:
    """Limits fill steadily until their reset, and are full then."""
    allowance = told(OPENAI)
    assert not allowance.has_room(90_000, 100.0)
    assert allowance.has_room(80_000, 100.0 + 180)
    assert allowance.share_left(100.0 + 360) == 1.0


def test_what_is_sent_is_taken_off() -> None:
    """Until an answer tells, each request counts."""
    allowance = told(OPENAI)
    for _ in range(18):
        assert allowance.has_room(1, 100.0)
        allowance.take(1, 100.0)
    assert not allowance.has_room(1, 100.0)
    allowance.told([(name, b"59" if name.endswith(b"remaining-requests") else value) for name, value in OPENAI], 101, 0)
    assert allowance.has_room(1, 101.0)


@pytest.mark.parametrize(
    "nonsense",
    [
        [(b"x-ratelimit-limit-requests", b"60")],
        [(b"x-ratelimit-limit-requests", b"-60"), (b"x-ratelimit-remaining-requests", b"0")],
        [(b"x-ratelimit-limit-requests", b"0"), (b"x-ratelimit-remaining-requests", b"0")],
        [(b"x-ratelimit-limit-requests", b"nan"), (b"x-ratelimit-remaining-requests", b"inf")],
        [(b"x-ratelimit-limit-cats", b"60"), (b"x-ratelimit-remaining-cats", b"0")],
        [(b"x-ratelimit-limit-requests", b"1e400"), (b"x-ratelimit-remaining-requests", b"0")],
    ],
)
def test_nonsense_limits_nobody(nonsense: Headers) -> None:
    """What isn't a whole and sensible statement is none."""
    assert told(nonsense).has_room(10**6, 100.0)


def test_without_a_reset_a_minute_is_assumed() -> None:
    """Azure tells no reset; a reset that can't be read counts as none."""
    for reset in ([], [(b"x-ratelimit-reset-requests", b"soon")], [(b"x-ratelimit-reset-requests", b"9999-99-99T")]):
        allowance = told([(b"x-ratelimit-limit-requests", b"60"), (b"x-ratelimit-remaining-requests", b"0"), *reset])
        assert not allowance.has_room(0, 100.0)
        assert allowance.share_left(160.0) == 1.0


def test_refusals_say_when() -> None:
    """What a 429 says holds, up to a bound; else the wait doubles, and longer where a quota is used up."""
    allowance = Allowance()
    assert allowance.refused(7.0, False, 100.0) == 7.0
    assert allowance.not_before == 107.0
    assert allowance.refused(3600.0, False, 100.0) == LONGEST_WAIT_S
    fresh = Allowance()
    assert [fresh.refused(None, False, 0.0) for _ in range(4)] == [1.0, 2.0, 4.0, 8.0]
    fresh.accepted()
    assert [fresh.refused(None, True, 0.0) for _ in range(4)] == [60.0, 120.0, 240.0, LONGEST_WAIT_S]


@given(
    st.floats(1, 1e6),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 1e6)), max_size=30),
)
@settings(print_blob=True, deadline=None)
def test_never_more_than_the_limit_nor_less_than_none(
    limit: float, share: float, taken: list[tuple[float, float]]
) -> None:
    """However it is used, what is left stays between nothing and the limit, and grows with time."""
    stock, now = Stock(limit, share * limit, 0.0, 60.0), 0.0
    for gap, amount in taken:
        before = stock.left(now)
        now += gap
        assert stock.left(now) >= before - 1e-6 * limit
        stock.take(amount, now)
        assert -1e-6 * limit <= stock.left(now) <= limit * (1 + 1e-9)
    assert stock.left(now + 100_000) == limit
