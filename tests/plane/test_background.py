"""`background: true`: what goes on at the upstream is paid for when it is over, however it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from policies import budget
from proxy.state.memory import MemoryStore
from proxy.state.protocol import Level
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry

REGISTRY = {"budget": budget}
ASKED = {"model": "gpt-4o-mini", "input": "hello", "background": True, "max_output_tokens": 1000}
USAGE = {"input_tokens": 100, "output_tokens": 300, "total_tokens": 400}
COST = 100 * 150 + 300 * 600
"""In nano-dollars, at gpt-4o-mini's published prices."""


class Provider:
    """An upstream with one stored response, whose state the test sets; counts what was asked."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] = {"status": "queued", "usage": None}
        self.asked: list[str] = []
        self.status = 200

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0)
                await reader.readexactly(length)
                self.asked.append(head.split(b" ", 1)[0].decode())
                shown = {"id": "resp_1", "object": "response", "model": "gpt-4o-mini", "output": [], **self.answer}
                body = orjson.dumps(shown)
                head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                writer.write(head % (self.status, len(body)) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def provided(serve: Serve, store: MemoryStore) -> AsyncIterator[tuple[Provider, Plane]]:
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    up = {"up": {"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "provider": "openai"}}
    policies = [entry("budget", limit="1 USD/rolling 1h")]
    async with serve(policies=policies, registry=REGISTRY, store=store, upstreams=up) as plane:
        yield provider, plane
    server.close()


async def level(plane: Plane, store: MemoryStore) -> Level:
    """How full the budget is."""
    purse = plane.plane.purse
    assert purse is not None
    await purse.tell()
    ((_, counter),) = store._core.book.counters.items()
    return counter.level(0)


async def test_paid_at_its_first_terminal_read(serve: Serve) -> None:
    """What was reserved stays held until its usage is known; then it counts what it cost, once."""
    store = MemoryStore()
    async with provided(serve, store) as (provider, plane):
        assert (await plane.post("/v1/responses", ASKED)).json["status"] == "queued"
        assert [one["nanodollars"] for one in plane.journal("settled")] == [0]
        parent, child = plane.journal("reserved")
        assert (child["kind"], child["parent"], child["holds"]) == ("background", parent["exchange"], parent["holds"])

        provider.answer["status"] = "in_progress"
        assert (await plane.get("/v1/responses/resp_1")).json["status"] == "in_progress"
        assert (await level(plane, store)).held >= 1000 * 600

        provider.answer = {"status": "completed", "usage": USAGE}
        for _ in range(3):
            assert (await plane.get("/v1/responses/resp_1")).json["status"] == "completed"
        await plane.quiet()
        paid = [one for one in plane.journal("settled") if one["nanodollars"]]
        assert [(one["exchange"], one["nanodollars"], one["known"]) for one in paid] == [
            (child["exchange"], COST, "observed")
        ]
        assert (await level(plane, store)).spent == COST
        assert provider.asked.count("GET") <= 8, "at once after a client, else seldom"


async def test_what_is_never_told_is_estimated(serve: Serve) -> None:
    """The worker ends before the work does: it counts what was reserved, and the journal says estimated."""
    store = MemoryStore()
    async with provided(serve, store) as (_, plane):
        await plane.post("/v1/responses", ASKED)
        await asyncio.sleep(0)  # the task that follows it has begun
    last = plane.journal("settled")[-1]
    assert (last["outcome"], last["known"]) == ("aborted", "estimated")
    ((_, counter),) = store._core.book.counters.items()
    assert counter.level(0).spent >= 1000 * 600


@pytest.mark.parametrize("status", [404, 410])
async def test_a_deleted_one_is_estimated(serve: Serve, status: int) -> None:
    """Nobody can tell any more: it isn't asked for again."""
    async with provided(serve, MemoryStore()) as (provider, plane):
        await plane.post("/v1/responses", ASKED)
        provider.status = status
        await plane.get("/v1/responses/resp_1")
        await plane.quiet()
        assert plane.journal("settled")[-1]["known"] == "estimated"
        assert provider.asked == ["POST", "GET", "GET"]
