"""Where entries are: this worker's memory first, then the Store, which all workers share.

Rules:
1. Memory is bounded in bytes; what was used least recently leaves first.
2. The Store is asked for a few milliseconds at most: a Store that is slow or lost is a miss, never a failure.
3. What is evicted is forgotten by all workers: evictions are told through the Store's feed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
from cachetools import LRUCache

from policies.cache.entry import Entry, Rendering, decoded, encoded
from proxy.state.protocol import StateLost, Store

TOPIC: Final = "cache"
PREFIX: Final = "cache/"
_AGAIN_S: Final = 1.0  # before a lost feed is followed again


class Eviction(msgspec.Struct, frozen=True, omit_defaults=True):
    """What all workers forget: entries by key, or all that have a tag."""

    keys: tuple[str, ...] = ()
    tag: str | None = None


_told: Final = msgspec.json.Decoder(Eviction).decode
_tell: Final = msgspec.json.Encoder().encode


class Tiers:
    """Both levels, as one."""

    def __init__(self, store: Store | None, memory_bytes: int, bound_s: float, count: Callable[..., object]) -> None:
        self._store = store
        self._bound_s = bound_s
        self._count = count
        self._memory: LRUCache[str, Rendering] = LRUCache(memory_bytes, getsizeof=lambda made: made.entry.size_bytes)

    @property
    def held(self) -> tuple[int, int]:
        """Entries and bytes in this worker's memory."""
        return len(self._memory), int(self._memory.currsize)

    def near(self, key: str) -> Rendering | None:
        """From this worker's memory."""
        return self._memory.get(key)

    async def find(self, key: str) -> Rendering | None:
        """From the Store; what is found is kept in memory."""
        if self._store is None:
            return None
        try:
            async with asyncio.timeout(self._bound_s):
                data = await self._store.get(PREFIX + key)
        except (StateLost, TimeoutError):
            self._count("cache_store_lost")
            return None
        entry = decoded(data) if data is not None else None
        return self.remember(entry) if entry is not None else None

    def remember(self, entry: Entry) -> Rendering | None:
        """Keeps an entry in memory, if it isn't larger than all of it."""
        try:
            made = Rendering(entry)
            self._memory[entry.key] = made
        except ValueError:
            return None
        return made

    async def keep(self, entry: Entry, lifetime_s: float) -> None:
        """Keeps an entry in both."""
        if self.remember(entry) is None or self._store is None:
            return
        data = await asyncio.to_thread(encoded, entry) if len(entry.body) > 65536 else encoded(entry)
        try:
            await self._store.put(PREFIX + entry.key, data, lifetime_s, [PREFIX + tag for tag in entry.tags])
        except StateLost:
            self._count("cache_store_lost")

    def forget(self, told: Eviction) -> int:
        """Forgets entries in memory; says how many."""
        gone = [key for key in told.keys if key in self._memory]
        if told.tag is not None:
            gone += [key for key, made in self._memory.items() if told.tag in made.entry.tags]
        for key in gone:
            self._memory.pop(key, None)
        return len(gone)

    async def follow(self) -> None:
        """Hears of evictions, for ever."""
        assert self._store is not None
        at: str | None = None
        while True:
            try:
                async for position, message in self._store.follow(TOPIC, at):
                    at = position
                    self._heard(message)
            except StateLost:
                self._memory.clear()  # what was evicted meanwhile isn't known
                await asyncio.sleep(_AGAIN_S)

    def _heard(self, message: bytes) -> None:
        try:
            self.forget(_told(message))
        except msgspec.MsgspecError:
            self._memory.clear()


async def evict(store: Store, told: Eviction) -> int:
    """Forgets entries everywhere: in the Store, and by its feed in all workers. Says how many the Store had."""
    gone = await store.delete([PREFIX + key for key in told.keys]) if told.keys else 0
    if told.tag is not None:
        gone += await store.delete_tagged(PREFIX + told.tag)
    await store.publish(TOPIC, _tell(told))
    return gone


async def get(store: Store, key: str) -> dict[str, Any] | None:
    """What the Store has under a key, to be looked at."""
    data = await store.get(PREFIX + key)
    entry = decoded(data) if data is not None else None
    return None if entry is None else msgspec.to_builtins(entry, builtin_types=(bytes,))
