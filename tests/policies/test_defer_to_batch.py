"""Requests that can wait, on the wire: flex for minutes, batches for hours, deadlines kept, each paid once."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from policies import defer_to_batch
from policies.defer_to_batch.config import Config, way
from policies.defer_to_batch.provider import Provider, Standing
from proxy.chain import Services
from proxy.simulator import Simulator
from proxy.simulator.latency import Latency
from proxy.simulator.scenario import Flex
from proxy.simulator.speech.batches import Terms
from proxy.state.memory import MemoryStore
from tests.patience import PATIENCE_S
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry, key
from tests.policies.test_coalesce import until
from tests.wire.raw import Answer

HOUR = 3600.0
FLEX = "x-weir-deadline: 15m"
DAY = "x-weir-deadline: 24h"


class Wall:
    """Unix time as the test says: for the layer and the provider's batches alike."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A plane with the layer, whose steps the test takes."""

    def __init__(self, plane: Plane, wall: Wall, layers: list[Any]) -> None:
        self.plane, self.wall, self.layers = plane, wall, layers

    async def at(self, forward_s: float = 0.0) -> None:
        """Time passes; then everything that is due is done."""
        self.wall.now += forward_s
        for layer in list(self.layers):
            await layer.engine.step()
        await self.plane.quiet()

    async def job(self, told: Answer, *lines: str) -> dict[str, Any]:
        answer = await self.plane.get(f"/weir/jobs/{told.json['id']}", *lines)
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json
        return found


@asynccontextmanager
async def world(
    serve: Serve, simulator: Simulator, wall: Wall | None = None, store: Any = None, **settings: Any
) -> AsyncIterator[World]:
    wall = wall or Wall()
    simulator.batches.wall = wall
    layers: list[Any] = []

    def build(config: Config, services: Services) -> Any:
        layer = defer_to_batch.DeferToBatch(config, services, wall)
        layer._stepping = asyncio.get_running_loop().create_task(asyncio.sleep(0))  # the test takes the steps
        layers.append(layer)
        return layer

    registry = {"defer_to_batch": SimpleNamespace(Config=Config, build=build), **settings.pop("registry", {})}
    options = settings.pop("options", {})
    policies = [*settings.pop("before", ()), entry("defer_to_batch", **options)]
    async with serve(policies=policies, registry=registry, store=store or MemoryStore(), **settings) as plane:
        yield World(plane, wall, layers)


def batches(simulator: Simulator) -> list[Any]:
    return list(simulator.batches._batches.values())


# --- flex


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_minutes_go_by_flex(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """Half the price, by the upstream's own invoice; the saving is the other half."""
    async with world(serve, simulator) as w:
        answer = await w.plane.chat(FLEX, model="gpt-5-mini", stream=stream)
        assert (answer.status, answer.whole) == (200, True)
        await w.plane.quiet()
        settled, ended = w.plane.settled(), w.plane.ended()
        assert settled["tier"] == "flex"
        assert [row.tier for row in simulator.invoice().rows] == ["flex"]
        assert ended["saved_nanodollars"] == settled["nanodollars"] > 0
        assert ended["savings"][0]["known"] == "observed"


async def test_without_time_nothing_changes(serve: Serve, simulator: Simulator) -> None:
    """No deadline, one too short, or a tier of the client's own: as it was asked."""
    async with world(serve, simulator) as w:
        for lines, fields in (([], {}), (["x-weir-deadline: 30s"], {}), ([FLEX], {"service_tier": "priority"})):
            assert (await w.plane.chat(*lines, model="gpt-5-mini", **fields)).status == 200
        await w.plane.quiet()
        assert {row.tier for row in simulator.invoice().rows} == {"default", "priority"}
        assert {ended["saved_nanodollars"] for ended in w.plane.journal("ended")} == {0}


async def test_flex_without_room(serve: Serve, simulator: Simulator) -> None:
    """429, failures and a model without flex are followed by the standard tier, once; the client sees one answer."""
    async with world(serve, simulator) as w:
        simulator._provider._flex = Flex(unavailable=1.0)
        answer = await w.plane.chat(FLEX, model="gpt-5-mini")
        assert answer.status == 200
        await w.plane.quiet()
        assert [settled["status"] for settled in w.plane.journal("settled")] == [429, 200]
        assert [row.tier for row in simulator.invoice().rows] == ["default"]
        assert w.plane.ended()["decisions"][-1]["numbers"] == {"why": "rate_limited"}


async def test_slow_flex_leaves_time_for_standard(serve: Serve, simulator: Simulator) -> None:
    """Some time before the deadline the standard tier takes over."""
    options = {"flex_from": "100ms", "flex_margin": "1700ms"}
    async with world(serve, simulator, options=options) as w:
        simulator._provider._flex = Flex(slower=Latency("constant", 60.0))
        answer = await w.plane.chat("x-weir-deadline: 2s", model="gpt-5-mini")
        assert answer.status == 200
        await w.plane.quiet()
        assert [settled["outcome"] for settled in w.plane.journal("settled")] == ["aborted", "complete"]
        assert w.plane.ended()["decisions"][-1]["numbers"] == {"why": "time"}


async def test_a_bad_request_is_told(serve: Serve, simulator: Simulator) -> None:
    """What the standard tier rejects too is the client's to know; the model isn't taken for one without flex."""
    async with world(serve, simulator) as w:
        bad = await w.plane.chat(FLEX, model="gpt-5-mini", max_tokens=-5)
        assert bad.status == 400
        assert (await w.plane.chat(FLEX, model="gpt-5-mini")).status == 200
        assert [row.tier for row in simulator.invoice().rows] == ["flex"]


def test_ways() -> None:
    """Which way a request goes: pure."""
    request: Any = SimpleNamespace(endpoint=SimpleNamespace(name="chat.completions"), field={}.get)
    asks = [None, 30.0, 60.0, 3599.0, 3600.0, 86_400.0]
    assert [way(Config(), request, one, own_key=True) for one in asks] == [
        "now", "now", "flex", "flex", "batch", "batch",
    ]  # fmt: skip
    assert way(Config(), request, 86_400.0, own_key=False) == "flex"
    assert way(Config(flex=False), request, 900.0, own_key=True) == "now"
    streamed: Any = SimpleNamespace(endpoint=SimpleNamespace(name="chat.completions"), field={"stream": True}.get)
    assert way(Config(), streamed, 86_400.0, own_key=True) == "flex"


# --- batches


async def test_hours_go_by_batch(serve: Serve, simulator: Simulator) -> None:
    """Accepted with a job, gathered by model, answered later: half price, booked once, the saving with it."""
    async with world(serve, simulator) as w:
        simulator.batches.terms = Terms(Latency("constant", HOUR))
        told = [await w.plane.chat(DAY, seed=n, model=("gpt-4o", "gpt-4o-mini")[n % 2]) for n in range(6)]
        assert {(answer.status, answer.json["status"]) for answer in told} == {(202, "waiting")}
        assert told[0].header(b"location") == f"/weir/jobs/{told[0].json['id']}".encode()
        await w.at(5)
        assert batches(simulator) == []
        await w.at(10)
        assert [len(batch.lines) for batch in batches(simulator)] == [3, 3]
        assert (await w.job(told[0]))["status"] == "submitted"
        await w.at(HOUR)
        for answer in told:
            job = await w.job(answer)
            assert (job["status"], job["how"]) == ("completed", "batch")
            assert job["response"]["body"]["choices"][0]["message"]["content"]
            assert job["cost_nanodollars"] == job["saved_nanodollars"] > 0
        jobs = {answer.json["id"] for answer in told}
        booked = [one for one in w.plane.journal("settled") if one["exchange"] in jobs]
        assert len(booked) == 6
        assert {(one["tier"], one["known"]) for one in booked} == {("batch", "observed")}
        ended = [one for one in w.plane.journal("ended") if one["exchange"] in jobs]
        assert {(one["kind"], one["started_by"]) for one in ended} == {("batch", "defer_to_batch")}
        assert {row.tier for row in simulator.invoice().rows} == {"batch"}
        assert simulator.invoice().total.requests == 6
        assert await w.layers[0].engine.jobs.store.keys("jobs/open/") == []
        assert await w.layers[0].engine.jobs.store.keys("jobs/batch/") == []


async def test_prefer_wait(serve: Serve, simulator: Simulator) -> None:
    """`Prefer: wait` holds the connection until the answer is there, as the answer; `wait=N` for so long."""
    async with world(serve, simulator) as w:
        assert (await w.plane.chat(DAY, "prefer: wait=0")).status == 202
        held = asyncio.create_task(w.plane.chat(DAY, "prefer: respond-async, wait"))
        await until(lambda: len(w.layers[0].engine.live) == 2)
        await w_step(w, 10)
        await w_step(w, 31)
        answer = await held
        assert answer.status == 200
        assert answer.json["object"] == "chat.completion"
        assert answer.header(b"x-weir-job")


async def w_step(w: World, forward_s: float) -> None:
    w.wall.now += forward_s
    await w.layers[0].engine.step()


async def test_a_default_is_waited_for(serve: Serve, simulator: Simulator) -> None:
    """A client that didn't ask to be deferred gets its answer as ever, later."""
    async with world(serve, simulator, options={"default": "24h"}) as w:
        held = asyncio.create_task(w.plane.chat())
        await until(lambda: len(w.layers[0].engine.live) == 1)
        await w_step(w, 10)
        await w_step(w, 31)
        assert (await held).json["object"] == "chat.completion"


async def test_partial_failures_and_bad_lines(serve: Serve, simulator: Simulator) -> None:
    """What a batch failed to answer gets one more batch, then runs synchronously; a bad request fails as it would."""
    async with world(serve, simulator) as w:
        simulator.batches.terms = Terms(Latency("constant", 60.0), fail=1.0)
        good, bad = await w.plane.chat(DAY), await w.plane.chat(DAY, messages=[{"role": "nobody", "content": "?"}])
        assert (await w.plane.chat(DAY, max_tokens=-5)).error["param"] == "max_tokens"  # is told at once
        for _ in range(3):
            await w.at(61)
        assert len(batches(simulator)) == 2
        await w.at(61)
        job = await w.job(good)
        assert (job["status"], job["how"]) == ("completed", "synchronous")
        failed = await w.job(bad)
        assert (failed["status"], failed["response"]["status_code"]) == ("failed", 400)
        assert [(row.tier, row.requests) for row in simulator.invoice().rows] == [("default", 1)]


@pytest.mark.parametrize("cancel_s", [0.0, 600.0])
async def test_deadlines_hold(serve: Serve, simulator: Simulator, cancel_s: float) -> None:
    """A batch that is too slow is cancelled in time: what it answered counts, the rest runs synchronously, once."""
    async with world(serve, simulator) as w:
        simulator.batches.terms = Terms(Latency("constant", 40 * HOUR), cancel_s=cancel_s)
        told = [await w.plane.chat("x-weir-deadline: 20h", seed=n) for n in range(8)]
        await w.at(10)
        began = w.wall.now
        while w.layers[0].engine.live and w.wall.now < began + 21 * HOUR:
            await w.at(60)
        jobs = [await w.job(answer) for answer in told]
        assert {job["status"] for job in jobs} == {"completed"}
        assert all(job["ended_at"] <= job["deadline_at"] for job in jobs)
        ways = sorted(job["how"] for job in jobs)
        assert ways.count("batch") == 3
        assert simulator.invoice().total.requests == 8


async def test_an_outage(serve: Serve, simulator: Simulator) -> None:
    """While the provider is away nothing is lost and nothing sent twice; afterwards it goes on."""
    async with world(serve, simulator) as w:
        told = await w.plane.chat(DAY)
        simulator.fault("error-503")
        for _ in range(5):
            await w.at(60)
        assert batches(simulator) == []
        assert (await w.job(told))["status"] == "submitted"
        simulator._provider.rules.clear()
        for _ in range(3):
            await w.at(60)
        assert (await w.job(told))["status"] == "completed"
        assert len(batches(simulator)) == 1


async def test_a_hanging_answer_about_one_batch_holds_up_no_other(
    serve: Serve, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider doesn't say how the first stands; meanwhile the answers of the second are fetched."""
    async with world(serve, simulator) as w:
        simulator.batches.terms = Terms(Latency("constant", HOUR))
        told = [await w.plane.chat(line, seed=n) for n, line in enumerate((DAY, "x-weir-deadline: 3h"))]
        await w.at(10)
        assert len(batches(simulator)) == 2
        says, asked, stands = asyncio.Event(), list[str](), Provider.stands

        async def hangs(provider: Provider, id: str) -> Standing:
            asked.append(id)
            if len(asked) == 1:
                await says.wait()
            return await stands(provider, id)

        monkeypatch.setattr(Provider, "stands", hangs)
        looking = asyncio.create_task(w.at(HOUR + 60))
        await until(lambda: len(asked) == 2)
        async with asyncio.timeout(PATIENCE_S):
            while (await w.job(told[1]))["status"] != "completed":
                await asyncio.sleep(0.01)
        assert (await w.job(told[0]))["status"] == "submitted"
        says.set()
        await looking
        assert (await w.job(told[0]))["status"] == "completed"


async def test_an_answer_that_nobody_heard(serve: Serve, simulator: Simulator) -> None:
    """The provider made the batch, but its answer was lost: it is found by our id, and not made again."""
    async with world(serve, simulator) as w:
        told = await w.plane.chat(DAY)
        simulator.fault("truncated-json", path="/v1/batches", nth=1)
        for _ in range(4):
            await w.at(60)
        assert len(batches(simulator)) == 1
        assert (await w.job(told))["status"] == "completed"
        assert simulator.invoice().total.requests == 1


async def test_another_worker_takes_over(serve: Serve, simulator: Simulator) -> None:
    """A worker that is gone for good: another one finds its jobs and its batches, and each is done once."""
    wall, store = Wall(), MemoryStore(lambda: int(wall.now * 1e9))
    simulator.batches.terms = Terms(Latency("constant", HOUR))
    async with world(serve, simulator, wall, store) as w:
        submitted = await w.plane.chat(DAY, seed=1)
        await w.at(10)
        waiting = await w.plane.chat(DAY, seed=2)
        for layer in w.layers:
            layer.engine = None  # killed: nothing more is written
        async with world(serve, simulator, wall, store) as other:
            await other.at(1)
            assert other.layers[0].engine.live == {}  # its owner may still be there
            for _ in range(4):
                await other.at(HOUR / 2)
            for told in (submitted, waiting):
                assert (await other.job(told))["status"] == "completed"
            assert len(batches(simulator)) == 2
            assert simulator.invoice().total.requests == 2


async def test_who_was_cut_off_gives_up_what_others_took(serve: Serve, simulator: Simulator) -> None:
    """A worker that couldn't be heard finds its jobs taken over: they are done once, and it takes new ones."""
    wall, store = Wall(), MemoryStore(lambda: int(wall.now * 1e9))
    simulator.batches.terms = Terms(Latency("constant", HOUR))
    async with world(serve, simulator, wall, store) as w, world(serve, simulator, wall, store) as other:
        told = await w.plane.chat(DAY, seed=1)
        wall.now += HOUR / 4  # the first one is cut off, the second isn't
        await other.at(1)
        assert [*other.layers[0].engine.live] == [*w.layers[0].engine.live]
        await w.at(1)
        assert w.layers[0].engine.live == {}
        anew = await w.plane.chat(DAY, seed=2)
        for _ in range(8):
            for world_ in (w, other):
                await world_.at(5)
            wall.now += HOUR / 4 - 10
            for world_ in (w, other):
                await world_.at(0)
        for one in (told, anew):
            assert (await other.job(one))["status"] == "completed"
        assert simulator.invoice().total.requests == 2


async def test_jobs_are_their_tenants(serve: Serve, simulator: Simulator) -> None:
    """Nobody else is told of a job, or can cancel it; its owner can."""
    keys = [key("wk-a", "a", team="x"), key("wk-b", "b", team="y")]
    async with world(serve, simulator, keys=keys) as w:
        mine, other = "authorization: Bearer wk-a", "authorization: Bearer wk-b"
        told = await w.plane.chat(DAY, mine)
        path = f"/weir/jobs/{told.json['id']}"
        for method in ("GET", "DELETE"):
            answer = await w.plane.get(path, other, method=method)
            assert (answer.status, answer.error["code"]) == (404, "job_not_found")
        assert (await w.plane.get(path, mine, method="DELETE")).status == 200
        await w.at(10)
        assert (await w.job(told, mine))["status"] == "cancelled"
        assert batches(simulator) == []


async def test_a_cancelled_job_costs_what_its_batch_answers(serve: Serve, simulator: Simulator) -> None:
    """It is told as cancelled at once; what the provider answers of it is booked and spent. The batch goes on."""
    from policies import budget

    wall, store = Wall(), MemoryStore()
    settings: dict[str, Any] = {"before": [entry("budget", limit="1 USD/rolling 30d")], "registry": {"budget": budget}}
    simulator.batches.terms = Terms(Latency("constant", HOUR))
    async with world(serve, simulator, wall, store, **settings) as w:
        told = [await w.plane.chat(DAY, seed=n) for n in range(2)]
        await w.at(10)
        await w.plane.get(f"/weir/jobs/{told[0].json['id']}", method="DELETE")
        await w.at(1)
        assert (await w.job(told[0]))["status"] == "cancelled"
        await w.at(HOUR)
        jobs = [await w.job(one) for one in told]
        assert [job["status"] for job in jobs] == ["cancelled", "completed"]
        assert jobs[0]["response"] is None
        cost = sum(job["cost_nanodollars"] for job in jobs)
        assert cost == sum(row["nanodollars"] for row in w.plane.journal("settled")) > jobs[1]["cost_nanodollars"]
    assert await amounts(store) == (cost, 0)
    assert await store.standing() == []


async def test_a_batch_that_nobody_waits_for_is_cancelled(serve: Serve, simulator: Simulator) -> None:
    """All its jobs are cancelled: the provider is told, and nothing stays held."""
    async with world(serve, simulator) as w:
        simulator.batches.terms = Terms(Latency("constant", HOUR))
        told = await w.plane.chat(DAY)
        await w.at(10)
        await w.plane.get(f"/weir/jobs/{told.json['id']}", method="DELETE")
        for _ in range(3):
            await w.at(31)
        assert [batch.facts["status"] for batch in batches(simulator)] == ["cancelled"]
        assert simulator.invoice().total.requests == 0
        assert await w.layers[0].engine.jobs.store.keys("jobs/batch/") == []


async def test_a_job_that_is_cancelled_while_it_runs(serve: Serve, simulator: Simulator) -> None:
    """It ends then, and stays cancelled."""
    async with world(serve, simulator) as w:
        simulator.batches.terms = Terms(Latency("constant", 40 * HOUR))
        simulator.fault("no-headers", path="/v1/chat/completions")
        told = await w.plane.chat("x-weir-deadline: 65m")
        engine = w.layers[0].engine
        await w_step(w, 46 * 60)
        await until(lambda: simulator.state.requests and engine._running)
        await w.plane.get(f"/weir/jobs/{told.json['id']}", method="DELETE")
        await w.at(1)
        assert (await w.job(told))["status"] == "cancelled"
        assert (engine._running, engine.live) == ({}, {})
        assert w.plane.settled()["outcome"] == "aborted"
        assert await engine.jobs.store.keys("jobs/open/") == []


async def test_large_answers_are_kept(serve: Serve, simulator: Simulator) -> None:
    """An answer larger than a value of the state may be comes whole; the jobs beside it go on."""
    async with world(serve, simulator) as w:
        many = {"model": "text-embedding-3-large", "input": ["the river"] * 350}
        large = await w.plane.post("/v1/embeddings", many, DAY)
        small = await w.plane.chat(DAY)
        await w.at(10)
        await w.at(31)
        answer = (await w.job(large))["response"]["body"]
        assert len(orjson.dumps(answer)) > 4 * 2**20
        assert [len(entry["embedding"]) for entry in answer["data"]] == [3072] * 350
        assert (await w.job(small))["status"] == "completed"


async def test_budgets_are_asked_first(serve: Serve, simulator: Simulator) -> None:
    """Who has no money is refused at once; what a job costs in the end is spent, and nothing stays held."""
    budget = entry("budget", per="key", limit="1 USD/day", max_wait="0s")
    wall = Wall()
    from policies import budget as module

    async with world(serve, simulator, wall, before=[budget], registry={"budget": module}) as w:
        told = await w.plane.chat(DAY)
        assert told.status == 202
        await w.at(10)
        await w.at(31)
        job = await w.job(told)
        assert job["status"] == "completed"
        standing = (await w.plane.get("/weir/me")).json["budgets"][0]
        assert standing["spent"] == job["cost_nanodollars"] > 0
    poor = entry("budget", per="key", limit="0.0000001 USD/day", max_wait="0s")
    async with world(serve, simulator, wall, before=[poor], registry={"budget": module}) as w:
        assert (await w.plane.chat(DAY)).status == 429
        assert w.layers[0].engine.live == {}


async def test_a_restart_forgets_no_budget(serve: Serve, simulator: Simulator) -> None:
    """What is held for a job outlives the worker that accepted it, and is settled once, by whoever finishes the job."""
    from policies import budget

    wall, store = Wall(), MemoryStore(lambda: int(wall.now * 1e9))
    settings: dict[str, Any] = {"before": [entry("budget", limit="1 USD/rolling 30d")], "registry": {"budget": budget}}
    simulator.batches.terms = Terms(Latency("constant", HOUR))
    async with world(serve, simulator, wall, store, **settings) as w:
        told = [await w.plane.chat(DAY, n=3, max_tokens=100), await w.plane.chat("x-weir-deadline: 90m")]
        await w.at(10)
        w.layers[0].engine.live.clear()  # killed: nothing more is done
        w.layers[0].engine.batching.live.clear()
    held = await amounts(store)
    assert held[1] > 3 * 100 * 600  # the synchronous price of every choice (0.60 USD a million tokens)
    async with world(serve, simulator, wall, store, **settings) as other:
        for _ in range(30):
            await other.at(HOUR / 4)
        jobs = [await other.job(one) for one in told]
        assert {job["status"] for job in jobs} == {"completed"}
        assert await amounts(store) == (sum(job["cost_nanodollars"] for job in jobs), 0)
        assert await store.standing() == []


async def test_a_run_that_died_counts_for_all_that_was_held(serve: Serve, simulator: Simulator) -> None:
    """Nobody knows whether the first run was billed: what was held for it is spent, and what the second one cost."""
    from policies import budget

    wall, store = Wall(), MemoryStore(lambda: int(wall.now * 1e9))
    settings: dict[str, Any] = {"before": [entry("budget", limit="1 USD/rolling 30d")], "registry": {"budget": budget}}
    async with world(serve, simulator, wall, store, **settings) as w:
        told = await w.plane.chat("x-weir-deadline: 65m", max_tokens=100)
        engine = w.layers[0].engine
        (job,) = engine.live.values()
        job.state, job.tries = "running", 2
        await engine.jobs.save(job)
        engine.live.clear()
    _, held = await amounts(store)
    assert held > 0
    async with world(serve, simulator, wall, store, **settings) as other:
        await other.at(60)
        await other.at(HOUR)
        found = await other.job(told)
        assert (found["status"], found["how"]) == ("completed", "synchronous")
        await other.plane.quiet()
        await until(lambda: not other.layers[0].engine.live)
    assert await amounts(store) == (held + found["cost_nanodollars"], 0)


async def test_an_answer_that_is_here_is_not_asked_for_again(serve: Serve, simulator: Simulator) -> None:
    """The state goes away while a job runs: its end is written when that is back, and its answer was paid once."""
    from proxy.state.protocol import StateLost

    wall = Wall()

    class Leaving(MemoryStore):
        away = 0

        async def put(self, key: str, value: bytes, *args: Any, **kwargs: Any) -> None:
            if self.away and b"completed" in value:
                self.away -= 1
                raise StateLost
            await super().put(key, value, *args, **kwargs)

    store = Leaving()
    async with world(serve, simulator, wall, store) as w:
        simulator.batches.terms = Terms(Latency("constant", 100 * HOUR))
        told = await w.plane.chat("x-weir-deadline: 65m")
        store.away = 2
        await w.at(10)
        for _ in range(6):
            await w.at(11 * 60)
        assert (await w.job(told))["status"] == "completed"
        assert store.away == 0
        assert simulator.invoice().total.requests == 1


async def test_rate_limits_count_a_job_once_and_give_its_place_to_others(serve: Serve, simulator: Simulator) -> None:
    """A job that waits for hours takes no place among those that run at once, and stays counted as a request."""
    from policies import ratelimit

    limits = entry("ratelimit", requests="2/hour", concurrency=1)
    async with world(serve, simulator, before=[limits], registry={"ratelimit": ratelimit}) as w:
        assert (await w.plane.chat(DAY)).status == 202
        assert (await w.plane.chat()).status == 200
        assert (await w.plane.chat()).error["code"] == "rate_limit_exceeded"


async def amounts(store: MemoryStore) -> tuple[int, int]:
    """Spent and held of all budgets in money."""
    found = [counter for key, counter in store._core.book.counters.items() if key.startswith("usd:")]
    levels = [one.level(store._now()) for one in found]
    return sum(one.spent for one in levels), sum(one.held for one in levels)


async def test_webhooks_are_signed(serve: Serve, simulator: Simulator) -> None:
    """The end of a job is told, without its content, with a signature over the bytes."""
    told: list[tuple[bytes, str]] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
        body = await reader.readexactly(length)
        told.append((body, head.lower().partition("x-weir-signature: ")[2].split("\r\n")[0]))
        writer.write(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/done"
    async with world(serve, simulator, options={"webhook": {"url": url, "secret": "s"}}) as w:
        job = await w.plane.chat(DAY)
        await w.at(10)
        await w.at(31)
        await until(lambda: told)
        body, signed = told[0]
        said = orjson.loads(body)
        assert (said["event"], said["id"], said["status"]) == ("job.over", job.json["id"], "completed")
        assert "response" not in said
        assert signed == "sha256=" + hmac.new(b"s", body, hashlib.sha256).hexdigest()
    server.close()


async def test_a_lost_store_defers_nothing(serve: Serve, simulator: Simulator) -> None:
    """What can't be kept is answered now."""
    from proxy.state.protocol import StateLost

    class Lost(MemoryStore):
        async def put(self, *args: Any, **kwargs: Any) -> None:
            raise StateLost

    async with world(serve, simulator, store=Lost()) as w:
        answer = await w.plane.chat(DAY)
        assert (answer.status, answer.json["object"]) == (200, "chat.completion")
