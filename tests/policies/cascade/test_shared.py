"""What a cascade knows: the same in all workers, after a restart, and forgotten where it is about something else."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from policies import cascade
from policies.cascade.evidence import FIT_AT, Evidence
from policies.cascade.learning.features import answer_features, joined, prompt_features, unpacked
from policies.cascade.learning.score import prior
from policies.cascade.shared import REPORTS, Fitted, Order, Pair, Traffic
from proxy.operating import Operating, operate
from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.policies.cascade.models import LARGE, SMALL, Models, cascading, certify, layer

NOTHING: Any = None


async def test_two_workers(serve: Serve, models: Models) -> None:
    """What one worker has learnt the other one knows, pair by pair, with the same certificate."""
    store = MemoryStore()
    settings = {"settings": {"store": store}}
    async with (
        cascading(serve, models, **settings) as one,
        cascading(serve, models, shadow_rate="0%", **settings) as two,
    ):
        await certify(one)
        answer = await two.chat(model=LARGE)
        (mine,), (other,) = layer(one).classes, layer(two).classes
    assert (answer.header(b"x-weir-cascade") or b"").startswith(b"small; certified")
    assert (mine.judged, mine.certificate_id) == (other.judged, other.certificate_id)


async def test_restart(serve: Serve, models: Models) -> None:
    """A worker that starts knows what was known, and what the feed brought since."""
    store = MemoryStore()
    settings = {"settings": {"store": store}}
    async with cascading(serve, models, **settings) as plane:
        await certify(plane)
        before = next(iter(layer(plane).classes)).report()
    async with cascading(serve, models, shadow_rate="0%", **settings) as plane:
        answer = await plane.chat(model=LARGE)
        (evidence,) = layer(plane).classes
    assert (answer.header(b"x-weir-cascade") or b"").startswith(b"small; certified")
    after = evidence.report()
    assert {name: after[name] for name in ("pairs", "judged", "p", "certificate", "evidence")} == {
        name: before[name] for name in ("pairs", "judged", "p", "certificate", "evidence")
    }


async def test_another_judge(serve: Serve, models: Models) -> None:
    """What another judge saw proves nothing."""
    store = MemoryStore()
    settings = {"settings": {"store": store}}
    async with cascading(serve, models, per="template", **settings) as plane:
        await certify(plane)
    before = await store.keys(REPORTS)
    async with cascading(serve, models, judge={"equality": "exact"}, **settings) as plane:
        answer = await plane.chat(model=LARGE)
        async with asyncio.timeout(60):
            while set(before) & set(await store.keys(REPORTS)):
                await asyncio.sleep(0)  # nor is it told of any more
    assert (answer.header(b"x-weir-cascade") or b"").startswith(b"large; gathering")
    assert len(before) == 1


async def test_another_version_of_a_model(serve: Serve, models: Models) -> None:
    """Where the upstream serves another version under the same name, all begins anew."""
    async with cascading(serve, models) as plane:
        await certify(plane)
        (evidence,) = layer(plane).classes
        told = Pair(evidence.examples[0][0], None, 0.0, 1, 2, ("gpt-4o-mini-2025", ""))
        evidence.hear(told)
        assert (evidence.status, evidence.judged, evidence.begun) == ("gathering", 1, 1)
        evidence.hear(told)
        assert (evidence.judged, evidence.begun) == (2, 1)


async def test_operating(serve: Serve, models: Models) -> None:
    """An operator sees how it stands, chooses a score, and has the evidence begin anew."""
    store = MemoryStore()
    here = Operating(store, NOTHING)
    registry: Any = {"cascade": lambda: cascade}
    async with cascading(serve, models, settings={"store": store}) as plane:
        await certify(plane)
        await layer(plane).classes.flush()
        (evidence,) = layer(plane).classes
        while evidence.requests < evidence.judged:  # until the feed has brought what was told
            await asyncio.sleep(0)
        await layer(plane).classes.flush()
        (told,) = (await operate("cascade", "status", {}, here, registry))["cascades"]
        assert (told["policy"], told["class"], told["status"]) == ("cascade", "whole", "certified")
        assert told["requests"] == told["judged"]
        await operate("cascade", "use", {"policy": "cascade", "score": 3}, here, registry)
        answer = await plane.chat(model=LARGE)
        assert (answer.header(b"x-weir-cascade") or b"").startswith(b"large")  # there is no such score yet
        await operate("cascade", "use", {"policy": "cascade", "score": -1}, here, registry)
        answer = await plane.chat(model=LARGE)
        assert (answer.header(b"x-weir-cascade") or b"").startswith(b"small; certified")
        await operate("cascade", "reset", {"policy": "cascade", "class": "whole"}, here, registry)
        answer = await plane.chat(model=LARGE)
        assert (answer.header(b"x-weir-cascade") or b"").startswith(b"large; gathering")


async def test_fitting(serve: Serve, models: Models) -> None:
    """When there are pairs enough a score is fitted to them, whose certificate begins with those that come after."""
    async with cascading(serve, models, shadow_rate="0%") as plane:
        await plane.chat(model=LARGE)
        classes = layer(plane).classes
        (evidence,) = classes
        for number in range(FIT_AT[0]):
            hard = number % 3 == 0
            prompt = prompt_features("Prove that it holds for all of them." if hard else "What is the capital?")
            features = joined(prompt, answer_features("42", [-2.0 if hard else -0.1], "stop"))
            await classes.tell(evidence, Pair(features.packed(), None, float(hard), 1, 10))
        await plane.quiet(within_s=60.0)  # a process of its own fits
        first, fitted = evidence.lines
        hard_one, easy_one = [unpacked(evidence.examples[at][0]) for at in (0, 1)]
        assert (first.number, fitted.number, evidence.judged) == (0, 1, FIT_AT[0])
        assert first.certificate.pairs > fitted.certificate.pairs == 0
        assert fitted.score.benefit(hard_one) > 0.6 > fitted.score.benefit(easy_one)
        evidence.hear(Order("use", 1))
        assert evidence.serving is None


def test_only_scores_that_count_ask_for_judges() -> None:
    """The first one rests beside another, also after a restart; what was judged for others isn't its evidence, until an
    operator chooses it."""
    evidence = Evidence("whole", "k", 0.02, 0.05)
    packed = joined(prompt_features("What is the capital?"), answer_features("42", [-0.1], "stop")).packed()
    evidence.hear(Fitted(1, prior().dumps()))
    assert evidence.heeded == (1,)
    restarted = Evidence("whole", "k", 0.02, 0.05)
    restarted.restore(evidence.state())
    assert restarted.heeded == (1,)
    evidence.hear(Pair(packed, None, 0.0, 1, 10, heeded=(0,)))  # begun before the second one was known
    assert [line.certificate.pairs for line in evidence.lines] == [0, 0]
    evidence.hear(Pair(packed, None, 0.0, 1, 10, heeded=(1,)))
    assert [line.certificate.pairs for line in evidence.lines] == [0, 1]
    evidence.hear(Order("use", 0))
    assert evidence.heeded == (0, 1)
    evidence.hear(Pair(packed, None, 0.0, 1, 10, heeded=(0, 1)))
    assert [line.certificate.pairs for line in evidence.lines] == [1, 2]


async def test_shadows_wait_for_nobody(serve: Serve, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the worker has no room to spare, no shadow call is made, and that is counted."""
    async with cascading(serve, models) as plane:
        policy = layer(plane)
        full = msgspec.structs.replace(policy.services, spares=lambda: False)
        monkeypatch.setattr(policy, "services", full)
        assert (await plane.chat(model=LARGE)).status == 200
        await plane.quiet()
        assert [each.judged for each in layer(plane).classes] == [0]
        assert ("cascade", "shadow_left_out", 1) in plane.metrics.snapshot()["decisions"]


async def test_classes(serve: Serve, models: Models) -> None:
    """A new system prompt is a class of its own, where the policy says so."""
    async with cascading(serve, models, per="template") as plane:
        for prompt in ("Be kind.", "Be brief.", "Be kind."):
            turns = [{"role": "system", "content": prompt}, {"role": "user", "content": "Hi"}]
            await plane.chat(model=LARGE, messages=turns)
        await plane.quiet()
        assert sorted(each.judged for each in layer(plane).classes) == [1, 2]


async def test_lost_pairs(serve: Serve, models: Models) -> None:
    """A shadow that fails, or that the limit refuses, is no pair; the client sees nothing of it."""
    models.says[SMALL] = 500
    async with cascading(serve, models) as plane:
        assert (await plane.chat(model=LARGE)).status == 200
        await plane.quiet()
        assert next(iter(layer(plane).classes)).judged == 0
    models.says[SMALL] = "42"
    limited = {"shadow_limit": "0.000001 USD/day", "settings": {"store": MemoryStore()}}
    async with cascading(serve, models, **limited) as plane:
        models.asked.clear()
        assert (await plane.chat(model=LARGE)).status == 200
        await plane.quiet()
        assert models.models_asked() == [LARGE]
        assert ("cascade", "shadow_limited", 1) in plane.metrics.snapshot()["decisions"]


def test_traffic_a_day() -> None:
    """Requests a day are those of the last day, or of the time since the first one."""
    evidence = Evidence("whole", "k", 0.02, 0.05)
    for minute in range(0, 600, 10):
        evidence.hear(Traffic(1_000_000 + minute * 60.0, 10, 0, 0, 0, 0))
    assert 1380 < evidence.a_day < 1480  # 600 in 590 minutes
