"""Budgets of several workers over each Store, with all that calls more than once: never over the limit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from policies import budget, hedge, retry
from proxy.config import PolicyEntry
from proxy.dialects import Usage
from proxy.pricing import RateCards
from proxy.simulator import Simulator
from proxy.state.protocol import Level, Store
from tests.plane.running import Plane, entry, running
from tests.state.backends import Backend
from tests.state.conftest import backend, server_of
from tests.wire.raw import Answer, chat, post

__all__ = ["backend", "server_of"]  # fixtures
REGISTRY = {"budget": budget, "hedge": hedge, "retry": retry}
WORKERS = 4

Fleet = Callable[..., AbstractAsyncContextManager[list[Plane]]]


@pytest.fixture
def fleet(simulator: Simulator, tmp_path: Path, cards: RateCards, backend: Backend) -> Fleet:
    """Data planes that share a Store, each by a connection of its own."""

    @asynccontextmanager
    async def starting(policies: list[PolicyEntry]) -> AsyncIterator[list[Plane]]:
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    running(
                        simulator.url,
                        tmp_path / str(number),
                        policies,
                        REGISTRY,
                        cards=cards,
                        store=await backend.connect(),
                        workers=WORKERS,
                    )
                )
                for number in range(WORKERS)
            ]

    return starting


def billed(simulator: Simulator, cards: RateCards) -> int:
    """The invoice in nano-dollars, priced by the cards, line by line."""
    total = 0
    for row in simulator.invoice().rows:
        card = cards.card("openai", row.model, datetime.now(UTC))
        assert card is not None
        usage = Usage(row.input, row.output, cached_tokens=row.cached, reasoning_tokens=row.reasoning)
        cost = card.cost(usage, row.tier)
        assert cost is not None
        total += cost
    return total


async def burst(planes: list[Plane], requests: int, seed: int, **fields: Any) -> list[Answer]:
    """All at once, spread over the workers; answers are as long as a lognormal draw, streamed or not."""
    draw = random.Random(seed)

    async def one(number: int) -> Answer:
        tokens = max(1, min(95, int(draw.lognormvariate(4, 1))))
        plane = planes[number % len(planes)]
        return await plane.chat(f"x-sim-tokens: {tokens}", stream=number % 2 == 0, **fields)

    return await asyncio.gather(*[one(number) for number in range(requests)])


async def told(planes: list[Plane]) -> None:
    for plane in planes:
        await plane.quiet()
        assert plane.plane.purse is not None
        await plane.plane.purse.aclose()


def store_of(planes: list[Plane]) -> Store:
    assert planes[0].plane.surroundings.store is not None
    return planes[0].plane.surroundings.store


def worst_of(planes: list[Plane]) -> int:
    """The largest reservation that was made."""
    return max(record["estimate"]["nanodollars"] for plane in planes for record in plane.journal("reserved"))


async def test_workers_share_a_limit(fleet: Fleet, simulator: Simulator, cards: RateCards) -> None:
    """From far away to the end: leases, then turns; what isn't used is less than one worst case."""
    limit = 14_000_000
    policies = [entry("budget", limit="0.014 USD/rolling 1h", max_wait="5s")]
    async with fleet(policies) as planes:
        first = [await plane.chat(max_tokens=100) for plane in planes]  # all at once would leave no room for leases
        answers = first + [answer for seed in range(3) for answer in await burst(planes, 200, seed, max_tokens=100)]
        assert {answer.status for answer in answers} == {200, 429}
        await told(planes)
        holds = [record["holds"] for plane in planes for record in plane.journal("reserved")]
        assert len({hold for one in holds for hold in one}) < len(holds)  # some came out of leases
        spent = billed(simulator, cards)
        assert limit - worst_of(planes) <= spent <= limit
        assert await store_of(planes).standing() == []
        (policy,) = [item.policy for item in planes[0].plane.state.chain.built]
        scope = policy._accounts.made()[0].lines[0].scope  # type: ignore[attr-defined]
        assert await store_of(planes).levels([scope]) == (Level(spent, 0),)
    assert b'"length"' not in b"".join(answer.body for answer in answers if answer.status == 200)


async def test_retries_hedges_and_reasoning(fleet: Fleet, simulator: Simulator, cards: RateCards) -> None:
    """Failures in between, hidden reasoning, no cap of the client's: every attempt is reserved."""
    limit = 3_000_000_000
    policies = [
        entry("budget", 1, limit="3 USD/rolling 1h", max_wait="5s"),
        entry("hedge", 2, after="p50", max_extra="50%"),
        entry("retry", 3, attempts=3, backoff="1ms"),
    ]
    simulator.fault("error-503", every=5)
    async with fleet(policies) as planes:
        answers = await burst(planes, 120, 3, model="o4-mini")
        await told(planes)
        assert {answer.status for answer in answers} <= {200, 429, 503}
        assert any(len(plane.journal("reserved")) > len(plane.journal("ended")) for plane in planes)
        assert 0 < billed(simulator, cards) <= limit
        assert await store_of(planes).standing() == []
    assert simulator.invoice().total.reasoning > 0


async def test_clients_that_leave(fleet: Fleet, simulator: Simulator, cards: RateCards) -> None:
    """What was given up on the way counts for what it may have cost, so the invoice stays below."""
    limit = 8_000_000
    async with fleet([entry("budget", limit="0.008 USD/rolling 1h", max_wait="1s")]) as planes:

        async def leave(number: int) -> None:
            client = await planes[number % WORKERS].connect()
            lines = ("x-sim-tokens: 390", "x-sim-token-ms: 1")
            await client.send(post("/v1/chat/completions", chat(True, max_tokens=400), *lines))
            await client.read()
            client.close()

        for _ in range(4):
            await asyncio.gather(*[leave(number) for number in range(12)])
        await told(planes)
        assert 0 < billed(simulator, cards) <= limit
        assert await store_of(planes).standing() == []
