"""Overload as clients see it: refused at once, told when to come back, by classes, and nothing left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.simulator import Simulator
from proxy.wire.server import ServerConnection
from tests.patience import PATIENCE_S
from tests.plane.running import Plane, key, running
from tests.wire.raw import chat, post

SLOW = "x-sim-fault: no-headers:30"


async def occupied(plane: Plane, n: int, *lines: str) -> list[asyncio.Task[object]]:
    """So many requests that don't end by themselves."""
    before = plane.plane.gate.running
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(plane.chat(SLOW, *lines)) for _ in range(n)]
    async with asyncio.timeout(PATIENCE_S):
        while plane.plane.gate.running < before + n:
            await asyncio.sleep(0.002)
    return tasks


async def let_go(plane: Plane, tasks: list[asyncio.Task[object]]) -> None:
    """Their clients leave; returns when that is known."""
    left = plane.plane.gate.running - len(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S):
        while plane.plane.gate.running > left:
            await asyncio.sleep(0.002)


@pytest.mark.parametrize(("path", "typed"), [("/v1/chat/completions", False), ("/v1/messages", True)])
async def test_who_finds_no_room_is_refused_at_once(
    path: str, typed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 `overloaded` with Retry-After, in the form of the client's SDK; the connection stays, and serves again."""
    heads, parsed = list[object](), ServerConnection.on_headers_complete
    monkeypatch.setattr(ServerConnection, "on_headers_complete", lambda one: heads.append(one) or parsed(one))
    async with Simulator() as provider, running(provider.url, tmp_path, overload={"exchanges": 1, "queue": 0}) as plane:
        busy = await occupied(plane, 1)
        async with await plane.connect() as client:
            for _ in range(3):  # the first by the parser, the others by their bytes
                answer = await client.ask(post(path, chat(model="gpt-4o-mini", max_tokens=5)))
                assert (answer.status, answer.error["code"], answer.error["type"]) == (
                    503,
                    "overloaded",
                    "overloaded_error",
                )
                assert answer.header(b"retry-after") in (b"1", b"2", b"3")
                assert answer.header(b"connection") is None
                assert ("type" in answer.json) is typed
            assert len([one for one in heads if one is heads[-1]]) == 1
            assert plane.plane.in_flight.held < 2000
            await let_go(plane, busy)
            for _ in range(2):
                assert (await client.ask(post(path, chat(model="gpt-4o-mini", max_tokens=5)))).status == 200
        assert plane.plane.gate.shed == [0, 3, 0]
        assert plane.plane.gate.running == 0


async def test_health_is_always_answered(tmp_path: Path) -> None:
    """Probes and the proxy's own pages aren't requests for an upstream."""
    async with Simulator() as provider, running(provider.url, tmp_path, overload={"exchanges": 1, "queue": 0}) as plane:
        busy = await occupied(plane, 1)
        assert (await plane.get("/healthz")).status == 200
        assert (await plane.get("/weir/me")).status == 200
        await let_go(plane, busy)


async def test_who_waits_is_answered_when_there_is_room(tmp_path: Path) -> None:
    """A burst is evened out; who leaves while it waits leaves nothing."""
    async with Simulator() as provider, running(provider.url, tmp_path, overload={"exchanges": 1, "queue": 4}) as plane:
        busy = await occupied(plane, 1)
        waiting = asyncio.create_task(plane.chat())
        leaving = asyncio.create_task(plane.chat())
        async with asyncio.timeout(PATIENCE_S):
            while plane.plane.gate.waiting < 2:
                await asyncio.sleep(0.002)
            leaving.cancel()
            while plane.plane.gate.waiting > 1:
                await asyncio.sleep(0.002)
        await let_go(plane, busy)
        assert (await waiting).status == 200
        await plane.quiet()
        assert (plane.plane.gate.running, plane.plane.gate.waiting) == (0, 0)


async def test_waiting_ends_with_a_refusal(tmp_path: Path) -> None:
    """The queue's deadline, as a page of another origin sees it."""
    settings = {"overload": {"exchanges": 1, "queue": 4}, "cors": {"origins": ["https://app.example"]}}
    async with Simulator() as provider, running(provider.url, tmp_path, **settings) as plane:
        busy = await occupied(plane, 1)
        waiting = asyncio.create_task(plane.chat("origin: https://app.example"))
        async with asyncio.timeout(PATIENCE_S):
            while not plane.plane.gate.waiting:
                await asyncio.sleep(0.002)
        plane.plane.gate._clock = lambda: asyncio.get_running_loop().time() + 60
        plane.plane.gate.tick()
        answer = await waiting
        assert (answer.status, answer.error["code"]) == (503, "overloaded")
        assert answer.header(b"access-control-allow-origin") == b"https://app.example"
        await let_go(plane, busy)


async def test_classes_on_the_wire(tmp_path: Path) -> None:
    """Of ten places low may use seven and the usual nine; who asks for a lower class gets it."""
    priorities = {"high": {"team": "vip"}, "low": {"key": "k-l*"}}
    overload = {"exchanges": 10, "queue": 0, "priorities": priorities}
    keys = [key("vip", id="k-v", team="vip"), key("usual", id="k-u"), key("low", id="k-l1")]
    async with Simulator() as provider, running(provider.url, tmp_path, keys=keys, overload=overload) as plane:

        async def statuses() -> list[int]:
            asked = ("vip", "usual", "low")
            return [(await plane.chat(f"authorization: Bearer {name}")).status for name in asked]

        assert await statuses() == [200, 200, 200]
        busy = await occupied(plane, 7, "authorization: Bearer usual")
        assert await statuses() == [200, 200, 503]
        assert (await plane.chat("authorization: Bearer vip", "x-weir-priority: low")).status == 503
        busy += await occupied(plane, 2, "authorization: Bearer usual")
        assert await statuses() == [200, 503, 503]
        busy += await occupied(plane, 1, "authorization: Bearer vip")
        assert await statuses() == [503, 503, 503]
        await let_go(plane, busy)


@pytest.mark.parametrize(("value", "status"), [("low", 200), ("HIGH", 200), ("urgent", 400)])
async def test_the_header_is_checked(value: str, status: int, tmp_path: Path) -> None:
    """Anything but a class is an error that names the header; it never reaches an upstream."""
    async with Simulator() as provider, running(provider.url, tmp_path) as plane:
        answer = await plane.chat(f"x-weir-priority: {value}")
        assert answer.status == status
        if status == 400:
            assert answer.error["param"] == "x-weir-priority"
        else:
            assert not any("x-weir" in str(name).lower() for name, _ in provider.requests[-1].headers)


async def test_pipelined_requests_are_refused_in_order(tmp_path: Path) -> None:
    """Three in one write: three refusals, and the connection goes on."""
    async with Simulator() as provider, running(provider.url, tmp_path, overload={"exchanges": 1, "queue": 0}) as plane:
        busy = await occupied(plane, 1)
        async with await plane.connect() as client:
            await client.send(post("/v1/chat/completions", chat()) * 3)
            assert [(await client.answer()).status for _ in range(3)] == [503] * 3
            await let_go(plane, busy)
            assert (await client.ask(post("/v1/chat/completions", chat()))).status == 200
