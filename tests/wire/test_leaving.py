"""Clients that leave: their exchange is cancelled at once and what was used is settled."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.simulator import Simulator
from proxy.wire.call import Call, ServerLimits
from tests.wire.conftest import Serve
from tests.wire.raw import Raw, chat, chunks, get, post
from tests.wire.serving import App, Gate, serving

WITHIN_S = 1.0


def leave(client: Raw, how: str) -> None:
    if how == "reset":
        client.reset()
    elif how == "finish":
        client.finish()
    else:
        client.close()


HOWS = pytest.mark.parametrize("how", ["close", "reset", "finish"])


@HOWS
async def test_row_35_a_client_that_leaves_cancels_its_exchange(how: str) -> None:
    """FIN, RST and half-close alike: a half-close can't be told from a close."""
    async with serving(App(Gate())) as server, await server.connect() as client:
        await client.send(get("/1") + get("/2"))
        await server.app.until(lambda app: app.running == 1)
        leave(client, how)
        await server.app.until(lambda app: app.cancelled == 1)
        assert len(server.app.seen) == 1


@HOWS
async def test_a_client_that_leaves_in_its_upload_is_noticed(how: str) -> None:
    """The application learns that the body won't be whole."""
    async with serving(App()) as server, await server.connect() as client:
        await client.send(post("/upload", b"hello")[:-2])
        await server.app.until(lambda app: app.running == 1)
        leave(client, how)
        await server.app.until(lambda app: app.running == 0)
        assert server.app.seen == [] or server.app.cancelled


async def test_half_close_may_be_answered() -> None:
    """With `half_close` a client that shut down its writing side gets every answer it asked for, then FIN."""
    gate = Gate()
    async with serving(App(gate), ServerLimits(half_close=True)) as server, await server.connect() as client:
        await client.send(get("/1") + get("/2"))
        client.finish()
        await server.app.until(lambda app: app.running == 1)
        await asyncio.sleep(0.05)
        gate.open.set()
        assert (await client.answer()).header(b"x-target") == b"/1"
        assert (await client.answer()).header(b"x-target") == b"/2"
        assert await client.closed()
        assert server.app.cancelled == 0


async def test_half_close_in_a_body_is_no_request() -> None:
    """With `half_close`, a body cut by FIN gets no answer as if it were whole."""
    async with serving(App(), ServerLimits(half_close=True)) as server, await server.connect() as client:
        await client.send(get("/1") + post("/upload", b"hello")[:-2])
        client.finish()
        assert (await client.answer()).status == 200
        answer = await client.answer()
        assert answer.status in (0, 400)
        assert [seen.target for seen in server.app.seen] == [b"/1"]
        assert await client.closed()


async def test_half_close_and_a_lost_client_still_cancel() -> None:
    """With `half_close`, RST after FIN still ends the exchange."""

    async def endless(call: Call) -> None:
        call.start(200, [])
        while True:
            call.write(b"more")
            await asyncio.sleep(0.01)

    async with serving(App(endless), ServerLimits(half_close=True)) as server, await server.connect() as client:
        await client.send(get("/1"))
        client.finish()
        await client.read_until(b"more")
        client.close()  # unread bytes: RST
        await server.app.until(lambda app: app.cancelled == 1)


@HOWS
@pytest.mark.parametrize(
    ("name", "stream", "fault", "mark"),
    [
        ("before the first token", True, "no-headers", None),
        ("in mid-stream", True, "stall:3", b"data: "),
        ("unary", False, "no-headers", None),
        ("in mid-body", False, "drip:0.05", None),
    ],
)
async def test_the_upstream_is_cancelled_within_a_second(
    simulator: Simulator, serve: Serve, how: str, name: str, stream: bool, fault: str, mark: bytes | None
) -> None:
    """Wherever the answer stands, the upstream's connection is cut within a second, and the attempt is settled once."""
    async with serve() as plane, await plane.connect() as client:
        await client.send(post("/v1/chat/completions", chat(stream), f"x-sim-fault: {fault}"))
        await simulator.until(lambda state: state.active == 1)
        if mark is not None:
            await client.read_until(mark)
        left_at = time.monotonic()
        leave(client, how)
        state = await simulator.until(lambda state: state.departures and not state.active)
        assert state.departures[0].noticed_monotonic - left_at < WITHIN_S
        records = plane.journal()
        (settled,) = [record for record in records if record["event"] == "settled"]
        (ended,) = [record for record in records if record["event"] == "ended"]
        assert (settled["outcome"], ended["outcome"]) == ("aborted", "aborted")
        assert plane.metrics.gauges.exchanges == 0


@pytest.mark.parametrize("fault", ["stall:3"])
async def test_a_slow_reader_that_leaves_cancels_a_paused_upstream(
    simulator: Simulator, serve: Serve, fault: str
) -> None:
    """Also when its connection to the upstream is paused because it read nothing."""
    async with serve(timeouts={"slow_reader_s": "200ms"}) as plane:
        async with await plane.connect(receive_buffer=4096) as client:
            await client.send(post("/v1/chat/completions", chat(True), "x-sim-fault: huge-event:12:1"))
            state = await simulator.until(lambda state: state.departures)
            assert state.departures[0].frames_written
        (settled,) = [record for record in plane.journal() if record["event"] == "settled"]
        assert settled["outcome"] == "aborted"


async def test_an_upload_that_is_left_cancels_the_upstream(simulator: Simulator, serve: Serve) -> None:
    """The upstream sees its connection cut, never a body that looks whole."""
    async with serve() as plane, await plane.connect() as client:
        head = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
        await client.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(b"x" * 100_000)[:-5])
        await simulator.until(lambda state: state.connections_open == 1)
        client.reset()
        await simulator.until(lambda state: state.connections_open == 0)
        assert simulator.state.requests == 0
