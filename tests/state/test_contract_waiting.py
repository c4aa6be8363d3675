"""The contract of waiting, for every backend: first come, first served, and nobody waits for the dead."""

from __future__ import annotations

import asyncio

import pytest

from proxy.state.protocol import Granted, Level, Refused, Scope, Store
from tests.patience import PATIENCE_S
from tests.state.asking import HOUR_NS, eventually, granted, hold, left, numbers, queued, refused, scope
from tests.state.backends import Backend

TEAM, OTHER, ORG = scope("team:search"), scope("team:docs"), scope("org:acme", 150)


@pytest.fixture
async def store(backend: Backend) -> Store:
    """One worker's Store."""
    return await backend.connect()


async def test_a_hold_waits_for_what_is_held(store: Store) -> None:
    """It is granted when there is room, by whatever made the room."""
    id = await granted(store, (TEAM, 80))
    waiting = await queued(store, hold((TEAM, 50)))
    assert not waiting.done()
    await store.close(id, [40])
    assert await waiting == Granted((Level(40, 50),))


async def test_it_waits_no_longer_than_it_may(store: Store) -> None:
    """Then it is refused because of what is held, and its place is free."""
    await granted(store, (TEAM, 80))
    answer = await refused(store, (TEAM, 50), wait_s=0.1)
    assert (answer.part, answer.why, answer.levels) == (0, "held", (Level(0, 80),))
    await granted(store, (TEAM, 20))


async def test_waiting_is_told(store: Store) -> None:
    """Whoever could give back sees that somebody queues."""
    id = await granted(store, (TEAM, 80))
    waiting = await queued(store, hold((TEAM, 50), (ORG, 1)))
    assert await store.levels([TEAM, ORG]) == (Level(0, 80, True), Level(0, 0, False))
    assert (await store.adjust(id, [60], [0], await store.ping() + HOUR_NS))[0].waiting
    await left(store, waiting)
    await eventually(lambda: _nobody(store))


async def _nobody(store: Store) -> bool:
    return not any(level.waiting for level in await store.levels([TEAM, OTHER, ORG]))


async def test_first_come_first_served(backend: Backend) -> None:
    """Over all workers, whatever the amounts: a small one doesn't overtake."""
    one, two = await backend.connect(), await backend.connect()
    id = await granted(one, (TEAM, 100))
    first = await queued(one, hold((TEAM, 60), id="first"))
    second = await queued(two, hold((TEAM, 30), id="second"))
    third = await queued(one, hold((TEAM, 20), id="third"))
    assert (await refused(two, (TEAM, 0))).why == "held", "not even where it fits"
    await one.adjust(id, [70], [0], await one.ping() + HOUR_NS)
    assert await numbers(two, TEAM) == [(0, 70)], "30 are free, but the first wants 60"
    await one.adjust(id, [40], [0], await one.ping() + HOUR_NS)
    assert isinstance(await first, Granted)
    assert not second.done() and not third.done()
    await one.close(id, [0])
    assert isinstance(await second, Granted)
    assert not third.done()
    await one.close("first", [0])
    assert isinstance(await third, Granted)


async def test_one_release_lets_in_as_many_as_fit(store: Store) -> None:
    """In order, up to the first that doesn't."""
    id = await granted(store, (TEAM, 100))
    waiting = [await queued(store, hold((TEAM, amount))) for amount in (30, 30, 30, 30, 10)]
    await store.close(id, [0])
    for task in waiting[:3]:
        assert isinstance(await task, Granted)
    await eventually(lambda: _held(store, TEAM, 90))
    assert not waiting[3].done() and not waiting[4].done()
    await left(store, *waiting[3:])


async def _held(store: Store, of: Scope, amount: int) -> bool:
    return (await store.levels([of]))[0].held == amount


async def test_who_gives_up_makes_way(store: Store) -> None:
    """Cancelling stops waiting; the next may fit."""
    await granted(store, (TEAM, 80))
    large = await queued(store, hold((TEAM, 50)))
    small = await queued(store, hold((TEAM, 20)))
    await left(store, large)
    assert isinstance(await small, Granted)
    assert await numbers(store, TEAM) == [(0, 100)]


async def test_whose_wait_is_over_makes_way(store: Store) -> None:
    """So does the end of a wait."""
    await granted(store, (TEAM, 80))
    large = await queued(store, hold((TEAM, 50)), 0.3)
    small = await queued(store, hold((TEAM, 20)))
    assert isinstance(await large, Refused)
    assert isinstance(await small, Granted)


async def test_a_cancelled_reservation_holds_nothing(store: Store) -> None:
    """Whenever it is cancelled: on its way, waiting, or granted a moment ago."""
    id = await granted(store, (TEAM, 100))
    waiting = [asyncio.get_running_loop().create_task(store.reserve(hold((TEAM, 50)), 20.0)) for _ in range(8)]
    await asyncio.sleep(0)
    closing = asyncio.get_running_loop().create_task(store.close(id, [0]))
    for task in waiting:
        task.cancel()
        await asyncio.sleep(0)
    await closing
    await asyncio.gather(*waiting, return_exceptions=True)
    kept = 50 * sum(not task.cancelled() for task in waiting)
    await eventually(lambda: _held(store, TEAM, kept))


async def test_waiting_for_one_scope_is_not_in_the_way_of_others(store: Store) -> None:
    """A team that is full doesn't stop the organisation's other teams."""
    await granted(store, (TEAM, 100), (ORG, 50))
    waiting = await queued(store, hold((TEAM, 10), (ORG, 10)))
    await granted(store, (OTHER, 50), (ORG, 50))
    assert not waiting.done()
    await left(store, waiting)


async def test_the_oldest_keeps_room_for_itself(store: Store) -> None:
    """Those who pass can't starve it: what it needs of the scopes that it doesn't wait for is left to it."""
    id = await granted(store, (TEAM, 100), (ORG, 100))
    waiting = await queued(store, hold((TEAM, 40), (ORG, 40)))
    assert (await refused(store, (OTHER, 20), (ORG, 20))).why == "held"
    await granted(store, (OTHER, 10), (ORG, 10))
    await store.close(id, [0, 100])
    assert isinstance(await waiting, Granted)
    assert await numbers(store, TEAM, ORG) == [(0, 40), (100, 50)]


async def test_who_waits_for_two_scopes_gets_in_when_both_have_room(store: Store) -> None:
    """And nothing is held by waiting."""
    team, org = await granted(store, (TEAM, 100)), await granted(store, (ORG, 150))
    waiting = await queued(store, hold((TEAM, 40), (ORG, 40)))
    await store.close(team, [0])
    assert await numbers(store, TEAM, ORG) == [(0, 0), (0, 150)]
    await store.close(org, [0])
    assert isinstance(await waiting, Granted)


async def test_queues_of_several_scopes_do_not_lock_each_other(store: Store) -> None:
    """Crossing waits end when the holds do."""
    scopes = (TEAM, OTHER, ORG)
    ids = [await granted(store, (of, of.limit)) for of in scopes]
    pairs = [(a, b) for a in scopes for b in scopes if a is not b] * 3
    waiting = [await queued(store, hold((a, 60), (b, 60), id=f"pair {n}")) for n, (a, b) in enumerate(pairs)]
    for id in ids:
        await store.close(id, [0])
    for done in range(len(pairs)):
        async with asyncio.timeout(PATIENCE_S):
            finished, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answer = finished.pop()
        assert isinstance(answer.result(), Granted), done
        await store.close(_id_of(answer, waiting), [0, 0])
        waiting[waiting.index(answer)] = asyncio.get_running_loop().create_future()  # type: ignore[call-overload]


def _id_of(task: object, waiting: list[asyncio.Task[Granted | Refused]]) -> str:
    return f"pair {waiting.index(task)}"  # type: ignore[arg-type]


async def test_what_is_spent_meanwhile_ends_the_wait(store: Store) -> None:
    """Once it can't fit any more, it is told at once."""
    id = await granted(store, (TEAM, 80))
    waiting = await queued(store, hold((TEAM, 50)))
    await store.close(id, [80])
    answer = await waiting
    assert isinstance(answer, Refused)
    assert (answer.why, answer.levels) == ("spent", (Level(80, 0),))


async def test_a_rolling_window_lets_in_by_time_alone(store: Store) -> None:
    """What rolls out of the window makes room without anybody's doing."""
    rolling = Scope("team:rolling", 100, span_ns=400_000_000)
    await store.close(await granted(store, (rolling, 30)), [30])
    await granted(store, (rolling, 60))
    waiting = await queued(store, hold((rolling, 40)))
    assert isinstance(await waiting, Granted)


async def test_the_end_of_the_window_ends_the_wait(store: Store) -> None:
    """There is another window to ask for, at once."""
    ending = Scope("team:minute", 100, ends_ns=await store.ping() + 300_000_000)
    await granted(store, (ending, 80))
    answer = await (await queued(store, hold((ending, 50))))
    assert isinstance(answer, Refused)
    assert (answer.why, answer.retry_ns) == ("held", 1)


async def test_the_same_hold_may_wait_twice(store: Store) -> None:
    """It is granted to both, and held once."""
    id = await granted(store, (TEAM, 80))
    asked = hold((TEAM, 50))
    first, second = await queued(store, asked), await queued(store, asked)
    await store.close(id, [0])
    assert isinstance(await first, Granted)
    assert isinstance(await second, Granted)
    assert await numbers(store, TEAM) == [(0, 50)]


async def test_nobody_waits_for_the_dead(backend: Backend) -> None:
    """A worker that has gone without a word loses its place."""
    dying, living = await backend.connect(), await backend.connect()
    id = await granted(living, (TEAM, 80))
    lost = await queued(dying, hold((TEAM, 60)))
    waiting = await queued(living, hold((TEAM, 50)))
    await backend.crash(dying)
    await living.close(id, [0])
    assert isinstance(await waiting, Granted)
    await left(living, lost)
    assert await numbers(living, TEAM) == [(0, 50)]


async def test_a_thousand_wait_in_order(backend: Backend) -> None:
    """Nobody is forgotten and nothing is overspent, with two workers at once."""
    stores = [await backend.connect(), await backend.connect()]
    order: list[int] = []

    async def one(number: int) -> None:
        asked = hold((TEAM, 10))
        assert isinstance(await stores[number % 2].reserve(asked, 60.0), Granted)
        order.append(number)
        level = (await stores[number % 2].levels([TEAM]))[0]
        assert level.held + level.spent <= TEAM.limit
        assert await stores[number % 2].close(asked.id, [0])

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*[one(number) for number in range(400)])
    assert sorted(order) == list(range(400))
    assert await stores[0].levels([TEAM]) == (Level(0, 0),)
