"""Classes by what is asked: learnt once, the same for all workers, kept, proven one by one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from policies import cascade
from policies.cascade.clusters import EACH, UNSORTED
from policies.cascade.learning.clustering import clustered
from proxy.cli.cascade import standing
from proxy.operating import Operating, operate
from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.plane.running import Plane
from tests.policies.cascade.models import LARGE, SMALL, Models, cascading, layer
from tests.wire.raw import Answer

pytest.importorskip("wordllama", reason="needs the extra `semantic`")
NOTHING: Any = None
SUMS = "How much is {0} plus {1}, minus {2} times three?"
WEATHER = "Will it rain or snow in the mountains near village {0} tomorrow, or is the sun out?"


def question(topic: str, number: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": topic.format(number, number + 7, number % 5)}]


async def asked(plane: Plane, topic: str, number: int) -> Answer:
    answer = await plane.chat(model=LARGE, messages=question(topic, number))
    await plane.quiet(within_s=60.0)  # a process of its own may be learning
    return answer


def cluster_of(answer: Answer) -> str:
    return (answer.header(b"x-weir-cascade") or b"").decode().partition("; cluster=")[2]


@asynccontextmanager
async def sorting(serve: Serve, models: Models, store: MemoryStore, **options: Any) -> AsyncIterator[Plane]:
    async with cascading(serve, models, clusters=2, settings={"store": store}, **options) as plane:
        yield plane


def shown(plane: Plane, count: int) -> None:
    """So many requests have been seen, of which two thirds are sums."""
    clusters = layer(plane).classes.clusters
    assert clusters is not None
    for number in range(count):
        topic = WEATHER if number % 3 == 0 else SUMS
        clusters.name_of(str(question(topic, number)[0]["content"]))


async def status(store: MemoryStore, plane: Plane, *classes: str) -> str:
    """What people read, once it is about these classes alone."""
    registry: Any = {"cascade": lambda: cascade}
    async with asyncio.timeout(60):
        while True:
            await layer(plane).classes.flush()
            told = (await operate("cascade", "status", {}, Operating(store, NOTHING), registry))["cascades"]
            if {each["class"] for each in told} == set(classes):
                return "\n".join(line for each in told for line in standing(each))
            await asyncio.sleep(0)


async def test_classes_are_learnt(serve: Serve, models: Models) -> None:
    """From the first requests on; until then nothing is proven. Then each has evidence of its own, in all workers, also
    after a restart; and all begins anew where an operator says so."""
    store = MemoryStore()
    async with sorting(serve, models, store) as plane, sorting(serve, models, store, shadow_rate="0%") as other:
        first = await asked(plane, SUMS, 1000)
        assert (cluster_of(first), models.models_asked()) == (UNSORTED, [LARGE])
        assert "about 199 more requests" in await status(store, plane, f"whole/{UNSORTED}")
        shown(plane, 2 * EACH - 2)
        await asked(plane, SUMS, 1001)
        while not all(layer(each).classes.sorted for each in (plane, other)):
            await asyncio.sleep(0)  # until the feed has told both
        names = [cluster_of(await asked(each, topic, 1002)) for topic in (SUMS, WEATHER) for each in (plane, other)]
        assert names[0] == names[1] != names[2] == names[3]
        assert [name.partition("-")[0] for name in names] == ["c1", "c1", "c2", "c2"]  # the larger one is the first
        models.says[SMALL] = lambda request: "42" if "plus" in str(request["messages"]) else "41"
        for number in range(25):
            await asked(plane, SUMS, number)
            await asked(plane, WEATHER, number)
        sums, weather = (next(e for e in layer(plane).classes if e.name == f"whole/{name}") for name in names[::2])
        assert (sums.status, weather.status) == ("certified", "gathering")
        assert "cluster 1 of 2, 67% of the requests" in await status(store, plane, sums.name, weather.name)
    async with sorting(serve, models, store) as plane:
        again = await asked(plane, SUMS, 2000)
        assert cluster_of(again) == names[0]
        assert (again.header(b"x-weir-cascade") or b"").startswith(b"small; certified")
        registry: Any = {"cascade": lambda: cascade}
        await operate("cascade", "reset", {"policy": "cascade"}, Operating(store, NOTHING), registry)
        assert cluster_of(await asked(plane, SUMS, 2001)) == UNSORTED
        assert await status(store, plane, f"whole/{UNSORTED}")


def test_a_division_is_the_same_for_the_same_vectors() -> None:
    """Groups that lie apart are found, the largest first; of fewer texts there are fewer clusters."""
    drawn = random.Random(4)
    axes = np.eye(16, dtype=np.float32)
    made = [axes[at] + 0.1 * np.array([drawn.gauss(0, 1) for _ in range(16)]) for at in (0, 1, 1, 2, 2, 2) * 20]
    vectors = np.array([each / np.linalg.norm(each) for each in made], np.float32)
    centres, shares = clustered(vectors, 3)
    assert shares == [0.5, pytest.approx(1 / 3), pytest.approx(1 / 6)]
    assert (centres @ axes[:3].T).argmax(1).tolist() == [2, 1, 0]
    assert np.array_equal(clustered(vectors, 3)[0], centres)
    assert clustered(vectors[:1].repeat(9, 0), 3)[1] == [1.0]
