"""The data plane's surroundings, and an upstream whose two models say what they are told to say."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.plane.conftest import cards, event_loop_policy, serve, simulator
from tests.policies.cascade.models import Models, upstream

__all__ = ["cards", "event_loop_policy", "models", "serve", "simulator"]


@pytest.fixture
async def models() -> AsyncIterator[Models]:
    """The upstream."""
    async with upstream() as running:
        yield running
