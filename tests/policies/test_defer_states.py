"""Jobs outlive their worker, and the state process, in each state that outlives a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from policies.defer_to_batch import engine
from proxy.exchange import Identity
from proxy.jobs import Job, Jobs
from proxy.simulator import Simulator
from proxy.simulator.latency import Latency
from proxy.simulator.speech.batches import Terms
from proxy.state.memory import MemoryStore
from proxy.state.protocol import StateLost
from tests.patience import PATIENCE_S
from tests.plane.conftest import Serve
from tests.policies.test_defer_to_batch import DAY, HOUR, Wall, batches, world
from tests.state import servers
from tests.state.backends import Backend, Redis, Sqlite


@pytest.fixture(params=["sqlite", "redis"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """A state with nothing in it."""
    with ExitStack() as stack:

        @cache
        def server(kind: str) -> servers.Server:
            try:
                return stack.enter_context(servers.running(servers.redis_program(), tmp_path))
            except servers.Unavailable as error:
                pytest.skip(str(error))

        async with {"sqlite": Sqlite, "redis": Redis}[request.param](tmp_path, server, "t") as made:
            yield made


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Who is gone is taken for gone sooner: the states' clocks are real ones."""
    monkeypatch.setattr(engine, "ALIVE_S", 0.3)
    yield


@pytest.mark.usefixtures("soon")
async def test_jobs_outlive_everything(serve: Serve, simulator: Simulator, backend: Backend) -> None:
    """One is at the provider and one is not yet when all are killed: both are answered by the next worker, once."""
    wall = Wall()
    simulator.batches.terms = Terms(Latency("constant", HOUR))
    store = await backend.made()
    async with world(serve, simulator, wall, store) as w:
        first = await w.plane.chat(DAY, seed=1)
        wall.now += 11
        while not batches(simulator):
            await w.at(0.1)
        second = await w.plane.chat(DAY, seed=2)
        await backend.crash(store)
        w.layers[0].engine = None  # who is killed takes no leave
    if isinstance(backend, Sqlite):
        await backend.stack.aclose()
        await backend.begin()
    async with asyncio.timeout(PATIENCE_S), world(serve, simulator, wall, await backend.connect()) as w:
        while len(w.layers[0].engine.live) < 2:
            await w.at(0.1)
            await asyncio.sleep(0.02)
        for forward_s in (11, HOUR, HOUR):
            await w.at(forward_s)
            while any(job.state == "running" for job in w.layers[0].engine.live.values()):
                await w.at(0.1)
        for told in (first, second):
            assert (await w.job(told))["status"] == "completed"
    assert simulator.invoice().total.requests == 2
    assert len(batches(simulator)) == 2


@pytest.mark.parametrize("passing", [0, 1, 2])
async def test_no_job_is_nobodys(passing: int) -> None:
    """Whoever is killed while it keeps a job leaves one that its owner's heir finds, or none."""
    store = MemoryStore()
    put, passed = store.put, []

    async def cut(key: str, *rest: Any) -> None:
        if len(passed) == passing:
            raise StateLost
        passed.append(key)
        await put(key, *rest)

    store.put = cut  # type: ignore[method-assign]
    job = Job(
        "job_1", Identity("tenant", "key"), {}, "chat", "/v1/chat/completions", "m", b"{}", "up", 0.0, 60.0, "w", "p"
    )
    with suppress(StateLost):
        await Jobs(store).save(job)
    found, _ = await Jobs(store).of("w")
    kept = await store.keys("jobs/job/", 10)
    assert [one.id for one in found] == ["job_1"] * len(kept) == ["job_1"] * (passing == 2)
