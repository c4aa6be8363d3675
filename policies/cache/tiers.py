"""Where entries are: this worker's memory first, then the Store, which all workers share.

Rules:
1. Memory is bounded in bytes; what was used least recently leaves first.
2. The Store is asked for a few milliseconds at most: a Store that is slow or lost is a miss, never a failure.
3. What is evicted is forgotten by all workers: evictions are told through the Store's feed. A worker that lost the feed
   hears what it missed when it has it again.
4. Packing and unpacking of what is large is done in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from cachetools import LRUCache

from policies.cache.entry import Entry, Rendering, decoded, encoded
from proxy.metrics import Metrics
from proxy.state.blobs import MOST_BLOB_BYTES
from proxy.state.protocol import StateLost, Store

TOPIC: Final = "cache"
PREFIX: Final = "cache/"
FORGOTTEN: Final = "cache-forgotten/"
FORGOTTEN_S: Final = 30 * 86_400.0  # longer than the feed keeps what was said before
_AGAIN_S: Final = 1.0  # before a lost feed is followed again
_LARGE_BYTES: Final = 8 * 1024  # packing takes 0.1 ms
_AT_ONCE: Final = 1000  # entries looked through before others have their turn


class Eviction(msgspec.Struct, frozen=True, omit_defaults=True):
    """What all workers forget: entries by key, or all that have a tag."""

    keys: tuple[str, ...] = ()
    tag: str | None = None


_told: Final = msgspec.json.Decoder(Eviction).decode
_tell: Final = msgspec.json.Encoder().encode


class _Memory(LRUCache[str, Rendering]):
    """Entries up to a size; counts those that left to make room. `near` finds one without saying that it was used."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(most_bytes, getsizeof=lambda made: made.size_bytes)
        self.left = 0
        self._all: dict[str, Rendering] = {}
        self.near = self._all.get

    def __setitem__(self, key: str, made: Rendering) -> None:
        super().__setitem__(key, made)
        self._all[key] = made

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        del self._all[key]

    def popitem(self) -> tuple[str, Rendering]:
        self.left += 1
        return super().popitem()


class Tiers:
    """Both levels, as one. `name` is the policy's, for metrics."""

    def __init__(self, store: Store | None, memory_bytes: int, bound_s: float, metrics: Metrics, name: str) -> None:
        self._store = store
        self._bound_s = bound_s
        self._metrics = metrics
        self._name = name
        self._memory = _Memory(memory_bytes)
        self.near = self._memory.near  # from this worker's memory, by key; whoever gives it says so by `used`
        self.forgotten: Callable[[Eviction], object] | None = None  # hears of every eviction

    def __repr__(self) -> str:
        return f"<Tiers {self.held[0]} entries, {self.held[1]} bytes>"

    def used(self, key: str) -> None:
        """An entry was given: others leave before it."""
        self._memory.get(key)

    @property
    def held(self) -> tuple[int, int]:
        """Entries and bytes in this worker's memory."""
        return len(self._memory), int(self._memory.currsize)

    async def find(self, key: str, *, newer: bool = False) -> Rendering | None:
        """From the Store; what is found is kept in memory. `newer`: only if it is newer than what is there."""
        if self._store is None:
            return None
        try:
            async with asyncio.timeout(self._bound_s):
                data = await self._store.get(PREFIX + key)
        except (StateLost, TimeoutError):
            self._metrics.count("cache_store_lost")
            return None
        if data is None:
            return None
        made = await asyncio.to_thread(_unpacked, data) if len(data) > _LARGE_BYTES else _unpacked(data)
        if made is None or made.entry.key != key:
            return None
        old = self.near(key)
        if newer and old is not None and old.entry.made_s >= made.entry.made_s:
            return None
        self._remember(made)
        return made

    async def keep(self, entry: Entry, lifetime_s: float) -> None:
        """Keeps an entry in both."""
        large = len(entry.body) > _LARGE_BYTES
        try:
            made = await asyncio.to_thread(Rendering, entry) if large else Rendering(entry)
        except ValueError:
            return
        if not self._remember(made) or self._store is None:
            return
        data = await asyncio.to_thread(encoded, entry) if large else encoded(entry)
        if len(data) > MOST_BLOB_BYTES:
            self._metrics.count("cache_entry_too_large")
            return
        try:
            await self._store.put(PREFIX + entry.key, data, lifetime_s, [PREFIX + tag for tag in entry.tags])
        except StateLost:
            self._metrics.count("cache_store_lost")

    def _remember(self, made: Rendering) -> bool:
        """Keeps an entry in memory, if it isn't larger than all of it."""
        try:
            self._memory[made.entry.key] = made
        except ValueError:
            return False
        self._tell_size()
        return True

    def grown(self, made: Rendering) -> None:
        """An entry keeps more than it did: others may have to leave."""
        key = made.entry.key
        if key in self._memory and not self._remember(made):
            self._memory.pop(key, None)
            self._tell_size()

    async def forget(self, told: Eviction) -> int:
        """Forgets entries in memory; says how many."""
        if self.forgotten is not None:
            self.forgotten(told)
        gone = [key for key in told.keys if self._memory.pop(key, None) is not None]
        if told.tag is not None:
            entries = list(self._memory.items())
            for start in range(0, len(entries), _AT_ONCE):
                for key, made in entries[start : start + _AT_ONCE]:
                    if told.tag in made.entry.tags and self._memory.pop(key, None) is not None:
                        gone.append(key)
                await asyncio.sleep(0)
        self._tell_size()
        return len(gone)

    def _tell_size(self) -> None:
        memory, metrics, name = self._memory, self._metrics, self._name
        metrics.level(name, "cache_entries", len(memory))
        metrics.level(name, "cache_bytes", memory.currsize)
        if memory.left:
            metrics.decision(name, "dropped", memory.left)
            memory.left = 0

    async def follow(self) -> None:
        """Hears of evictions, for ever."""
        assert self._store is not None
        at: str | None = None
        while True:
            try:
                async for position, message in self._store.follow(TOPIC, at):
                    at = position
                    await self._heard(message)
            except StateLost:
                at = at or ""  # nothing was heard yet: all that is kept is heard again, which forgets a little too much
            await asyncio.sleep(_AGAIN_S)

    async def _heard(self, message: bytes) -> None:
        try:
            await self.forget(_told(message))
        except msgspec.MsgspecError:
            self._memory.clear()
            self._tell_size()


def _unpacked(data: bytes) -> Rendering | None:
    entry = decoded(data)
    try:
        return None if entry is None else Rendering(entry)
    except ValueError:
        return None


async def evict(store: Store, told: Eviction) -> int:
    """Forgets entries everywhere: in the Store, and by its feed in all workers. Says how many the Store had.

    Raises StateLost where that took too long; the workers are told all the same.
    """
    try:
        gone = await store.delete([PREFIX + key for key in told.keys]) if told.keys else 0
        if told.tag is not None:
            await store.put(FORGOTTEN + told.tag, b"%d" % time.time_ns(), FORGOTTEN_S)
            gone += await store.delete_tagged(PREFIX + told.tag)
    finally:  # afterwards, or a worker could find again what it was told to forget
        await store.publish(TOPIC, _tell(told))
    return gone


async def forgotten(store: Store, kind: str) -> dict[str, int]:
    """What was evicted by a tag of this kind (`tenant=`) in the last month, and when, in Unix nanoseconds."""
    found = {}
    for key in await store.keys(FORGOTTEN + kind, 1_000_000):
        at = await store.get(key)
        if at is not None:
            found[key.removeprefix(FORGOTTEN + kind)] = int(at)
    return found


async def get(store: Store, key: str) -> dict[str, Any] | None:
    """What the Store has under a key, to be looked at."""
    data = await store.get(PREFIX + key)
    entry = decoded(data) if data is not None else None
    return None if entry is None else msgspec.to_builtins(entry, builtin_types=(bytes,))
