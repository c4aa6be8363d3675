"""The Store in this process: for tests, and for a single worker that may forget everything with its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from proxy.state.blobs import MemoryShelf
from proxy.state.book import Waiter
from proxy.state.core import Core
from proxy.state.protocol import Granted, Hold, Level, Rate, Refused, Scope, Standing, Taken

TICK_S: Final = 0.25


class MemoryStore:
    """`proxy.state.protocol.Store` over a `Core`. `clock` gives Unix nanoseconds; waits are counted by the loop."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._core = Core()
        self._shelf = MemoryShelf()
        self._waits: dict[int, asyncio.Future[Granted | Refused]] = {}
        self._followers: dict[str, set[asyncio.Event]] = {}
        self._ticking: asyncio.TimerHandle | None = None
        self._ticked_ns = 0

    def __repr__(self) -> str:
        return f"<MemoryStore {self._core!r}>"

    # --- holds

    async def reserve(self, hold: Hold, wait_s: float = 0.0) -> Granted | Refused:
        """All parts or none, in turn."""
        answer = self._core.book.reserve(hold, self._now(), wait_s > 0)
        if isinstance(answer, Waiter):
            return await self._wait(answer, wait_s)
        self._done()
        return answer

    async def adjust(
        self, id: str, held: Sequence[int], spent: Sequence[int], until_ns: int, scopes: Sequence[Scope] = ()
    ) -> tuple[Level, ...]:
        """What a hold holds, and has spent in all."""
        levels = self._core.book.adjust(id, held, spent, until_ns, scopes, self._now())
        self._done()
        return levels

    async def close(self, id: str, spent: Sequence[int], scopes: Sequence[Scope] = ()) -> bool:
        """Ends a hold."""
        closed = self._core.book.close(id, spent, scopes, self._now())
        self._done()
        return closed

    async def levels(self, scopes: Sequence[Scope]) -> tuple[Level, ...]:
        """How full scopes are."""
        return self._core.book.levels(scopes, self._now())

    async def standing(self, owner: str = "", overdue_ns: int | None = None) -> list[Standing]:
        """Open holds."""
        return self._core.book.standing(owner, overdue_ns, self._now())

    # --- rates

    async def take(self, rates: Sequence[Rate]) -> tuple[Taken, ...]:
        """Takes from all rates or none."""
        taken = self._core.rates.take(rates, self._now())
        self._done()
        return taken

    async def give(self, rates: Sequence[Rate]) -> None:
        """Gives back."""
        self._core.rates.give(rates, self._now())
        self._done()

    # --- blobs

    async def get(self, key: str) -> bytes | None:
        """A value."""
        return self._shelf.get(key, self._now())

    async def put(self, key: str, value: bytes, ttl_s: float, tags: Sequence[str] = ()) -> None:
        """Keeps a value."""
        now_ns = self._now()
        self._shelf.put(key, value, now_ns + round(ttl_s * 1e9), tags)

    async def delete(self, keys: Sequence[str]) -> int:
        """Forgets values."""
        return self._shelf.delete(keys, self._now())

    async def delete_tagged(self, tag: str) -> int:
        """Forgets values by tag."""
        return self._shelf.delete_tagged(tag, self._now())

    async def keys(self, prefix: str, limit: int = 1000) -> list[str]:
        """Keys that begin so."""
        return self._shelf.keys(prefix, limit, self._now())

    # --- claims and feed

    async def claim(self, duty: str, owner: str, ttl_s: float) -> bool:
        """Takes a duty."""
        claimed = self._core.duties.claim(duty, owner, ttl_s, self._now())
        self._done()
        return claimed

    async def resign(self, duty: str, owner: str) -> None:
        """Gives a duty up."""
        self._core.duties.resign(duty, owner)
        self._done()

    async def publish(self, topic: str, message: bytes) -> str:
        """Tells all."""
        position = self._core.topics.publish(topic, message, self._now())
        self._done()
        for event in self._followers.get(topic, ()):
            event.set()
        return position

    def follow(self, topic: str, after: str | None = None) -> AsyncIterator[tuple[str, bytes]]:
        """Messages, as they come. Without `after`: from the call on, not from the first look."""
        return self._following(topic, str(self._core.topics.last) if after is None else after)

    # --- all

    async def ping(self) -> int:
        """The time."""
        return self._now()

    async def aclose(self) -> None:
        """Ends the ticking."""
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    # --- inside

    async def _following(self, topic: str, position: str) -> AsyncIterator[tuple[str, bytes]]:
        followers, news = self._followers.setdefault(topic, set()), asyncio.Event()
        followers.add(news)
        try:
            while True:
                news.clear()
                for told in self._core.topics.after(topic, position):
                    position = told[0]
                    yield told
                await news.wait()
        finally:
            followers.discard(news)

    def _now(self) -> int:
        now_ns = self._clock()
        if now_ns - self._ticked_ns >= TICK_S * 1e9:
            self._ticked_ns = now_ns
            self._tick_at(now_ns)
        return now_ns

    def _done(self) -> None:
        """Wakes who got an answer by what has just been done."""
        book = self._core.book
        self._core.changes.clear()
        for waiter in book.answered:
            waiting = self._waits.get(waiter.ticket)
            if waiting is not None and not waiting.done():
                assert waiter.answer is not None
                waiting.set_result(waiter.answer)
        book.answered.clear()

    async def _wait(self, waiter: Waiter, wait_s: float) -> Granted | Refused:
        loop, book = asyncio.get_running_loop(), self._core.book
        waiting: asyncio.Future[Granted | Refused] = loop.create_future()
        self._waits[waiter.ticket] = waiting
        self._tick_later()
        try:
            async with asyncio.timeout(wait_s):
                return await waiting
        except TimeoutError:
            return book.give_up(waiter, self._clock())
        except asyncio.CancelledError:
            book.cancel(waiter, self._clock())
            raise
        finally:
            del self._waits[waiter.ticket]
            self._done()

    def _tick_later(self) -> None:
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        self._ticked_ns = self._clock()
        self._tick_at(self._ticked_ns)
        if self._waits:
            self._tick_later()

    def _tick_at(self, now_ns: int) -> None:
        if self._core.tick(now_ns):
            self._shelf.forget(now_ns)
        self._done()
