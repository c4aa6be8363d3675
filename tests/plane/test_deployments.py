"""Several deployments of a model on the wire: who is asked, who is left alone, what clients get when nobody can be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.running import Plane


@asynccontextmanager
async def two(serve: Serve, **model: Any) -> AsyncIterator[tuple[Plane, Simulator, Simulator]]:
    """A model at two upstreams, under another name at the second."""
    async with Simulator(seed=1) as one, Simulator(seed=2) as other:
        upstreams = {"one": {"url": one.url}, "other": {"url": other.url}}
        deployments = [{"upstream": "one"}, {"upstream": "other", "model": "gpt-4o", "weight": 3}]
        offer = {"deployments": deployments, **model}
        models = {"house": offer, "*": {"upstream": "other"}}
        async with serve(upstreams=upstreams, models=models) as plane:
            yield plane, one, other


async def test_weights(serve: Serve) -> None:
    """Requests spread in proportion to the weights; each upstream is asked by its own name for the model."""
    async with two(serve) as (plane, one, other):
        for _ in range(8):
            assert (await plane.chat(model="house")).status == 200
        assert (len(one.requests), len(other.requests)) == (2, 6)
        assert b'"house"' in one.requests[0].body
        assert b'"gpt-4o"' in other.requests[0].body
        assert {record["deployment"] for record in plane.journal("reserved")} == {"one", "other/gpt-4o"}


async def test_least_latency(serve: Serve) -> None:
    """The quicker one gets the requests; one that fails counts as slow."""
    async with two(serve, balance="least-latency") as (plane, one, other):
        other.fault("no-headers:0.05")
        for _ in range(15):
            await plane.chat(model="house")
        assert len(other.requests) <= 2
        one.fault("error-500")
        other.reset()
        statuses = [(await plane.chat(model="house")).status for _ in range(10)]
        assert statuses.count(502) <= 3
        assert statuses[-1] == 200


async def test_objects_stay_where_they_are(serve: Serve) -> None:
    """Requests without a model go to one upstream, whatever the weights: that of the pattern for any model."""
    async with two(serve) as (plane, one, other):
        for _ in range(5):
            await plane.get("/v1/files")
        assert (len(one.requests), len(other.requests)) == (0, 5)
