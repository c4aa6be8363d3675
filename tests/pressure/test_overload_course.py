"""The gate over seconds, on a worker that is calculated: what it refuses, and what it needn't.

A turn of the worker does all that is due: half of a request's work when it comes, half when its upstream has answered.
How long that takes depends on the share of the core that the worker gets at that time, as do its looks at itself.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from proxy.config.overload import Overload
from proxy.pressure.gauge import LOOK_S, PROBE_S
from proxy.pressure.overload import Gate

HIGH, NORMAL = 0, 1
WORK_S = 0.001  # of a request: alone on its core the worker answers 1,000 a second
REFUSAL_S = 0.00005
LAG_S = Overload().lag_s
SECONDS, WARM_UP_S = 10.0, 4.0


@dataclass
class Seen:
    """What clients saw after the warm-up. Times in seconds."""

    took: list[float] = field(default_factory=list)
    refused: int = 0
    refused_high: int = 0

    def p99(self) -> float:
        return sorted(self.took)[len(self.took) * 99 // 100]

    def rate(self, since_s: float) -> float:
        return len(self.took) / (SECONDS - since_s)


class Worker:
    """`share` tells the part of the core that it gets at a time."""

    def __init__(self, share: Callable[[float], float], high: bool) -> None:
        self.now = 0.0
        self.gate = Gate(lambda: self.now)
        self.gate.adopt(Overload(), high=high)
        self.seen = Seen()
        self._share = share
        self._random = random.Random(7)
        self._running: list[tuple[float, float, int]] = []  # answered at, asked at, class
        self._waiting: dict[asyncio.Task[None], tuple[float, int]] = {}
        self._lags: list[float] = []
        self._probe_s, self._looked_s, self._taken_s, self._most = PROBE_S, 0.0, 0.0, 0

    async def course(self, rate: float, high: float, since_s: float) -> Seen:
        """Requests as a Poisson process, and what became of them."""
        asks, at_s = list[tuple[float, int]](), 0.0
        while (at_s := at_s + self._random.expovariate(rate)) < SECONDS:
            asks.append((at_s, HIGH if self._random.random() < high else NORMAL))
        asks.reverse()
        while asks or self._running or self._waiting:
            due = [self._probe_s, *(ask[0] for ask in asks[-1:]), *(one[0] for one in self._running[:1])]
            self.now = max(self.now, min(due))
            began_s, work_s = self.now, await self._turn(asks, since_s)
            self.now += max(work_s / self._share(began_s), 0.0001)
            idle = work_s == 0
            self._taken_s += 0 if idle else self.now - began_s
            if began_s >= self._probe_s:
                self._probed(began_s)
        return self.seen

    async def _turn(self, asks: list[tuple[float, int]], since_s: float) -> float:
        """Does what is due; how much work that was."""
        began_s, work_s = self.now, 0.0
        while self._running and self._running[0][0] <= began_s:
            _, asked_s, rank = heapq.heappop(self._running)
            self.gate.leave(rank)
            work_s += WORK_S / 2
            if asked_s >= since_s:
                self.seen.took.append(began_s - asked_s)
        while asks and asks[-1][0] <= began_s:
            asked_s, rank = asks.pop()
            if self.gate.refuses(rank):
                work_s += self._refused(asked_s, rank, since_s)
                continue
            self.gate.came()  # it goes in at once
            if self.gate.enters(rank):
                work_s += self._enter(asked_s, rank)
            else:
                self._waiting[asyncio.create_task(self.gate.wait(rank))] = asked_s, rank
        for _ in range(2):
            await asyncio.sleep(0)
        for task in [task for task in self._waiting if task.done()]:
            asked_s, rank = self._waiting.pop(task)
            work_s += self._enter(asked_s, rank) if not task.exception() else self._refused(asked_s, rank, since_s)
        return work_s

    def _enter(self, asked_s: float, rank: int) -> float:
        heapq.heappush(self._running, (self.now + self._random.uniform(0.03, 0.12), asked_s, rank))
        return WORK_S / 2

    def _refused(self, asked_s: float, rank: int, since_s: float) -> float:
        self.seen.refused += asked_s >= since_s
        self.seen.refused_high += asked_s >= since_s and rank == HIGH
        return REFUSAL_S

    def _probed(self, began_s: float) -> None:
        """As `proxy.pressure.gauge` does."""
        self._lags.append(max(self.now - began_s, began_s - self._probe_s))
        self._most = max(self._most, self.gate.running)
        self.gate.tick(self._lags[-1])
        self._probe_s = self.now + PROBE_S
        if (over_s := self.now - self._looked_s) >= LOOK_S:
            lag_s = sorted(self._lags)[(len(self._lags) - 1) // 2]
            self.gate.look(lag_s / LAG_S, self._taken_s / over_s, self._most, over_s)
            self._lags, self._looked_s, self._taken_s, self._most = [], self.now, 0.0, 0


async def course(
    rate: float, share: Callable[[float], float] = lambda now_s: 1.0, high: float = 0.0, since_s: float = 0.0
) -> Seen:
    return await Worker(share, high > 0).course(rate, high, since_s)


@pytest.mark.parametrize(
    "share",
    [
        lambda now_s: 0.6,
        lambda now_s: 0.1 if now_s % 1 < 0.1 else 1.0,
        lambda now_s: 0.02 if now_s % 2 < 0.01 else 1.0,
        lambda now_s: 0.01 if now_s % 4 < 0.006 else 1.0,
    ],
    ids=["three fifths of the core", "slow for 100 ms", "away for 300 ms", "away for 600 ms"],
)
async def test_what_others_take_for_a_moment_refuses_nobody(share: Callable[[float], float]) -> None:
    """At half capacity the worker catches up with what a neighbour on its core delayed: 503 would be wrong."""
    seen = await course(500, share)
    assert (seen.refused, len(seen.took) > 4500) == (0, True)


async def test_long_dips_refuse_a_few() -> None:
    """A sixth of the core for 400 ms of every two seconds: most of what is delayed is waited for, not refused."""
    seen = await course(500, lambda now_s: 0.15 if now_s % 2 < 0.4 else 1.0)
    assert seen.refused < 0.1 * 5000
    assert seen.p99() < 1.0


async def test_where_a_core_is_taken_for_good_the_rest_is_used() -> None:
    """A third of the core, demand for half of it: what can't be answered is refused, no more, and nobody waits long."""
    seen = await course(500, lambda now_s: 0.33, since_s=WARM_UP_S)
    assert seen.rate(WARM_UP_S) > 0.95 * 330
    assert seen.p99() < 0.5


@pytest.mark.parametrize("factor", [1.5, 2])
async def test_too_much_by_itself(factor: float) -> None:
    """Goodput stays, the admitted are answered in time, and none of the high class is refused."""
    usual = await course(1000, high=0.03, since_s=WARM_UP_S)
    seen = await course(factor * 1000, high=0.03, since_s=WARM_UP_S)
    assert seen.rate(WARM_UP_S) > 0.9 * 1000
    assert seen.p99() < 2 * usual.p99()
    assert seen.refused_high == 0 < seen.refused
