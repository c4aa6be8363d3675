"""Several deployments of a model on the wire: who is asked, who is left alone, what clients get when nobody can be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from proxy.config import Secret
from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry
from tests.wire.raw import chat, post


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


def keyed(url: str, *secrets: str, **fields: Any) -> dict[str, Any]:
    """An upstream with keys of ours."""
    return {"url": url, "keys": [Secret(env=f"K{n}", value=secret) for n, secret in enumerate(secrets)], **fields}


@asynccontextmanager
async def replicas(serve: Serve, count: int = 2, **model: Any) -> AsyncIterator[tuple[Plane, list[Simulator]]]:
    """A model at so many upstreams, each with a key of ours."""
    policies, options = model.pop("policies", []), model.pop("upstream", {})
    async with AsyncExitStack() as stack:
        simulators = [await stack.enter_async_context(Simulator(seed=number)) for number in range(count)]
        upstreams = {f"r{n}": keyed(one.url, f"sk-canary-{n}", **options) for n, one in enumerate(simulators)}
        models = {"house": {"deployments": [{"upstream": name, "model": "gpt-4o"} for name in upstreams], **model}}
        plane = await stack.enter_async_context(serve(upstreams=upstreams, models=models, policies=policies))
        yield plane, simulators


def told(plane: Plane) -> list[str]:
    """What operators were told."""
    return [event for _, event, _ in plane.logged]


def states(plane: Plane) -> dict[str, dict[str, int]]:
    """How the deployments stand, as metrics have it."""
    return {one.deployment: one.states for one in plane.plane.state.dispatch.routes.standing()}


async def test_a_broken_one_is_left_alone(serve: Serve) -> None:
    """After five 500s in a row it gets no more calls, and the operator hears of it."""
    async with replicas(serve) as (plane, (bad, good)):
        bad.fault("error-500")
        statuses = [(await plane.chat(model="house")).status for _ in range(20)]
        assert statuses.count(502) == 5
        assert (len(bad.requests), len(good.requests)) == (5, 15)
        assert states(plane) == {"r0/gpt-4o": {"open": 1}, "r1/gpt-4o": {"ok": 1}}
        assert told(plane) == ["deployment_opened"]


async def test_it_comes_back(serve: Serve) -> None:
    """When its time is over, calls that go well bring it back."""
    breaker = {"open_s": 0.05, "server_errors": 2}
    async with replicas(serve, upstream={"breaker": breaker}) as (plane, (bad, _)):
        bad.fault("error-500")
        for _ in range(4):
            await plane.chat(model="house")
        bad.reset()
        for _ in range(500):
            assert (await plane.chat(model="house")).status == 200
            if "deployment_closed" in told(plane):
                break
        assert states(plane)["r0/gpt-4o"] == {"ok": 1}
        assert plane.metrics.snapshot()["events"]["deployment_closed"] == 1


async def test_all_broken(serve: Serve) -> None:
    """If all fail, requests are still sent, and the upstream's own failure is the answer."""
    async with replicas(serve) as (plane, simulators):
        for simulator in simulators:
            simulator.fault("error-500")
        for _ in range(14):
            answer = await plane.chat(model="house")
        assert answer.status == 502
        assert answer.error["code"] == "upstream_500"
        assert answer.header(b"x-weir-policies") == b"deployments=least_bad"


async def test_who_says_when_isnt_asked_before(serve: Serve) -> None:
    """A 429 with Retry-After passes once; then the other one gets the requests."""
    async with replicas(serve) as (plane, (limited, other)):
        limited.fault("rate-limit:60")
        statuses = [(await plane.chat(model="house")).status for _ in range(10)]
        assert statuses.count(429) == 1
        assert (len(limited.requests), len(other.requests)) == (1, 9)
        assert states(plane)["r0/gpt-4o"] == {"waiting": 1}


async def test_all_say_when(serve: Serve) -> None:
    """If all have, nothing is sent: 503 with the shortest wait, no cost, no record of an attempt."""
    async with replicas(serve) as (plane, (one, other)):
        one.fault("rate-limit:60")
        other.fault("rate-limit:30")
        for _ in range(2):
            assert (await plane.chat(model="house")).status == 429
        answer = await plane.chat(model="house")
        assert answer.status == 503
        assert answer.error["code"] == "no_deployment_available"
        assert 25 <= int(answer.header(b"retry-after") or 0) <= 30
        assert answer.header(b"x-weir-cost") == b"0.000000000"
        assert len(one.requests) + len(other.requests) == 2
        assert len(plane.journal("reserved")) == 2
        assert plane.metrics.snapshot()["events"]["no_deployment_available"] == 1


async def test_fallback_goes_on_from_there(serve: Serve) -> None:
    """To `fallback` it is a failed attempt like any other: the next model is asked."""
    async with Simulator(seed=1) as limited, Simulator(seed=2) as spare:
        upstreams = {"limited": keyed(limited.url, "sk-a", "sk-b"), "spare": keyed(spare.url, "sk-c")}
        models = {
            "house": {"upstream": "limited", "model": "gpt-4o"},
            "spare": {"upstream": "spare", "model": "gpt-4o"},
        }
        limited.fault("rate-limit:60")
        async with serve(
            upstreams=upstreams, models=models, policies=[entry("fallback", to=["spare"], on=["overloaded"])]
        ) as plane:
            statuses = [(await plane.chat(model="house")).status for _ in range(4)]
            assert statuses == [429, 429, 200, 200]
            assert (len(limited.requests), len(spare.requests)) == (2, 2)


async def test_retry_waits_for_it(serve: Serve) -> None:
    """To `retry`, too: it waits for as long as it is told, and asks then."""
    async with replicas(serve, policies=[entry("retry")]) as (plane, (one, other)):
        (route,) = plane.plane.state.dispatch.routes.routes
        for deployment in route.deployments:
            deployment.line.own_allowance("house").refused(0.2, False, asyncio.get_running_loop().time())
        answer = await plane.chat(model="house")
        assert (answer.status, plane.ended()["attempts"]) == (200, 2)
        assert len(one.requests) + len(other.requests) == 1
        assert answer.header(b"x-weir-policies") == b"deployments=none_available, retry=retried"


async def test_keys_take_turns(serve: Serve) -> None:
    """Each key has its share of an upstream's requests; the journal says which was used, and nobody sees one."""
    async with Simulator(seed=1) as simulator:
        upstreams = {"up": keyed(simulator.url, "sk-canary-one", "sk-canary-two")}
        async with serve(upstreams=upstreams, models={"*": {"upstream": "up"}}) as plane:
            answers = [await plane.chat(model="gpt-4o") for _ in range(6)]
            sent = [request.credential for request in simulator.requests]
            assert sorted(sent) == ["sk-canary-one"] * 3 + ["sk-canary-two"] * 3
            assert {record["deployment"] for record in plane.journal("reserved")} == {"up#1", "up#2"}
            shown = (
                repr([(answer.headers, answer.body) for answer in answers])
                + repr(plane.journal())
                + repr(plane.metrics.snapshot())
            )
            assert "sk-canary" not in shown + repr(plane.plane.state.dispatch.routes.routes)


async def test_a_refused_key_is_set_aside(serve: Serve) -> None:
    """It costs one request a 502; the others go by the other key, and the operator is told."""
    async with Simulator(seed=1) as simulator:
        upstreams = {"up": keyed(simulator.url, "sk-revoked", "sk-good")}
        async with serve(upstreams=upstreams, models={"*": {"upstream": "up"}}) as plane:
            simulator.fault("unauthorized", key="sk-revoked")
            statuses = [(await plane.chat(model="gpt-4o")).status for _ in range(8)]
            assert statuses.count(502) == 1
            assert statuses.count(200) == 7
            assert "upstream_key_aside" in told(plane)
            assert states(plane) == {"up#1": {"key_aside": 1}, "up#2": {"ok": 1}}


async def test_retry_takes_the_other_key(serve: Serve) -> None:
    """With `retry` nobody notices."""
    async with Simulator(seed=1) as simulator:
        upstreams = {"up": keyed(simulator.url, "sk-revoked", "sk-good")}
        models = {"*": {"upstream": "up"}}
        async with serve(upstreams=upstreams, models=models, policies=[entry("retry")]) as plane:
            simulator.fault("unauthorized", key="sk-revoked")
            assert [(await plane.chat(model="gpt-4o")).status for _ in range(6)] == [200] * 6


async def test_a_conversation_keeps_its_replica(serve: Serve) -> None:
    """Turn after turn goes to the replica that has its beginning; other conversations spread."""
    async with replicas(serve, 3, balance="prefix-affinity") as (plane, simulators):
        for number in range(12):
            before = [len(simulator.requests) for simulator in simulators]
            messages = [{"role": "user", "content": f"{number} " * 400}]
            for turn in range(4):
                assert (await plane.chat(model="house", messages=messages)).status == 200
                messages = [*messages, {"role": "user", "content": f"and {turn}? " * 100}]
            now = [len(simulator.requests) for simulator in simulators]
            assert sorted(b - a for a, b in zip(before, now, strict=True)) == [0, 0, 4]
        assert all(simulator.requests for simulator in simulators)


async def test_no_more_than_they_may_have(serve: Serve) -> None:
    """With all calls that it may have, a model's only deployment refuses the next one until one ends."""
    async with Simulator(seed=1) as simulator:
        offer = {"upstream": "up", "model": "gpt-4o", "max_concurrent": 1}
        async with serve(upstreams={"up": keyed(simulator.url, "sk-a")}, models={"house": offer}) as plane:
            simulator.fault("no-headers:10", first=1)
            async with await plane.connect() as slow:
                await slow.send(post("/v1/chat/completions", chat(model="house")))
                while not simulator.requests:
                    await asyncio.sleep(0.002)
                answer = await plane.chat(model="house")
                assert (answer.status, answer.error["code"]) == (503, "no_deployment_available")
            await plane.quiet()
            assert (await plane.chat(model="house")).status == 200


async def test_what_was_learnt_outlives_a_reload(serve: Serve) -> None:
    """A reload that changes nothing about an upstream keeps what is known of it."""
    async with replicas(serve) as (plane, (bad, _)):
        bad.fault("error-500")
        for _ in range(12):
            await plane.chat(model="house")
        assert states(plane)["r0/gpt-4o"] == {"open": 1}
        await plane.plane.reconfigure(plane.remake([entry("headers")]), [], None)
        assert states(plane)["r0/gpt-4o"] == {"open": 1}
