"""A reservation from a lease, in this process: the budget's guard alone, timed call by call."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace
from typing import Any, Final

import uvloop

from bench import payloads
from bench.quantiles import percentile
from policies.budget.config import Config
from policies.budget.layer import Budget
from proxy.body import scan
from proxy.dialects import Usage
from proxy.exchange import Attempt, Exchange, Identity
from proxy.pricing import RateCards
from proxy.state.memory import MemoryStore
from proxy.state.purse import Purse

WARM: Final = 2_000


def taken_us(count: int) -> list[float]:
    """Microseconds that each of so many guards took, once a lease is drawn; each is settled before the next."""
    return uvloop.run(_taken(count))


async def _taken(count: int) -> list[float]:
    store = MemoryStore()
    purse = Purse(store, "bench/0/1", workers=4)
    budget, found = guard(purse), list[float]()
    for number in range(WARM + count):
        took_us = await reserved_us(budget, number, Identity("tenant", key="key"))
        await asyncio.sleep(0)  # leases are drawn by others
        if number >= WARM:
            found.append(took_us)
    await purse.aclose()
    await store.aclose()
    return found


def guard(purse: Purse, **options: str) -> Budget:
    """A budget that nobody exhausts, as a worker has it."""
    services: Any = SimpleNamespace(
        name="all",
        source="policies.yaml:3",
        observing=False,
        configuration=SimpleNamespace(policies=()),
        purse=purse,
        tokens=None,
        spawn=None,
        metrics=None,
        lookup=None,
    )
    return Budget(Config.model_validate({"limit": "1000000 USD/month", **options}), services)


async def reserved_us(budget: Budget, number: int, identity: Identity) -> float:
    """How long the guard of one attempt took, which is settled thereafter."""
    attempt = _attempt(number, identity)
    start = time.perf_counter_ns()
    settle = await budget.gate(attempt)
    took = time.perf_counter_ns() - start
    attempt.usage, attempt.nanodollars, attempt.known = _USAGE, 60_000, "observed"
    assert settle is not None
    settle(attempt)
    return took / 1000


_BODY: Final = scan(payloads.unary_request())
_USAGE: Final = Usage(300, 80)


def _attempt(number: int, identity: Identity) -> Attempt:
    endpoint = SimpleNamespace(name="chat.completions", metered=True)
    exchange = Exchange(identity)
    request: Any = SimpleNamespace(
        body=_BODY, endpoint=endpoint, model=payloads.MODEL, exchange=exchange, method="POST"
    )
    made = Attempt(exchange, request, number, "up", "up", payloads.MODEL, 1, 256)
    made.card = _card()
    return made


@cache
def _card() -> Any:
    return RateCards.compile().card("openai", payloads.MODEL, datetime.now(UTC))


def median_us(count: int) -> tuple[float, float]:
    """The median and the 99th percentile."""
    found = taken_us(count)
    return percentile(found, 50), percentile(found, 99)
