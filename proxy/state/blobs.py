"""Small values in memory, with a time to live. Pure: the time is handed in.

Of what a cache holds at most `most_bytes` are kept: beyond, what was put first goes first. Everything else (jobs, who
owns an object, what was learnt) stays until its time is over, however busy the cache is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

MOST_BLOB_BYTES: Final = 4 * 2**20
CACHED: Final = ("cache/", "semantic/")  # how keys begin whose values can be had anew


class Shelf(Protocol):
    """Where a backend keeps values."""

    def get(self, key: str, now_ns: int) -> bytes | None:
        """The value, unless its time is over."""

    def put(self, key: str, value: bytes, until_ns: int, tags: Sequence[str]) -> None:
        """Keeps or replaces a value."""

    def delete(self, keys: Sequence[str], now_ns: int) -> int:
        """Forgets values; how many there were."""

    def delete_tagged(self, tag: str, now_ns: int) -> int:
        """Forgets values by tag; how many there were."""

    def keys(self, prefix: str, limit: int, now_ns: int) -> list[str]:
        """Keys that begin so, in order."""

    def forget(self, now_ns: int) -> None:
        """Drops what is over."""


def check(value: bytes) -> None:
    """Raises ValueError for what is too large."""
    if len(value) > MOST_BLOB_BYTES:
        raise ValueError(f"a value of {len(value)} bytes; {MOST_BLOB_BYTES} are the most")


class _Blob(msgspec.Struct, frozen=True, gc=False):
    value: bytes
    until_ns: int
    tags: tuple[str, ...]


class MemoryShelf:
    """Values in a dictionary."""

    def __init__(self, most_bytes: int = 256 * 2**20) -> None:
        self._blobs: dict[str, _Blob] = {}
        self._tagged: dict[str, set[str]] = {}
        self._most_bytes = most_bytes
        self._cached: dict[str, int] = {}  # bytes by key, the oldest first
        self._bytes = 0  # of these

    def __repr__(self) -> str:
        return f"<MemoryShelf {len(self._blobs)} values, {self._bytes} bytes cached>"

    def get(self, key: str, now_ns: int) -> bytes | None:
        """The value, unless its time is over."""
        blob = self._blobs.get(key)
        return None if blob is None or blob.until_ns <= now_ns else blob.value

    def put(self, key: str, value: bytes, until_ns: int, tags: Sequence[str]) -> None:
        """Keeps or replaces a value."""
        check(value)
        self._drop(key)
        self._blobs[key] = _Blob(value, until_ns, tuple(tags))
        for tag in tags:
            self._tagged.setdefault(tag, set()).add(key)
        if key.startswith(CACHED):
            self._cached[key] = len(value)
            self._bytes += len(value)
            while self._bytes > self._most_bytes:
                self._drop(next(iter(self._cached)))

    def delete(self, keys: Sequence[str], now_ns: int) -> int:
        """Forgets values; how many there were."""
        return sum([self._drop(key, now_ns) for key in keys])

    def delete_tagged(self, tag: str, now_ns: int) -> int:
        """Forgets values by tag; how many there were."""
        return self.delete(list(self._tagged.get(tag, ())), now_ns)

    def keys(self, prefix: str, limit: int, now_ns: int) -> list[str]:
        """Keys that begin so, in order."""
        found = [key for key, blob in self._blobs.items() if key.startswith(prefix) and blob.until_ns > now_ns]
        return sorted(found)[:limit]

    def forget(self, now_ns: int) -> None:
        """Drops what is over."""
        self.delete([key for key, blob in self._blobs.items() if blob.until_ns <= now_ns], now_ns)

    def _drop(self, key: str, now_ns: int = 0) -> bool:
        """Whether it was there and its time wasn't over."""
        blob = self._blobs.pop(key, None)
        if blob is None:
            return False
        self._bytes -= self._cached.pop(key, 0)
        for tag in blob.tags:
            tagged = self._tagged[tag]
            tagged.discard(key)
            if not tagged:
                del self._tagged[tag]
        return blob.until_ns > now_ns
