"""What has ended is freed at once, without the collector, which runs rarely in a worker."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

import pytest

from proxy.answer import Answer
from proxy.exchange import Exchange
from proxy.stream import Stream
from proxy.wire.client import UpstreamConnection
from proxy.wire.server import ServerConnection
from tests.plane.conftest import Serve

ROUNDS = 8
KEPT = 2  # a connection to the upstream stays open, and what ended last may still be held by its task


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize(
    "fault", ["", "error-500", "reset-after-request", "truncated-json", "eof-no-done", "first-event-error"]
)
async def test_nothing_waits_for_the_collector(serve: Serve, fault: str, stream: bool) -> None:
    """Connections, exchanges and failures are no cycles once they are over."""
    async with serve() as plane:
        await plane.chat(fault=fault, stream=stream)
        gc.collect()
        gc.disable()
        try:
            for _ in range(ROUNDS):
                await plane.chat(fault=fault, stream=stream)
            await plane.quiet()
            while plane.connections:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            kinds = (ServerConnection, UpstreamConnection, Exchange, Answer, Stream)
            left = Counter(type(found).__name__ for found in gc.get_objects() if isinstance(found, kinds))
        finally:
            gc.enable()
        assert all(count <= KEPT for count in left.values()), left


async def test_a_refused_request_leaves_nothing(serve: Serve) -> None:
    """Not even its connection, which the parser held."""
    async with serve() as plane:
        gc.collect()
        gc.disable()
        try:
            for _ in range(ROUNDS):
                await plane.send(b"GET / HTTP/1.1\r\nbroken\r\n\r\n")
            while plane.connections:
                await asyncio.sleep(0)
            left = sum(isinstance(found, ServerConnection) for found in gc.get_objects())
        finally:
            gc.enable()
        assert left <= KEPT
