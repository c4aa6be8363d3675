"""A stream that has nothing to say yet says so, so that no load balancer cuts it; after that, failures come in-band."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from proxy.exchange import Forward, Request
from proxy.response import Response
from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.patterns import module
from tests.plane.questions import STREAMED, Kind, events, in_band_error, text
from tests.plane.running import entry
from tests.wire.raw import chat, post

SOON = 0.03


@pytest.mark.parametrize("kind", STREAMED, ids=str)
async def test_waiting(serve: Serve, simulator: Simulator, kind: Kind) -> None:
    """Comments come before the first token, the status with the first of them; then the stream as it is."""
    async with serve(heartbeat_s=60) as plane:
        plain = await plane.post(kind.path, kind.fields)
    async with serve(heartbeat_s=SOON) as plane:
        async with await plane.connect() as client:
            with simulator.still():
                await client.send(post(kind.path, orjson.dumps(kind.fields), "x-sim-fault: no-headers:0.01"))
                begun = b""
                while begun.count(b": waiting\n\n") < 2:
                    begun += await client.read()
            client.unread(begun)
            slow = await client.answer()
        assert (slow.status, slow.whole) == (200, True)
        assert slow.body.startswith(b": waiting\n\n: waiting\n\n")
        assert slow.header(b"content-type") == b"text/event-stream; charset=utf-8"
        assert slow.header(b"x-weir-exchange")
        assert len(events(slow)) == len(events(plain))
        assert kind.done in slow.body
        assert b"waiting" not in plain.body
        assert [record["known"] for record in plane.journal("settled")] == ["observed", "observed"]


async def test_upstream_comments_are_not_passed_before_ours(serve: Serve) -> None:
    """An upstream's own heartbeats don't count as its first event: a failure after them still has its status."""
    async with serve() as plane:
        answer = await plane.chat(stream=True, fault="heartbeat:3:0.01, first-event-error")
        assert answer.status == 502


LATE = {
    "error-500": "upstream_500",
    "error-503": "upstream_overloaded",
    "rate-limit:3": "rate_limit_exceeded",
    "bad-request": None,
    "unauthorized": "upstream_key_refused",
    "first-event-error": "server_error",
    "html-200": "upstream_not_an_answer",
}


@pytest.mark.parametrize("kind", STREAMED, ids=str)
@pytest.mark.parametrize("fault", LATE)
async def test_late_failures(serve: Serve, simulator: Simulator, kind: Kind, fault: str) -> None:
    """What fails after the status is out is told in the stream, in the dialect's form, and nothing looks whole."""
    async with serve(heartbeat_s=SOON) as plane:
        answer = await plane.post(kind.path, kind.fields, fault=f"no-headers:0.1, {fault}")
        assert (answer.status, answer.whole) == (200, True)
        assert answer.body.startswith(b": waiting\n\n")
        error = in_band_error(answer)
        assert error["message"]
        if LATE[fault] is not None and not kind.anthropic:
            assert error["code"] == LATE[fault]
        assert kind.done not in answer.body
        assert answer.body.count(b"HTTP/1.1") == 0
        assert plane.ended()["outcome"] in ("partial", "complete")
        assert plane.journal("settled")


async def test_refused_after_a_heartbeat(serve: Serve) -> None:
    """A policy that takes its time and then answers whole, as events or not, fits into what was begun."""

    async def slow(request: Request, forward: Forward) -> Response:
        await asyncio.sleep(0.08)
        if request.field("seed") == 1:
            return Response(200, [(b"content-type", b"text/event-stream")], b"data: {}\n\ndata: [DONE]\n\n")
        if request.field("seed") == 2:
            return Response(
                402, [(b"content-type", b"application/json")], b'{"error": {"message": "No money", "type": "x"}}'
            )
        if request.field("seed") == 3:
            return Response(200, [(b"content-type", b"application/json")], b'{"choices": []}')
        raise RuntimeError("a bug")

    async with serve(heartbeat_s=SOON, policies=[entry("slow")], registry={"slow": module(slow)}) as plane:
        kept = await plane.chat(stream=True, seed=1)
        assert kept.whole
        assert kept.body.replace(b": waiting\n\n", b"") == b"data: {}\n\ndata: [DONE]\n\n"
        refused = await plane.chat(stream=True, seed=2)
        assert (refused.whole, in_band_error(refused)["message"]) == (True, "No money")
        unfit = await plane.chat(stream=True, seed=3)
        assert in_band_error(unfit)["type"] == "upstream_error"
        broken = await plane.chat(stream=True, seed=4)
        assert in_band_error(broken)["type"] == "server_error"


async def test_silent_after_the_answer_began(serve: Serve, simulator: Simulator) -> None:
    """Once the stream has begun, its silences are the upstream's: nothing is put between its events."""
    async with serve(heartbeat_s=SOON) as plane:
        answer = await plane.chat(stream=True, fault="stall:3:0.15")
        assert b"waiting" not in answer.body[answer.body.index(b"data: ") :]
        assert text(answer)


async def test_unary_answers_wait_in_silence(serve: Serve) -> None:
    """Only streams may be begun early."""
    async with serve(heartbeat_s=SOON) as plane:
        answer = await plane.chat(fault="no-headers:0.1")
        assert answer.json["choices"]
        late = await plane.chat(fault="no-headers:0.1, error-503")
        assert late.status == 503


async def test_leaving_during_heartbeats(serve: Serve, simulator: Simulator) -> None:
    """A client that leaves while it is kept waiting ends the upstream's work, and the heartbeats."""
    async with serve(heartbeat_s=SOON) as plane:
        client = await plane.connect()
        await client.send(post("/v1/chat/completions", chat(True), "x-sim-fault: no-headers"))
        await client.read_until(b": waiting\n\n")
        client.close()
        await simulator.until(lambda state: state.cancelled == 1)
        await plane.quiet()
        assert plane.ended()["outcome"] == "aborted"


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_deadline_header(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """`x-weir-deadline` ends an exchange when the client no longer wants it."""
    async with serve() as plane:
        answer = await plane.chat("x-weir-deadline: 100ms", stream=stream, fault="no-headers")
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        assert answer.header(b"x-should-retry") == b"false"
        await simulator.until(lambda state: state.active == 0)
        generous = await plane.chat("x-weir-deadline: 1h", stream=stream)
        assert generous.status == 200


async def test_deadline_in_mid_stream(serve: Serve, simulator: Simulator) -> None:
    """A deadline that comes while a stream runs cuts it visibly."""
    async with serve() as plane:
        answer = await plane.chat("x-weir-deadline: 100ms", stream=True, fault="stall:3")
        assert in_band_error(answer)["code"] == "upstream_timeout"
        assert plane.settled()["outcome"] == "partial"


async def test_deadline_that_is_over(serve: Serve, simulator: Simulator) -> None:
    """A deadline of nothing sends nothing."""
    async with serve() as plane:
        answer = await plane.chat("x-weir-deadline: 0s")
        assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
    assert simulator.requests == []
