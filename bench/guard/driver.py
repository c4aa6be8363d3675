"""Requests through the data plane in memory: what one unit of each scenario is, and how many of them to run.

A scenario's unit is a unary request, one chunk of a stream of 200, or a request that the cache answers. The upstream's
answers are those of `bench.payloads`.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import orjson

from bench import payloads
from bench.guard import dataplane
from bench.guard.memory import ClientTransport, MemoryLoop
from bench.load import wire

CHUNKS = 200
URL = "http://127.0.0.1:8787"
_UNARY_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_bench\r\ncontent-length: %d\r\n\r\n"
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"x-request-id: req_bench\r\ntransfer-encoding: chunked\r\n\r\n"
)
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is sent, how many units one request is, how to know the last piece of its answer, how many requests to
    count.
    """

    name: str
    request: bytes
    units: int
    ended: Callable[[bytes], bool]
    warm_up: int
    requests: int
    cached: bool = False  # the data plane has a cache, which answers all but the first


def scenarios() -> list[Scenario]:
    unary = wire.request(URL, payloads.unary_request())
    stream = wire.request(URL, payloads.stream_request(CHUNKS, 10))
    return [
        Scenario("unary request", unary, 1, _answered, 50, 200),
        Scenario("streamed chunk", stream, CHUNKS, lambda data: data.endswith(_LAST_CHUNK), 3, 10),
        Scenario("exact hit", unary, 1, _answered, 50, 200, cached=True),
    ]


def _answered(data: bytes) -> bool:
    return data.endswith(payloads.unary_answer()[-40:])


def reply(request: bytes) -> list[bytes]:
    """The upstream: an answer in one piece, or a stream with an event a piece."""
    plan = payloads.stream_plan(request)
    if plan is None:
        return [_unary()]
    return _stream(plan[0], plan[2])


@lru_cache(maxsize=1)
def _unary() -> bytes:
    answer = payloads.unary_answer()
    return _UNARY_HEAD % len(answer) + answer


@lru_cache(maxsize=2)
def _stream(chunks: int, usage: bool) -> list[bytes]:
    stream_id = b"%0*d" % (payloads.ID_DIGITS, 1)
    events = [event.replace(payloads.ID, stream_id) for event in payloads.events(chunks, usage)]
    framed = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    return [_STREAM_HEAD + framed[0], *framed[1:-1], framed[-1] + _LAST_CHUNK]


class Client:
    """One keep-alive connection to the data plane."""

    def __init__(self, loop: MemoryLoop, plane: dataplane.Plane) -> None:
        self._loop = loop
        self._protocol = plane.connection()
        self._answer: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._ended: Callable[[bytes], bool] = bool
        self._protocol.connection_made(ClientTransport(loop, self._protocol, self._on_write))

    def _on_write(self, data: bytes) -> None:
        self._answer.append(data)
        refused = not data.startswith(b"HTTP/1.1 200") if len(self._answer) == 1 else False
        if self._waiter is not None and (refused or self._ended(data)):
            self._waiter.set_result(None)
            self._waiter = None

    async def exchange(self, scenario: Scenario) -> bytes:
        self._answer, self._ended, self._waiter = [], scenario.ended, self._loop.create_future()
        waiter = self._waiter
        if scenario.cached and self._loop.on_deliver is not None:
            self._loop.on_deliver()  # no delivery of an upstream's comes of it
        self._protocol.data_received(scenario.request)
        await waiter
        return b"".join(self._answer)


@contextmanager
def driving(
    directory: Path, busy: Callable[[], None] | None = None, *, cached: bool = False
) -> Iterator[Callable[[Scenario, int], bytes]]:
    """A data plane in memory, made from what was prepared in `directory`, and the function that sends it requests one
    after another and returns the last answer.
    """
    loop = MemoryLoop(reply)
    loop.on_deliver = busy
    plane = loop.run_until_complete(dataplane.make(directory, cached=cached))
    client = loop.run_until_complete(_connected(loop, plane))

    async def send(scenario: Scenario, requests: int) -> bytes:
        answer = b""
        for _ in range(requests):
            answer = await client.exchange(scenario)
        return answer

    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield lambda scenario, requests: loop.run_until_complete(send(scenario, requests))
    finally:
        gc.enable()
        gc.unfreeze()
        _close(loop, plane.close())


async def _connected(loop: MemoryLoop, plane: dataplane.Plane) -> Client:
    return Client(loop, plane)


def _close(loop: MemoryLoop, closing: Awaitable[None]) -> None:
    async def close() -> None:
        await closing

    loop.run_until_complete(close())
    loop.close()


def verify(scenario: Scenario, answer: bytes) -> None:
    """Raise ValueError unless the answer is the upstream's: a guard that counts refusals would guard nothing."""
    body = wire.answer_body(answer)
    if scenario.cached:
        right = b"\r\nx-weir-cache: hit\r\n" in answer and _but_its_own(body) == _but_its_own(payloads.unary_answer())
    elif scenario.units == 1:
        right = body == payloads.unary_answer()
    else:
        right = _without_comments(body) in payloads.expected_streams(CHUNKS, b"%0*d" % (payloads.ID_DIGITS, 1))
    if not right:
        raise ValueError(f"{scenario.name}: wrong answer {answer[:400]!r} … {answer[-200:]!r}")


def _without_comments(body: bytes) -> bytes:
    return b"".join(part + b"\n\n" for part in body.split(b"\n\n")[:-1] if not part.startswith(b":"))


def _but_its_own(body: bytes) -> dict[str, object]:
    """An answer without its id and time of making: a hit has its own."""
    return {name: value for name, value in orjson.loads(body).items() if name not in ("id", "created")}
