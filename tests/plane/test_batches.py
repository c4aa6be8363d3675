"""Clients' own batches pass through, and what they cost is in the journal once, however often they are looked at."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI

from proxy.simulator import Simulator
from proxy.simulator.latency import Latency
from proxy.simulator.speech.batches import Terms
from tests.plane.conftest import Serve
from tests.plane.running import Plane
from tests.simulator.test_batches import HOUR, Wall, lines, made


def accounts(plane: Plane, id: str) -> list[dict[str, Any]]:
    return [one for one in plane.journal("settled") if one["exchange"] == id]


async def test_own_batches_are_metered(serve: Serve, simulator: Simulator) -> None:
    """Once it is over: at half the price, by the object's own usage, which is what the provider's invoice says."""
    wall = Wall()
    simulator.batches.wall, simulator.batches.terms = wall, Terms(Latency("constant", HOUR), fail=0.2)
    async with serve() as plane, AsyncOpenAI(base_url=f"http://127.0.0.1:{plane.port}/v1", api_key="sk") as client:
        batch = await made(client, lines(10))
        assert (await client.batches.retrieve(batch.id)).status == "in_progress"
        await plane.quiet()
        assert accounts(plane, batch.id) == []
        wall.now += HOUR
        for _ in range(2):
            assert (await client.batches.retrieve(batch.id)).status == "completed"
            assert [one.id async for one in await client.batches.list()] == [batch.id]
        await plane.quiet()
        (settled,) = accounts(plane, batch.id)
        (row,) = simulator.invoice().rows
        assert (settled["tier"], settled["known"]) == ("batch", "observed")
        assert settled["tokens"]["input_tokens"] == row.input
        assert settled["tokens"]["output_tokens"] == row.output
        assert settled["nanodollars"] == (row.input * 150 + row.output * 600) // 2  # gpt-4o-mini, a token
        (ended,) = [one for one in plane.journal("ended") if one["exchange"] == batch.id]
        assert (ended["kind"], ended["asked"], ended["nanodollars"]) == ("batch", row.model, settled["nanodollars"])


async def test_odd_objects_pass_unread(serve: Serve, simulator: Simulator) -> None:
    """An answer that is no such object, or breaks off, reaches the client as it is."""
    async with serve() as plane:
        for fault in ("truncated-json", "html-200", "error-503"):
            assert (await plane.get("/v1/batches", f"x-sim-fault: {fault}")).status in (200, 502, 503)
        await plane.quiet()
        assert {one["nanodollars"] for one in plane.journal("settled")} <= {0, None}
