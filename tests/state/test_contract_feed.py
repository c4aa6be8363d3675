"""The contract of duties and of the feed, for every backend."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest

from proxy.state.protocol import StateLost, Store
from tests.patience import PATIENCE_S
from tests.state.asking import eventually
from tests.state.backends import Backend


@pytest.fixture
async def store(backend: Backend) -> Store:
    """One worker's Store."""
    return await backend.connect()


async def test_a_duty_is_somebodys(backend: Backend) -> None:
    """One has it, may renew it, and others don't get it."""
    one, two = await backend.connect(), await backend.connect()
    assert await one.claim("close", "a", 60)
    assert not await two.claim("close", "b", 60)
    assert await one.claim("close", "a", 60)
    assert await two.claim("poll", "b", 60)


async def test_a_duty_ends_with_its_time(store: Store) -> None:
    """Who doesn't renew it loses it."""
    assert await store.claim("close", "a", 0.05)

    async def taken() -> bool:
        return await store.claim("close", "b", 60)

    await eventually(taken)
    assert not await store.claim("close", "a", 60)


async def test_a_duty_is_given_up_by_who_has_it(store: Store) -> None:
    """And by nobody else."""
    assert await store.claim("close", "a", 60)
    await store.resign("close", "b")
    assert not await store.claim("close", "b", 60)
    await store.resign("close", "a")
    assert await store.claim("close", "b", 60)
    await store.resign("nothing", "a")


async def read(following: AsyncIterator[tuple[str, bytes]], count: int) -> list[tuple[str, bytes]]:
    """So many messages."""
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(following) for _ in range(count)]


async def test_all_followers_are_told(backend: Backend) -> None:
    """In order, with the positions that publishing gave."""
    one, two = await backend.connect(), await backend.connect()
    told = [(await one.publish("t", message), message) for message in (b"1", b"\x00\xff", b"")]
    for store in (one, two):
        following = store.follow("t", "")
        assert await read(following, 3) == told
        await following.aclose()  # type: ignore[attr-defined]


async def test_from_now_on(backend: Backend) -> None:
    """Without a position, what was told before isn't told again."""
    one, two = await backend.connect(), await backend.connect()
    await one.publish("t", b"before")
    following = two.follow("t")
    first = asyncio.get_running_loop().create_task(anext(following))  # type: ignore[arg-type]
    for number in itertools.count():
        await one.publish("t", b"%d" % number)
        done, _ = await asyncio.wait([first], timeout=0.02)
        if done:
            break
    assert first.result()[1].isdigit()
    await following.aclose()  # type: ignore[attr-defined]


async def test_from_the_call_on(store: Store) -> None:
    """What the same worker tells after the call is heard, though nobody has looked yet."""
    await store.publish("t", b"before")
    following = store.follow("t")
    await asyncio.sleep(0)
    position = await store.publish("t", b"after")
    assert await read(following, 1) == [(position, b"after")]
    await following.aclose()  # type: ignore[attr-defined]


async def test_after_a_position(store: Store) -> None:
    """Who comes back goes on where it was, and hears what is told from then on too."""
    told = [(await store.publish("t", b"%d" % n), b"%d" % n) for n in range(5)]
    following = store.follow("t", told[2][0])
    assert await read(following, 2) == told[3:]
    waiting = asyncio.get_running_loop().create_task(anext(following))  # type: ignore[arg-type]
    position = await store.publish("t", b"new")
    async with asyncio.timeout(PATIENCE_S):
        assert await waiting == (position, b"new")
    await following.aclose()  # type: ignore[attr-defined]


async def test_positions_grow(store: Store) -> None:
    """As text too, so that they can be compared."""
    positions = [await store.publish("t", b"") for _ in range(50)]
    assert positions == sorted(positions)
    assert len(set(positions)) == 50


async def test_topics_are_apart(store: Store) -> None:
    """A follower hears its topic."""
    await store.publish("other", b"no")
    position = await store.publish("t", b"yes")
    await store.publish("other", b"no")
    following = store.follow("t", "")
    assert await read(following, 1) == [(position, b"yes")]
    waiting = asyncio.get_running_loop().create_task(anext(following))  # type: ignore[arg-type]
    await store.publish("other", b"no")
    await store.publish("t", b"again")
    async with asyncio.timeout(PATIENCE_S):
        assert (await waiting)[1] == b"again"
    await following.aclose()  # type: ignore[attr-defined]


async def test_the_last_ten_thousand_are_kept(store: Store) -> None:
    """And an hour's in any case: here nothing goes, though there are more."""
    many = 10_100
    for start in range(0, many, 500):
        await asyncio.gather(*[store.publish("t", b"%d" % n) for n in range(start, min(start + 500, many))])
    found: list[tuple[str, bytes]] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < many:  # who is far behind may be told to follow again
            following = store.follow("t", found[-1][0] if found else "")
            with contextlib.suppress(StateLost):
                while len(found) < many:
                    found.append(await anext(following))
            await following.aclose()  # type: ignore[attr-defined]
    assert sorted(int(message) for _, message in found) == list(range(many))
