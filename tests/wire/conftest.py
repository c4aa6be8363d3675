"""The loop that production runs on, and a real data plane before a simulated provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import settings

from proxy.simulator import Simulator
from tests.wire.plane import Plane, plane

settings.register_profile("wire", deadline=None, print_blob=True)
settings.load_profile("wire")


@pytest.fixture(scope="session")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """uvloop: its transports differ from asyncio's in what matters here."""
    return uvloop.EventLoopPolicy()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A provider without delays."""
    async with Simulator(seed=1) as running:
        yield running


Serve = Callable[..., AbstractAsyncContextManager[Plane]]


@pytest.fixture
def serve(simulator: Simulator, tmp_path: Path) -> Serve:
    """A real data plane before the simulator: `async with serve(keys="required", limits={…}) as plane`."""

    @asynccontextmanager
    async def serving(**settings: Any) -> AsyncIterator[Plane]:
        async with plane(simulator.url, tmp_path, **settings) as running:
            yield running

    return serving
