"""One coarse clock for the time limits of all connections.

A connection only writes a number when it changes state (`deadline`, in the loop's time); the ticker looks at all of
them a few times a second. So a request sets up no timer of its own. A limit is kept to within `interval_s`.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

NEVER: Final = float("inf")


class Expiring(Protocol):
    """Something with a time limit."""

    deadline: float

    def expire(self, now: float) -> None:
        """Called once the deadline has passed; sets a new one or ends the matter."""


class Ticker:
    """Calls `expire` on what is watched when its deadline has passed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float = 0.25) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._watched: set[Expiring] = set()
        self._handle: asyncio.TimerHandle | None = None

    def watch(self, item: Expiring) -> None:
        """Looks at `item` until `unwatch`."""
        self._watched.add(item)
        if self._handle is None:
            self._handle = self._loop.call_later(self._interval_s, self._tick)

    def unwatch(self, item: Expiring) -> None:
        """Forgets `item`; does nothing if it wasn't watched."""
        self._watched.discard(item)

    def _tick(self) -> None:
        self._handle = None
        now = self._loop.time()
        try:
            for item in [item for item in self._watched if item.deadline <= now]:
                item.expire(now)
        finally:  # one that fails must not stop the clock of all others
            if self._watched:
                self._handle = self._loop.call_later(self._interval_s, self._tick)

    def close(self) -> None:
        """Stops the clock."""
        if self._handle is not None:
            self._handle.cancel()
        self._watched.clear()
