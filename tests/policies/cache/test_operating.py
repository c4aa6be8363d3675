"""What an operator asks of a cache: stats, an entry, evictions; and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from policies import cache
from proxy.errors import WeirError
from proxy.metrics import Metrics, merge
from proxy.operating import Operating, operate
from proxy.simulator import Simulator
from proxy.state.memory import MemoryStore
from proxy.state.protocol import StateLost
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry, key
from tests.policies.cache.test_exact import hit

REGISTRY: Any = {"cache": lambda: cache, "other": lambda: object()}


def here(store: MemoryStore | None, *planes: Plane) -> Operating:
    return Operating(store, merge([plane.metrics.snapshot() for plane in planes]))


async def refused(operation: str, arguments: Any = None, *, use: str = "cache", store: Any = None) -> tuple[int, Any]:
    counted = merge([Metrics().snapshot()])
    with pytest.raises(WeirError) as caught:
        await operate(use, operation, arguments or {}, Operating(store, counted), REGISTRY)
    return caught.value.status, caught.value.code


async def test_how_it_does(serve: Serve, simulator: Simulator) -> None:
    """Counts of all workers, what each holds, and what they share."""
    store = MemoryStore()
    policies = [entry("cache", exact={"sampled": True})]
    async with serve(policies=policies, store=store) as one, serve(policies=policies, store=store) as two:
        for plane in (one, one, two):
            await plane.chat()
            await plane.quiet()
        await two.chat(tools=[{"type": "web_search"}])
        await two.quiet()
        told = await operate("cache", "stats", {}, here(store, one, two), REGISTRY)
        mine = told["policies"]["cache"]
        assert (mine["hit"], mine["miss"], mine["passed"], mine["stale"]) == (2, 1, 1, 0)
        assert mine["entries"] == 2 and 4000 < mine["bytes"] < 10_000
        assert told["stored"] == {"entries": 1, "exact": True}
        assert (await operate("cache", "stats", {}, here(None), REGISTRY)) == {"policies": {}, "stored": None}


async def test_many_are_counted_about() -> None:
    """Beyond a thousand, a part stands for the whole."""
    store = MemoryStore()
    for number in range(20_000):
        await store.put(f"cache/{(number * 0x9E3779B97F4A7C15F39CC0605CEDC834) % 2**128:032x}", b"", 60)
    told = await operate("cache", "stats", {}, here(store), REGISTRY)
    assert told["stored"]["exact"] is False
    assert 15_000 < told["stored"]["entries"] < 25_000


async def test_an_entry(serve: Serve, simulator: Simulator) -> None:
    """What it is, and what it says; as the header names it."""
    store = MemoryStore()
    policies = [entry("cache", exact={"sampled": True, "tags": ["feature"]})]
    async with serve(policies=policies, store=store, keys=[key("wk-a", "a", org="acme")]) as plane:
        for _ in range(2):
            answer = await plane.chat("authorization: Bearer wk-a", "x-weir-tags: feature=help, ticket=7")
            await plane.quiet()
        found = dict(
            await operate(
                "cache",
                "get",
                {"entry": (answer.header(b"x-weir-cache-entry") or b"").decode()},
                here(store),
                REGISTRY,
            )
        )
        cost = plane.journal("settled")[0]["nanodollars"]
        assert (found["model"], found["nanodollars"], found["ttl_s"]) == ("gpt-4o-mini", cost, 86_400)
        assert found["tags"] == ("tenant=acme", "model=gpt-4o-mini", "policy=cache", "feature=help")
        assert answer.json["choices"][0]["message"]["content"] in found["answer"]
        assert found["bytes"] == len(found["answer"].encode())


@pytest.mark.parametrize(
    ("told", "gone"),
    [
        ({"tenant": "acme"}, {"acme"}),
        ({"model": "gpt-4o"}, {"gpt-4o"}),
        ({"tag": "feature=help"}, {"help"}),
        ({"policy": "cache"}, {"acme", "gpt-4o", "help", "rest"}),
        ({"tenant": "acm"}, set()),
        ({"tag": "ticket=7"}, set()),
    ],
)
async def test_evict(serve: Serve, simulator: Simulator, told: dict[str, str], gone: set[str]) -> None:
    """By tenant, model, tag, policy: those entries, in the state and in every worker, and no others."""
    store = MemoryStore()
    policies = [entry("cache", exact={"sampled": True, "tags": ["feature"]})]
    keys = [key("wk-a", "a", org="acme"), key("wk-b", "b", org="river")]
    async with serve(policies=policies, store=store, keys=keys) as plane:
        asks: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
            "acme": (("authorization: Bearer wk-a",), {}),
            "gpt-4o": (("authorization: Bearer wk-b",), {"model": "gpt-4o"}),
            "help": (("authorization: Bearer wk-b", "x-weir-tags: feature=help, ticket=7"), {"seed": 1}),
            "rest": (("authorization: Bearer wk-b",), {"seed": 2}),
        }
        for lines, fields in asks.values():
            assert hit(await plane.chat(*lines, **fields)) == "miss"
            await plane.quiet()
        answer = await operate("cache", "evict", told, here(store), REGISTRY)
        assert answer == {"evicted": len(gone)}
        for _ in range(20):
            await plane.quiet()
        for name, (lines, fields) in asks.items():
            found = await plane.chat(*lines, "cache-control: only-if-cached", **fields)
            assert found.status == (504 if name in gone else 200), name


async def test_evict_by_entry(serve: Serve, simulator: Simulator) -> None:
    """Those that are named; unknown ones don't count."""
    store = MemoryStore()
    async with serve(policies=[entry("cache", exact={"sampled": True})], store=store) as plane:
        await plane.chat()
        await plane.quiet()
        named = [name.removeprefix("cache/") for name in await store.keys("cache/")]
        told = await operate("cache", "evict", {"entries": [*named, "0" * 32]}, here(store), REGISTRY)
        assert told == {"evicted": 1}
        assert await store.keys("cache/") == []


class Lost(MemoryStore):
    """A Store that is away."""

    async def get(self, key: str) -> bytes | None:
        raise StateLost


async def test_refusals() -> None:
    """Each with its code: what isn't there, what isn't clear, and a state that is away or that there is none of."""
    store = MemoryStore()
    assert await refused("stats", use="unknown") == (404, "policy_not_found")
    assert await refused("stats", use="other") == (404, "policy_not_found")
    assert await refused("polish", store=store) == (404, "operation_not_found")
    assert await refused("get", {"entry": "0" * 32}) == (409, "no_state")
    for wrong in ("", "0" * 31, "../../x", "0" * 32):
        assert await refused("get", {"entry": wrong}, store=store) == (404, "entry_not_found")
    for unclear in ({}, {"entries": []}, {"entries": "x"}, {"tenants": "a"}, {"tag": 1}):
        assert await refused("evict", unclear, store=store) == (400, "invalid_body")
    assert await refused("get", {"entry": "0" * 32}, store=Lost()) == (503, "state_lost")
