"""What reservations cost the Redis that a fleet shares: four workers draw leases for 200 teams and reserve from them.

The guards and stores are the product's, four of each in this process; the Redis is a real one, and its CPU is what it
says itself. A core of Redis is as good for the reservations that it saw through in a second of its own CPU time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import redis
import uvloop

from bench.money import backends, leased
from bench.quantiles import percentile
from bench.results import Row, judged, skipped
from proxy.exchange import Identity
from proxy.state.purse import Purse
from proxy.state.redis import RedisStore

WORKERS, TEAMS = 4, 200
A_CORE: Final = 50_000  # reservations a second
P99_US: Final = 50.0


def rows(directory: Path, *, quick: bool) -> Iterator[Row]:
    """Far from all limits; what is near one is timed by `bench.money.reserving`."""
    number, target = "reservations through Redis, with leases", f">= {A_CORE}/s a Redis core"
    directory.mkdir(parents=True)
    try:
        with backends.redis(directory) as server:
            found, busy_s = uvloop.run(_spent(server.url, 3.0 if quick else 20.0))
    except backends.MissingError as error:
        yield skipped(number, target, str(error))
        return
    a_core = len(found) / busy_s
    note = f"{len(found)} of {TEAMS} teams by {WORKERS} workers took {busy_s:.2f} s of Redis' CPU"
    yield judged(number, target, f"{a_core:.0f}/s", a_core >= A_CORE, note)
    p99_us = percentile(found, 99)
    seen = f"p50 {percentile(found, 50):.1f} µs, p99 {p99_us:.1f} µs"
    yield judged("the same, on the request's path", f"p99 <= {P99_US:.0f} µs", seen, p99_us <= P99_US)


async def _spent(url: str, seconds: float) -> tuple[list[float], float]:
    """Microseconds of each guard, leases drawn before; and Redis' CPU time."""
    stores = [RedisStore(url) for _ in range(WORKERS)]
    purses = [Purse(store, f"bench/0/{number}", workers=WORKERS) for number, store in enumerate(stores)]
    budgets = [leased.guard(purse, per="team") for purse in purses]
    teams = [Identity("tenant", key=f"key {number}", team=f"team {number}") for number in range(TEAMS)]
    await _reserve(budgets, teams, seconds / 4)
    with redis.Redis.from_url(url) as told:
        before_s = _cpu_s(told)
        found = await _reserve(budgets, teams, seconds)
        for purse in purses:
            await purse.aclose()
        busy_s = _cpu_s(told) - before_s
    for store in stores:
        await store.aclose()
    return found, busy_s


async def _reserve(budgets: list[Any], teams: list[Identity], seconds: float) -> list[float]:
    until_s, found, chance = time.monotonic() + seconds, list[float](), random.Random(1)
    while time.monotonic() < until_s:
        found.append(await leased.reserved_us(chance.choice(budgets), len(found), chance.choice(teams)))
        await asyncio.sleep(0)  # leases are drawn by others
    return found


def _cpu_s(told: redis.Redis) -> float:
    said: Any = told.info("cpu")
    return float(said["used_cpu_user"]) + float(said["used_cpu_sys"])
