"""Several deployments of a model: by weight, by latency; and requests about objects go where the objects are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.simulator import Simulator
from proxy.upstreams import Deployment, Route
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


def route(*latencies: float) -> Route:
    class Named:
        name = "up"

    deployments = [Deployment(Named(), str(number), 1.0) for number in range(len(latencies))]  # type: ignore[arg-type]
    made = Route(deployments, least_latency=True)
    for deployment, latency in zip(deployments, latencies, strict=True):
        deployment.latency_ns = latency
    return made


def test_looks_round() -> None:
    """Now and then another one is asked, so that a slow one that recovered is found."""
    made = route(1e6, 9e6)
    picks = [made.pick().model for _ in range(200)]
    assert picks.count("0") > 180
    assert picks.count("1") >= 4


def test_unknown_first() -> None:
    """One that nobody has asked yet is asked."""
    assert route(5e6, 0.0, 7e6).pick().model == "1"


@pytest.mark.parametrize("failures", [1, 5, 100])
def test_failures_are_bounded(failures: int) -> None:
    """However often one failed, it is found again once it answers."""
    (deployment, _) = route(1e6, 2e6).deployments
    for _ in range(failures):
        deployment.failed()
    assert deployment.latency_ns <= 60e9
    for _ in range(60):
        deployment.took(1_000_000)
    assert deployment.latency_ns < 2e6


async def test_objects_stay_where_they_are(serve: Serve) -> None:
    """Requests without a model go to one upstream, whatever the weights: that of the pattern for any model."""
    async with two(serve) as (plane, one, other):
        for _ in range(5):
            await plane.get("/v1/files")
        assert (len(one.requests), len(other.requests)) == (0, 5)


@pytest.mark.parametrize("least_latency", [False, True], ids=["weighted", "least-latency"])
def test_what_was_given_up_comes_last(least_latency: bool) -> None:
    """A deployment that an exchange has given up is chosen where no other is left, however quick or heavy it is."""
    made = route(1e6, 5e6, 9e6) if least_latency else Route(route(1e6, 5e6, 9e6).deployments)
    first, second, third = made.deployments
    assert first.others == (second.label, third.label)
    for _ in range(30):
        assert made.pick(frozenset((first.label,))) is not first
        assert made.pick(frozenset((first.label, second.label))) is third
    everything = frozenset(deployment.label for deployment in made.deployments)
    assert {made.pick(everything) for _ in range(60)} <= set(made.deployments)
