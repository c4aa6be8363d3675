"""The loop that production runs on, a simulated provider, and a data plane before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from proxy.pricing import RateCards
from proxy.simulator import Simulator
from tests.plane.running import Plane, running

Serve = Callable[..., AbstractAsyncContextManager[Plane]]


@pytest.fixture(scope="session")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """uvloop: its transports differ from asyncio's in what matters here."""
    return uvloop.EventLoopPolicy()


@pytest.fixture(scope="session")
def cards() -> RateCards:
    """Published prices, as a worker reads them."""
    return RateCards.from_bytes(RateCards.compile().to_bytes())


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A provider without delays."""
    async with Simulator(seed=1) as running:
        yield running


@pytest.fixture
def serve(simulator: Simulator, tmp_path: Path, cards: RateCards) -> Serve:
    """A data plane before the simulator: `async with serve(policies=[…], registry={…}, keys=[…]) as plane`."""

    @asynccontextmanager
    async def serving(**settings: Any) -> AsyncIterator[Plane]:
        async with running(settings.pop("url", simulator.url), tmp_path, cards=cards, **settings) as plane:
            yield plane

    return serving
