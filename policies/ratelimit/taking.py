"""Taking from several rates at once: from the stocks where they carry it, else from the Store, all or nothing.

Rules:
1. `try_take` waits for nobody. `take` asks the Store for what the stocks lack; refused, nothing was taken.
2. Who is cancelled while the Store is asked gives back what was granted to him.
3. Every tenth of a second, while there is anything to tell: what is owed is told, what is kept too long is given back.
   A Store that is lost is told when it is back; nothing is owed beyond one burst.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from policies.ratelimit.stock import Stock, most_of
from proxy.state.protocol import Rate, StateLost, Store, Taken

TELL_S: Final = 0.1


class Shortage(NamedTuple):
    """The stock that doesn't carry its cost, and when it might; 0 where it never will."""

    at: int
    retry_s: float


class Taking:
    """A worker's stocks over one Store."""

    def __init__(
        self, store: Store, workers: int, clock: Callable[[], float], *, automatic: bool = True, tell_s: float = TELL_S
    ) -> None:
        self._store = store
        self._workers = workers
        self._clock = clock
        self._automatic = automatic  # tests tell by `tell`
        self._tell_s = tell_s
        self._dirty: set[Stock] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._telling = False

    def try_take(self, stocks: Sequence[Stock], costs: Sequence[int]) -> bool:
        """Whether all stocks carry their costs; then it is done."""
        now_s = self._clock()
        for stock, cost in zip(stocks, costs):  # noqa: B905  # as long as each other; this is the path of every request
            if stock.units < cost or now_s >= stock.until_s:
                return False
        for stock, cost in zip(stocks, costs):  # noqa: B905
            stock.units -= cost
            stock.used += cost
            stock.touched_s = now_s
            if 2 * stock.units < stock.drawn and not stock.drawing:
                self._draw_later(stock, cost, now_s)
        return True

    async def take(self, stocks: Sequence[Stock], costs: Sequence[int]) -> Shortage | None:
        """Takes all, else says which fell short. Raises StateLost."""
        if self.try_take(stocks, costs):
            return None
        own = [min(stock.units, cost) for stock, cost in zip(stocks, costs, strict=True)]
        lacking = [cost - units for cost, units in zip(costs, own, strict=True)]
        for stock, units in zip(stocks, own, strict=True):
            stock.units -= units
        try:
            said = await self._asked(stocks, lacking)
        except BaseException:
            self._return(stocks, own)
            raise
        now_s = self._clock()
        short = next((Shortage(index, one.retry_ns / 1e9) for index, one in said if not one.allowed), None)
        if short is not None:
            self._return(stocks, own)
            return short
        for stock, cost in zip(stocks, costs, strict=True):
            stock.used += cost
            stock.touched_s = now_s
            self._draw_later(stock, cost, now_s)
        return None

    def owe(self, stocks: Sequence[Stock], costs: Sequence[int]) -> None:
        """Uses what wasn't taken, since the Store can't be asked; it is told later."""
        for stock, cost in zip(stocks, costs, strict=True):
            stock.owed = min(stock.owed + cost, most_of(stock.rate))
            self._touch(stock)

    def correct(self, stocks: Sequence[Stock], spent: Sequence[int], used: Sequence[int]) -> None:
        """What was spent came to this much."""
        for stock, before, after in zip(stocks, spent, used, strict=True):
            if before != after:
                stock.correct(after - before)
                self._touch(stock)

    # --- the Store

    async def _asked(self, stocks: Sequence[Stock], lacking: Sequence[int]) -> list[tuple[int, Taken]]:
        asked = [index for index, cost in enumerate(lacking) if cost]
        if not asked:
            return []
        rates = [_costing(stocks[index].rate, lacking[index]) for index in asked]
        task = self._spawn(self._take(rates), "take rates")
        try:
            taken = await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: self._unwanted(done, rates))
            raise
        now_s = self._clock()
        for index, said in zip(asked, taken, strict=True):
            stocks[index].learn(said, now_s)
        return list(zip(asked, taken, strict=True))

    async def _take(self, rates: Sequence[Rate]) -> tuple[Taken, ...]:
        return await self._store.take(rates)

    def _unwanted(self, done: asyncio.Task[tuple[Taken, ...]], rates: Sequence[Rate]) -> None:
        if not done.cancelled() and done.exception() is None and all(said.allowed for said in done.result()):
            self._spawn(self._give(rates), "give rates back")

    async def _give(self, rates: Sequence[Rate]) -> bool:
        try:
            await self._store.give(rates)
        except StateLost:
            return False
        return True

    def _return(self, stocks: Sequence[Stock], own: Sequence[int]) -> None:
        for stock, units in zip(stocks, own, strict=True):
            if units:
                stock.units += units
                self._touch(stock)

    def _draw_later(self, stock: Stock, cost: int, now_s: float) -> None:
        wanted = stock.wanted(cost, self._workers, now_s)
        if wanted:
            stock.drawing = True
            self._touch(stock)
            self._spawn(self._draw(stock, wanted), "stock up")

    async def _draw(self, stock: Stock, units: int) -> None:
        try:
            (said,) = await self._store.take([_costing(stock.rate, units)])
        except StateLost:
            return
        finally:
            stock.drawing = False
        now_s = self._clock()
        stock.learn(said, now_s)
        if said.allowed:
            stock.took(units, now_s)

    # --- telling

    async def tell(self) -> None:
        """One round: what is owed is told, what is kept too long given back. Never raises StateLost."""
        now_s = self._clock()
        for stock in list(self._dirty):
            surplus, owed = stock.surplus(now_s), stock.owed
            if surplus or owed:
                stock.units -= surplus
                stock.owed -= owed
                if not await self._give([_costing(stock.rate, surplus - owed)]):
                    stock.owed = min(stock.owed + owed, most_of(stock.rate))  # units that were lost come back by time
                else:
                    stock.left += surplus - owed
            if stock.clean:
                self._dirty.discard(stock)

    def _touch(self, stock: Stock) -> None:
        self._dirty.add(stock)
        if self._automatic and not self._telling:
            self._telling = True
            self._spawn(self._rounds(), "tell rates")

    async def _rounds(self) -> None:
        try:
            while self._dirty:
                await asyncio.sleep(self._tell_s)
                await self.tell()
        finally:
            self._telling = False

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settled(self) -> None:
        """Waits for what goes on in the background, but for the rounds of telling."""
        while waiting := [task for task in self._tasks if task.get_name() != "tell rates"]:
            await asyncio.wait(waiting)

    async def aclose(self) -> None:
        """Gives back what is kept and tells what is owed."""
        for task in list(self._tasks):
            if task.get_name() == "tell rates":
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stock in self._dirty:
            stock.until_s = float("-inf")
        await self.tell()


def _costing(rate: Rate, cost: int) -> Rate:
    return msgspec.structs.replace(rate, cost=cost)
