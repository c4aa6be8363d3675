"""One fresh simulator a test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.simulator import Simulator


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A simulator without delays."""
    async with Simulator(seed=1) as running:
        yield running
