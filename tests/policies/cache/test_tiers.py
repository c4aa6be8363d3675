"""Where entries are: the bound of memory, the Store when it is slow or away, evictions that everybody hears of."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc
from collections.abc import AsyncIterator, Sequence

import orjson
import pytest

from policies.cache.entry import Entry
from policies.cache.tiers import TOPIC, Eviction, Tiers, evict, get
from proxy.metrics import Metrics
from proxy.state.memory import MemoryStore
from proxy.state.protocol import StateLost
from tests.patience import PATIENCE_S
from tests.policies.cache.scripted import chat
from tests.policies.cache.test_entry import entry

MIB = 2**20


def kept(number: int, size: int = 300, **fields: object) -> Entry:
    body = bytes(memoryview(orjson.dumps(chat("stop", content=f"{number:08x}" * (size // 8)))))  # as large as it says
    tags = (f"tenant=t{number % 7}", f"model=m{number % 3}", "policy=cache", f"n={number}")
    return entry(body, key=f"{number:032x}", tags=tags, **fields)


def tiers(store: MemoryStore | None = None, memory: int = MIB, bound_s: float = 1.0) -> tuple[Tiers, Metrics]:
    metrics = Metrics()
    return Tiers(store, memory, bound_s, metrics, "cache"), metrics


@pytest.mark.parametrize("size", [50, 2000, 40_000])
@pytest.mark.parametrize("streamed", [False, True])
async def test_memory_is_bounded_in_bytes(size: int, streamed: bool) -> None:
    """What entries take is at most what was allowed, however large they are, with the streams that they keep."""
    most = 2 * MIB
    both, metrics = tiers(memory=most)
    await both.keep(kept(0, size), 60)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1, 5 * MIB // (size + 2000)):
            await both.keep(kept(number, size), 60)
            made = both.near(f"{number:032x}")
            if streamed and made is not None:
                made.streamed("id", 1.0, include_usage=True)
                both.grown(made)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    entries, claimed = both.held
    assert claimed <= most
    assert taken <= most
    assert taken >= most / 6, "the bound is there to be used"
    assert entries == metrics.snapshot()["levels"][0][2]
    dropped = {action: count for _, action, count in metrics.snapshot()["decisions"]}["dropped"]
    assert dropped > 0


async def test_the_least_used_leave_first() -> None:
    """What was asked for lately stays."""
    both, _ = tiers(memory=20_000)
    for number in range(100):
        await both.keep(kept(number), 60)
        both.used(f"{0:032x}")
    assert both.near(f"{0:032x}") is not None
    assert both.near(f"{1:032x}") is None


async def test_too_large_for_memory() -> None:
    """An entry larger than all of it is kept nowhere, and pushes nothing out."""
    store = MemoryStore()
    both, _ = tiers(store, memory=20_000)
    await both.keep(kept(1), 60)
    await both.keep(kept(2, 100_000), 60)
    assert both.held[0] == 1
    assert len(await store.keys("cache/")) == 1


class Slow(MemoryStore):
    """A Store that doesn't answer, or says that it is lost."""

    lost = False

    async def get(self, key: str) -> bytes | None:
        if self.lost:
            raise StateLost
        await asyncio.Event().wait()
        return None

    async def put(self, key: str, value: bytes, ttl_s: float, tags: Sequence[str] = ()) -> None:
        raise StateLost


async def test_a_store_that_is_away_is_a_miss() -> None:
    """Silent or lost: nothing is found, it is counted, and memory goes on."""
    store = Slow()
    both, metrics = tiers(store, bound_s=0.01)
    assert await both.find("k") is None
    store.lost = True
    assert await both.find("k") is None
    await both.keep(kept(1), 60)
    assert both.near(f"{1:032x}") is not None
    assert metrics.snapshot()["events"] == {"cache_store_lost": 3}


async def test_what_the_store_has() -> None:
    """It is found once and then near; damage and another's entry are nothing."""
    store = MemoryStore()
    one, _ = tiers(store)
    two, _ = tiers(store)
    await one.keep(kept(1), 60)
    found = await two.find(f"{1:032x}")
    assert found is not None and found.entry == kept(1)
    assert two.near(f"{1:032x}") is found
    data = await store.get(f"cache/{1:032x}")
    assert data is not None
    await store.put("cache/other", data, 60)
    await store.put("cache/damaged", data[:-5], 60)
    assert await two.find("other") is None
    assert await two.find("damaged") is None
    looked = await get(store, f"{1:032x}")
    assert looked is not None and looked["tags"] == kept(1).tags


async def test_only_newer() -> None:
    """A worker whose entry is stale takes over what another made since, and nothing older."""
    store = MemoryStore()
    one, _ = tiers(store)
    two, _ = tiers(store)
    await one.keep(kept(1, made_s=10.0), 60)
    await two.keep(kept(1, made_s=20.0), 60)
    newer = await one.find(f"{1:032x}", newer=True)
    assert newer is not None and newer.entry.made_s == 20.0
    assert await one.find(f"{1:032x}", newer=True) is None


async def test_evictions_by_tag_and_by_entry() -> None:
    """In memory as in the Store, and nothing else."""
    store = MemoryStore()
    both, _ = tiers(store, memory=64 * MIB)
    for number in range(3000):
        await both.keep(kept(number), 60)
    assert await evict(store, Eviction(tag="tenant=t0")) == 429
    assert await both.forget(Eviction(tag="tenant=t0")) == 429
    assert await both.forget(Eviction(keys=(f"{1:032x}", "unknown"))) == 1
    assert both.held[0] == 3000 - 430
    assert both.near(f"{7:032x}") is None and both.near(f"{8:032x}") is not None


class Fickle(MemoryStore):
    """A Store whose feed breaks as often as it is told to."""

    broken: asyncio.Event

    def follow(self, topic: str, after: str | None = None) -> AsyncIterator[tuple[str, bytes]]:
        async def followed() -> AsyncIterator[tuple[str, bytes]]:
            messages = MemoryStore.follow(self, topic, after)
            ended = asyncio.ensure_future(self.broken.wait())
            while True:
                heard = asyncio.ensure_future(anext(messages))  # type: ignore[arg-type]
                await asyncio.wait((heard, ended), return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    heard.cancel()
                    raise StateLost
                yield heard.result()

        return followed()


async def test_a_lost_feed_is_caught_up_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was evicted while a worker heard nothing is evicted when it hears again, and the rest is still there."""
    monkeypatch.setattr("policies.cache.tiers._AGAIN_S", 0.0)
    store = Fickle()
    store.broken = asyncio.Event()
    both, _ = tiers(store)
    for number in range(3):
        await both.keep(kept(number), 60)
    following = asyncio.ensure_future(both.follow())
    await asyncio.sleep(0)
    store.broken.set()
    for _ in range(5):
        await asyncio.sleep(0)
    await evict(store, Eviction(keys=(f"{0:032x}",)))
    assert both.near(f"{0:032x}") is not None
    store.broken.clear()
    async with asyncio.timeout(PATIENCE_S):
        while both.near(f"{0:032x}") is not None:
            await asyncio.sleep(0)
    assert both.held[0] == 2
    await store.publish(TOPIC, b"?")  # by another version: better to forget too much
    async with asyncio.timeout(PATIENCE_S):
        while both.held[0]:
            await asyncio.sleep(0)
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
