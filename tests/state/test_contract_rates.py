"""The contract of rate limits, for every backend."""

from __future__ import annotations

import pytest

from proxy.state.protocol import Rate, Store
from tests.state.asking import HOUR_NS, eventually
from tests.state.backends import Backend


@pytest.fixture
async def store(backend: Backend) -> Store:
    """One worker's Store."""
    return await backend.connect()


def rate(key: str = "rpm", limit: int = 5, period_ns: int = HOUR_NS, **more: int) -> Rate:
    """Five an hour: nothing comes back while a test runs."""
    return Rate(key, limit, period_ns, **more)


async def test_the_burst_is_one_periods_limit(store: Store) -> None:
    """So many at once and no more; what is left, and until when all of it is back, is told."""
    for left in (4, 3, 2, 1, 0):
        (taken,) = await store.take([rate()])
        assert (taken.allowed, taken.remaining, taken.retry_ns) == (True, left, 0)
        assert 0 < HOUR_NS * (5 - left) // 5 - taken.reset_ns + 1 < HOUR_NS // 100
    (taken,) = await store.take([rate()])
    assert (taken.allowed, taken.remaining) == (False, 0)
    assert 0 < HOUR_NS // 5 - taken.retry_ns < HOUR_NS // 100
    assert 0 < HOUR_NS - taken.reset_ns < HOUR_NS // 100


async def test_all_workers_share_a_rate(backend: Backend) -> None:
    """It is one number, whoever takes."""
    one, two = await backend.connect(), await backend.connect()
    assert (await one.take([rate(cost=3)]))[0].remaining == 2
    assert (await two.take([rate(cost=2)]))[0].remaining == 0
    assert not (await one.take([rate()]))[0].allowed


async def test_all_rates_or_none(store: Store) -> None:
    """One that doesn't allow it leaves the others as they were, and which one it was is told."""
    requests, tokens = rate("rpm", 5), rate("tpm", 1000, cost=600)
    assert [t.allowed for t in await store.take([requests, tokens])] == [True, True]
    first, second = await store.take([requests, tokens])
    assert (first.allowed, first.remaining) == (True, 4)
    assert (second.allowed, second.remaining) == (False, 400)
    assert [t.remaining for t in await store.take([requests, rate("tpm", 1000, cost=400)])] == [3, 0]


async def test_a_burst_may_be_said(store: Store) -> None:
    """Smaller or larger than a period's limit."""
    assert [(await store.take([rate("small", burst=2)]))[0].allowed for _ in range(3)] == [True, True, False]
    assert (await store.take([rate("large", cost=9, burst=10)]))[0].remaining == 1


async def test_what_never_fits_is_not_waited_for(store: Store) -> None:
    """A cost above the burst has no time after which it would be allowed."""
    (taken,) = await store.take([rate(cost=6)])
    assert (taken.allowed, taken.remaining, taken.retry_ns) == (False, 5, 0)


async def test_a_limit_of_nothing(store: Store) -> None:
    """Zero allows nothing, and divides nothing."""
    (taken,) = await store.take([rate(limit=0)])
    assert (taken.allowed, taken.remaining, taken.retry_ns) == (False, 0, 0)


async def test_time_gives_back(store: Store) -> None:
    """A fifth of a period brings back a fifth of the limit, and at most all of it."""
    fast = rate(period_ns=500_000_000)
    await store.take([rate(period_ns=500_000_000, cost=5)])

    async def allowed() -> bool:
        return (await store.take([fast]))[0].allowed

    await eventually(allowed)

    async def whole() -> bool:
        return (await store.take([rate(period_ns=500_000_000, cost=0)]))[0].remaining == 5

    await eventually(whole)


async def test_giving_back(store: Store) -> None:
    """What was not used can be taken again; never more than all."""
    await store.take([rate(cost=5)])
    await store.give([rate(cost=2)])
    assert (await store.take([rate(cost=0)]))[0].remaining == 2
    await store.give([rate(cost=100)])
    assert (await store.take([rate(cost=5)]))[0].allowed
    assert not (await store.take([rate()]))[0].allowed


async def test_taking_what_turned_out_to_be_used(store: Store) -> None:
    """It goes beyond the limit, and delays the next by as much."""
    await store.take([rate(cost=5)])
    await store.give([rate(cost=-5)])
    (taken,) = await store.take([rate()])
    assert (taken.allowed, taken.remaining) == (False, 0)
    assert HOUR_NS < taken.retry_ns <= HOUR_NS * 6 // 5


async def test_the_same_rate_twice_in_one_call(store: Store) -> None:
    """It is taken twice."""
    assert [t.remaining for t in await store.take([rate(), rate()])] == [4, 3]
    assert [t.allowed for t in await store.take([rate(cost=2), rate(cost=2)])] == [True, False]
    assert (await store.take([rate(cost=0)]))[0].remaining == 3


@pytest.mark.parametrize("limit", [7, 60, 999_983, 30_000_000])
async def test_the_whole_limit_in_pieces(store: Store, limit: int) -> None:
    """Rounding costs nobody the last unit."""
    for part in (limit // 3, limit // 3, limit - 2 * (limit // 3)):
        assert (await store.take([rate("tpm", limit, cost=part)]))[0].allowed
    assert (await store.take([rate("tpm", limit, cost=0)]))[0].remaining < limit / 100


async def test_no_double_burst(store: Store) -> None:
    """Within any time no more than the burst and what time brings back is allowed: there is no boundary to wait for."""
    fast = rate(limit=50, period_ns=100_000_000)
    began_ns, allowed = await store.ping(), 0
    for _ in range(400):
        allowed += (await store.take([fast]))[0].allowed
    assert allowed <= 50 + (await store.ping() - began_ns) * 50 / 100_000_000 + 1


async def test_no_rates_are_always_allowed(store: Store) -> None:
    """Nothing asked, nothing taken."""
    assert await store.take([]) == ()
    await store.give([])
