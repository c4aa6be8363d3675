"""The one clock of all time limits."""

from __future__ import annotations

import asyncio

from proxy.wire.ticker import NEVER, Ticker
from tests.patience import PATIENCE_S


class Item:
    """Something with a time limit."""

    def __init__(self, deadline: float, ticker: Ticker | None = None, failing: bool = False) -> None:
        self.deadline = deadline
        self.expired: list[float] = []
        self._ticker, self._failing = ticker, failing

    def expire(self, now: float) -> None:
        self.expired.append(now)
        self.deadline = NEVER
        if self._ticker is not None:
            self._ticker.unwatch(self)
        if self._failing:
            raise ValueError("this one fails")


async def until_expired(item: Item) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not item.expired:
            await asyncio.sleep(0.002)


async def test_what_is_due_expires_once_and_what_is_not_does_not() -> None:
    """A passed deadline, a coming one, and none."""
    loop = asyncio.get_running_loop()
    ticker = Ticker(loop, 0.005)
    past, soon, never = Item(loop.time() - 1), Item(loop.time() + 0.03), Item(NEVER)
    for item in (past, soon, never):
        ticker.watch(item)
    await until_expired(soon)
    assert (len(past.expired), len(soon.expired), never.expired) == (1, 1, [])
    assert soon.expired[0] >= past.expired[0]
    ticker.close()


async def test_one_that_fails_does_not_stop_the_clock() -> None:
    """The others still expire."""
    loop = asyncio.get_running_loop()
    told: list[object] = []
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    ticker = Ticker(loop, 0.005)
    failing, later = Item(loop.time(), failing=True), Item(loop.time() + 0.03)
    ticker.watch(failing)
    ticker.watch(later)
    await until_expired(later)
    assert len(failing.expired) == 1
    assert len(told) == 1
    ticker.close()


async def test_a_clock_that_watches_nothing_stands_still() -> None:
    """And goes on with the next one."""
    loop = asyncio.get_running_loop()
    ticker = Ticker(loop, 0.005)
    first = Item(loop.time(), ticker)
    ticker.watch(first)
    await until_expired(first)
    async with asyncio.timeout(PATIENCE_S):
        while ticker._handle is not None:
            await asyncio.sleep(0.002)
    second = Item(loop.time(), ticker)
    ticker.watch(second)
    await until_expired(second)
    ticker.close()
