"""Slow clients: each is ended, everybody else is answered, and nothing is left of them.

By attackers of our own, and by slowhttptest, which others use to attack. How much others feel of it is measured by
`python -m bench.attackers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.attackers_raw import KINDS, Attack
from proxy.simulator import Simulator
from tests.patience import PATIENCE_S
from tests.plane.conftest import Serve
from tests.plane.running import Plane
from tests.plane.test_metering import form
from tests.wire.raw import get, post

QUICK = {"header_s": 0.5, "body_idle_s": 0.5, "slow_reader_s": 0.5, "keep_alive_s": 0.5, "total_s": 2.0, "flex_s": 2.0}
LONG = b"x-sim-fault: huge-event:12:1\r\n"


@asynccontextmanager
async def others(plane: Plane) -> AsyncIterator[list[int]]:
    """The statuses that other clients get meanwhile, each on a connection of its own."""
    statuses: list[int] = []

    async def ask() -> None:
        while True:
            statuses.append((await plane.chat()).status)
            await asyncio.sleep(0.01)

    asking = asyncio.create_task(ask())
    try:
        yield statuses
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def nothing_is_left(plane: Plane, simulator: Simulator) -> None:
    """No connection, no exchange, no byte in flight, no work upstream."""
    async with asyncio.timeout(PATIENCE_S):
        while plane.connections:
            await asyncio.sleep(0.01)
    await plane.quiet()
    assert plane.plane.in_flight.held == 0
    await simulator.until(lambda state: state.active == 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every_s", [0.05, 60.0], ids=["drips", "stalls"])
async def test_slow_clients_are_ended(serve: Serve, simulator: Simulator, kind: str, every_s: float) -> None:
    """Forty at once, that drip or that stall: all are ended, the others are answered, nothing is left."""
    async with serve(timeouts=QUICK) as plane, others(plane) as statuses:
        attack = Attack(plane.port, every_s=every_s, stream=LONG)
        attackers = attack.start(40, (kind,))
        async with asyncio.timeout(PATIENCE_S):
            if kind == "reader":
                await simulator.until(lambda state: state.faults.get("huge-event") == 40)
            await asyncio.gather(*attackers)
        assert attack.ended[kind] == 40
        seen = len(statuses)
        while len(statuses) < seen + 5:
            await asyncio.sleep(0.01)
        assert set(statuses) == {200}
    await simulator.until(lambda state: state.active == 0)


async def test_two_hundred_of_all_kinds(serve: Serve, simulator: Simulator) -> None:
    """At once, while others go on."""
    async with serve(timeouts=QUICK) as plane:
        async with others(plane) as statuses:
            attack = Attack(plane.port, every_s=0.05, stream=LONG)
            attackers = attack.start(200)
            async with asyncio.timeout(PATIENCE_S):
                await simulator.until(lambda state: state.faults.get("huge-event") == 200 // len(KINDS))
                await asyncio.gather(*attackers)
            assert sum(attack.ended.values()) == 200
            seen = len(statuses)
            while len(statuses) < seen + 20:
                await asyncio.sleep(0.01)
            assert set(statuses) == {200}
        await nothing_is_left(plane, simulator)


async def test_an_attacker_gets_no_more_than_its_limits(serve: Serve) -> None:
    """A worker's cap on connections holds: further ones are told so, and there is room again when attackers end."""
    async with serve(timeouts=QUICK) as plane:
        attack = Attack(plane.port, every_s=0.05)
        attackers = attack.start(30, ("body",))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*attackers)
        assert (await plane.chat()).status == 200


# --- slowhttptest

ATTACKS = {
    "slow head": ("-H", "-t", "GET", "-x", "24"),
    "slow body": ("-B", "-t", "POST", "-s", "8192", "-f", "application/json", "-x", "10"),
    "slow read": ("-X", "-t", "GET", "-w", "16", "-y", "32", "-n", "1", "-z", "16", "-k", "1"),
}


@pytest.mark.skipif(shutil.which("slowhttptest") is None, reason="slowhttptest isn't installed (Debian: slowhttptest)")
@pytest.mark.parametrize("attack", ATTACKS)
async def test_slowhttptest(serve: Serve, simulator: Simulator, attack: str) -> None:
    """Two hundred of its connections: all of them are ended, and others are answered all the while."""
    program = shutil.which("slowhttptest")
    assert program is not None
    async with serve(timeouts=QUICK) as plane:
        body, kind = form({"purpose": "batch"}, ("file", "large.bin", b"x" * (12 << 20)))
        made = (await plane.send(post("/v1/files", body, f"content-type: {kind}"))).json["id"]
        path = f"/v1/files/{made}/content" if attack == "slow read" else "/v1/chat/completions"
        target = f"http://127.0.0.1:{plane.port}{path}"
        options = ("-c", "200", "-r", "200", "-i", "1", "-l", "10", "-p", "2", "-u", target)
        async with others(plane) as statuses:
            attacker = await asyncio.create_subprocess_exec(
                program, *ATTACKS[attack], *options, stdout=PIPE, stderr=STDOUT
            )
            try:
                async with asyncio.timeout(PATIENCE_S):
                    said, _ = await attacker.communicate()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    attacker.kill()
            assert statuses, "others were answered meanwhile"
            while len(statuses) <= 20:
                await asyncio.sleep(0.01)
            assert set(statuses) == {200}
        if attack != "slow read":  # it reads so slowly that it doesn't hear of a reset
            assert b"No open connections left" in said, said[-1500:].decode(errors="replace")
        await nothing_is_left(plane, simulator)


async def test_a_pipeline_of_slow_requests_is_bounded(serve: Serve) -> None:
    """Many requests at once on one connection wait in order, and no more than so many are held."""
    async with serve(timeouts={**QUICK, "total_s": 30.0}) as plane, await plane.connect() as client:
        await client.send(get("/v1/models") * 100)
        for _ in range(100):
            assert (await client.answer("GET")).status == 200
