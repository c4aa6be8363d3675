"""Embeddings that are asked for at the same time, on the wire: one call, each its own vectors and its share."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from policies import microbatch
from proxy.exchange import Forward, Request, Response
from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.patterns import module
from tests.plane.running import Plane, entry, key
from tests.policies.test_coalesce import until
from tests.wire.raw import Answer, post

MODEL = "text-embedding-3-small"
PATH = "/v1/embeddings"


class Gate:
    """An inner layer that holds calls back until they may go, and counts their inputs."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.sizes: list[int] = []

    async def __call__(self, request: Request, forward: Forward) -> Response:
        self.sizes.append(count({"input": request.field("input")}))
        await self.open.wait()
        return await forward(request)


class Windows:
    """The policy's timers: windows that are over when the test says so."""

    def __init__(self, plane: Plane) -> None:
        self._policy: Any = plane.plane.state.chain.built[0].policy
        self._policy._loop = self
        self._waiting: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def call_later(self, _: float, act: Callable[..., object], *args: Any) -> SimpleNamespace:
        timer = (act, args)
        self._waiting.append(timer)
        return SimpleNamespace(cancel=lambda: timer in self._waiting and self._waiting.remove(timer))

    @property
    def held(self) -> int:
        """Inputs of batches that are yet to go."""
        return sum(batch.items for batch in self._policy._open.values())

    def close(self) -> None:
        """All that are open are over."""
        for act, args in list(self._waiting):
            act(*args)


async def together(serve: Serve, asks: list[dict[str, Any]], *lines: str, **options: Any) -> tuple[list[Answer], Any]:
    """One request that goes ahead alone, and these while it is under way. What came of these, and what was seen."""
    gate = Gate()
    registry = {"microbatch": microbatch, "gate": module(gate)}
    policies = [entry("microbatch", **options), entry("gate")]
    async with serve(policies=policies, registry=registry, keys=options.pop("keys", ())) as plane:
        windows, ahead = Windows(plane), {name: value for name, value in asks[0].items() if name != "input"}
        first = asyncio.create_task(plane.post(PATH, {**ahead, "input": "ahead"}, *lines))
        await until(lambda: len(gate.sizes) == 1)
        asking = [asyncio.create_task(plane.post(PATH, ask, *lines)) for ask in asks]
        await until(lambda: sum(gate.sizes) + windows.held == 1 + sum(map(count, asks)))
        windows.close()
        await until(lambda: sum(gate.sizes) == 1 + sum(map(count, asks)))
        gate.open.set()
        answers = await asyncio.gather(*asking)
        assert (await first).status == 200
        await plane.quiet()
        ended = plane.journal("ended")
        return answers, SimpleNamespace(sizes=gate.sizes, ended=ended, settled=plane.journal("settled"))


def count(ask: dict[str, Any]) -> int:
    told = ask["input"]
    return len(told) if isinstance(told, list) and not isinstance(told[0], int) else 1


def asked(text: Any, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": text, **fields}


async def plain(serve: Serve, asks: list[dict[str, Any]]) -> list[Any]:
    """What each would be answered alone."""
    async with serve(policies=[]) as plane:
        return [(await plane.post(PATH, ask)).json for ask in asks]


@pytest.mark.parametrize("fields", [{}, {"encoding_format": "base64"}, {"dimensions": 64}], ids=str)
async def test_one_call_for_many(serve: Serve, simulator: Simulator, fields: dict[str, Any]) -> None:
    """Each gets exactly what it would have got alone: vectors, format, dimensions; usage adds up to the invoice."""
    asks = [asked(f"the river {'runs ' * n}", **fields) for n in range(8)] + [asked(["a", "bb", "ccc"], **fields)]
    answers, seen = await together(serve, asks)
    alone = await plain(serve, asks)
    assert sorted(seen.sizes) == [1, 11]
    for answer, wanted in zip(answers, alone, strict=True):
        assert answer.status == 200
        assert answer.json["data"] == wanted["data"]
        assert set(answer.json) == set(wanted)
        assert answer.header(b"x-weir-batched")
    assert sum(answer.json["usage"]["prompt_tokens"] for answer in answers) == sum(
        one["usage"]["prompt_tokens"] for one in alone
    )
    (batch,) = (ended for ended in seen.ended if ended["kind"] == "batch")
    members = [e for e in seen.ended if e["kind"] == "client" and e["decisions"]]
    assert sum(ended["nanodollars"] for ended in members) == batch["nanodollars"] > 0
    assert sum(settled["nanodollars"] for settled in seen.settled) == sum(
        ended["nanodollars"] for ended in seen.ended if ended["kind"] == "client"
    )
    if fields.get("encoding_format"):
        raw = base64.b64decode(answers[0].json["data"][0]["embedding"])
        assert len(struct.unpack(f"{len(raw) // 4}f", raw)) == 1536


async def test_what_differs_goes_apart(serve: Serve, simulator: Simulator) -> None:
    """Another model, parameter, kind of input or user is another call."""
    different = [{}, {"model": "text-embedding-3-large"}, {"dimensions": 8}, {"encoding_format": "base64"}]
    asks = [{**asked(f"text {n}"), **fields} for fields in [*different, {"user": "u"}] for n in range(2)]
    asks += [asked([1, 2, 3]), asked([4, 5])]
    answers, seen = await together(serve, asks)
    assert {answer.status for answer in answers} == {200}
    # Only the first group has a call under way: the others' first ones go at once, and their second ones wait.
    assert sorted(seen.sizes) == [1] * 11 + [2]


async def test_not_across_keys_or_tenants(serve: Serve, simulator: Simulator) -> None:
    """Those of another key go apart, unless the policy says `tenant`; those of another tenant always do."""
    keys = [key("wk-a", "a", team="x"), key("wk-b", "b", team="x"), key("wk-c", "c", team="y")]
    for share, calls in {"key": 6, "tenant": 4}.items():
        gate = Gate()
        registry = {"microbatch": microbatch, "gate": module(gate)}
        policies = [entry("microbatch", share=share), entry("gate")]
        async with serve(policies=policies, registry=registry, keys=keys) as plane:
            windows = Windows(plane)
            asking = [
                asyncio.create_task(plane.post(PATH, asked(f"{who} {n}"), f"authorization: Bearer {who}"))
                for n in range(4)
                for who in ("wk-a", "wk-b", "wk-c")
            ]
            await until(lambda gate=gate, windows=windows: sum(gate.sizes) + windows.held == 12)  # type: ignore[misc]
            windows.close()
            await until(lambda gate=gate: sum(gate.sizes) == 12)  # type: ignore[misc]
            gate.open.set()
            answers = await asyncio.gather(*asking)
            assert {answer.status for answer in answers} == {200}
            assert len(gate.sizes) == calls


async def test_full_batches_go_at_once(serve: Serve, simulator: Simulator) -> None:
    """By inputs and by length; nothing larger is ever sent."""
    _, seen = await together(serve, [asked(f"t{n}") for n in range(10)], max_items=4)
    assert sorted(seen.sizes) == [1, 2, 4, 4]
    _, seen = await together(serve, [asked("w" * 1600) for n in range(6)], max_tokens=1000)
    assert sorted(seen.sizes) == [1, 2, 2, 2]
    _, seen = await together(serve, [asked(["t"] * 5), asked("a"), asked("b")], max_items=4)
    assert sorted(seen.sizes) == [1, 2, 5]


async def test_one_bad_input_fails_alone(serve: Serve, simulator: Simulator) -> None:
    """What the upstream rejects is halved until the culprit is alone; the others have their vectors."""
    asks = [asked(f"fine {n}") for n in range(8)]
    asks[5] = asked("too long " * 9000)
    answers, seen = await together(serve, asks)
    alone = await plain(serve, asks)
    assert [answer.status for answer in answers] == [200] * 5 + [400] + [200] * 2
    for answer, wanted in zip(answers, alone, strict=True):
        assert answer.json.get("data") == wanted.get("data")
    assert answers[5].error["code"] == alone[5]["error"]["code"]
    assert len(seen.settled) == 1 + 7  # 8, then 4 and 4, 2 and 2, 1 and 1
    cost = sum(settled["nanodollars"] for settled in seen.settled)
    assert cost == sum(ended["nanodollars"] for ended in seen.ended if ended["kind"] == "client")


async def test_failures_go_to_all(serve: Serve, simulator: Simulator) -> None:
    """What isn't about an input isn't asked again: everybody is told."""
    faults = (("error-503", 503), ("rate-limit:1", 429), ("error-500", 502), ("empty-200", 502))
    for number, (fault, status) in enumerate(faults, 1):
        answers, seen = await faulty(serve, fault)
        assert [answer.status for answer in answers] == [status] * 3, fault
        assert len(seen) == 2 * number


async def faulty(serve: Serve, fault: str) -> tuple[list[Answer], list[Any]]:
    gate = Gate()
    registry = {"microbatch": microbatch, "gate": module(gate)}
    async with serve(policies=[entry("microbatch"), entry("gate")], registry=registry) as plane:
        windows = Windows(plane)
        first = asyncio.create_task(plane.post(PATH, asked("ahead")))
        await until(lambda: len(gate.sizes) == 1)
        asking = [asyncio.create_task(plane.post(PATH, asked(f"{n}"), fault=fault)) for n in range(3)]
        await until(lambda: windows.held == 3)
        windows.close()
        await until(lambda: len(gate.sizes) == 2)
        gate.open.set()
        answers = await asyncio.gather(*asking)
        await first
        await plane.quiet()
        return answers, plane.journal("settled")


async def test_one_after_the_other_waits_for_nothing(serve: Serve, simulator: Simulator) -> None:
    """Without concurrency each goes up as it is, in its own exchange."""
    async with serve(policies=[entry("microbatch", window="100ms")]) as plane:
        for n in range(5):
            answer = await plane.post(PATH, asked(f"alone {n}"))
            assert (answer.status, answer.header(b"x-weir-batched")) == (200, None)
        await plane.quiet()
        assert [ended["kind"] for ended in plane.journal("ended")] == ["client"] * 5


async def test_who_leaves(serve: Serve, simulator: Simulator) -> None:
    """A member that leaves before the batch went isn't in it; one whose deadline ends is told; the last one ends it."""
    gate = Gate()
    registry = {"microbatch": microbatch, "gate": module(gate)}
    async with serve(policies=[entry("microbatch"), entry("gate")], registry=registry) as plane:
        windows = Windows(plane)
        first = asyncio.create_task(plane.post(PATH, asked("ahead")))
        await until(lambda: len(gate.sizes) == 1)
        leaver = await plane.connect()
        await leaver.send(post(PATH, orjson.dumps(asked("leaves"))))
        await until(lambda: plane.metrics.gauges.exchanges == 2)
        hasty = asyncio.create_task(plane.post(PATH, asked("hasty"), "x-weir-deadline: 500ms"))
        stays = asyncio.create_task(plane.post(PATH, asked("stays")))
        await until(lambda: plane.metrics.gauges.exchanges == 4)
        leaver.close()
        await until(lambda: plane.metrics.gauges.exchanges == 3 and windows.held == 2)
        windows.close()
        await until(lambda: len(gate.sizes) == 2)
        assert gate.sizes == [1, 2]
        assert (await hasty).error["code"] == "deadline_exceeded"
        gate.open.set()
        assert (await stays).status == (await first).status == 200
        await plane.quiet()
        batch, own = cost(plane, "batch"), sum(e["nanodollars"] for e in plane.journal("ended") if e["decisions"])
        assert batch == own


def cost(plane: Plane, kind: str) -> int:
    return sum(ended["nanodollars"] for ended in plane.journal("ended") if ended["kind"] == kind)
