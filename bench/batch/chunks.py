"""What one chunk of a stream costs: relayed plainly, and to each of many that share the stream.

Without a wire: a source's `Stream` is fed events; the readers' ends are pipes that count bytes, as a connection's
transport takes them. CPU time of the thread; the lower decile of rounds.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any, Final

from bench.batch.lone import layer, request
from proxy.exchange import Request
from proxy.response import Response
from proxy.stream import Stream
from proxy.wire.sse import Event, event

ROUNDS: Final = 60
CHUNKS: Final = 500
FOLLOWERS: Final = 50
_HEADERS: Final = [(b"content-type", b"text/event-stream")]


class _Flow:
    """A source that does as it is told."""

    def pause(self) -> None:
        """Not here."""

    resume = cancel = pause


class _Nowhere:
    """Takes bytes and forgets them."""

    def write(self, data: bytes) -> None:
        """Gone."""


class _Pipe:
    """What the relay does with events: taps, edits, framing (proxy.relay)."""

    def __init__(self, response: Response, sock: _Nowhere) -> None:
        self.response, self.sock = response, sock
        self.bytes = 0

    def events(self, events: list[Event]) -> None:
        passed = events if self.response.untouched else self.response.pass_through(events)
        data = passed[0].raw if len(passed) == 1 else b"".join([one.raw for one in passed])
        data = b"%x\r\n%b\r\n" % (len(data), data)
        self.bytes += len(data)
        self.sock.write(data)

    def end(self, error: object) -> None:
        """The end."""


def _told() -> list[list[Event]]:
    body = b'{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"}}]}'
    return [[event(body)] for _ in range(CHUNKS)]


async def _shared(count: int) -> tuple[Stream, list[_Pipe]]:
    """A stream that so many read."""
    policy, source = layer(), Stream(_Flow())

    async def forward(request: Request) -> Response:
        await asyncio.sleep(0)
        return Response(200, list(_HEADERS), source)

    asking = [asyncio.ensure_future(policy(request("the same"), forward=forward)) for _ in range(count)]
    return source, [_piped(response) for response in await asyncio.gather(*asking)]


def _piped(response: Response) -> _Pipe:
    pipe = _Pipe(response, _Nowhere())
    assert response.stream is not None
    response.stream.connect(pipe)
    return pipe


def _cpu_ns(source: Stream, told: list[list[Event]]) -> int:
    began = time.thread_time_ns()
    for events in told:
        source.feed(events)
    return time.thread_time_ns() - began


async def measure() -> dict[str, Any]:
    """Nanoseconds a chunk and reader."""
    told = _told()
    plain, lone, followed = [], [], []
    for _ in range(ROUNDS):
        source = Stream(_Flow())
        _piped(Response(200, list(_HEADERS), source))
        plain.append(_cpu_ns(source, told) / CHUNKS)
        source, _ = await _shared(1)
        lone.append(_cpu_ns(source, told) / CHUNKS)
        source, pipes = await _shared(FOLLOWERS)
        followed.append(_cpu_ns(source, told) / CHUNKS / FOLLOWERS)
        assert len({pipe.bytes for pipe in pipes}) == 1

    def low(seen: list[float]) -> int:
        return round(statistics.quantiles(seen, n=10)[0])

    return {"plain_ns": low(plain), "without_twin_ns": low(lone), "follower_ns": low(followed)}


if __name__ == "__main__":
    print(asyncio.run(measure()))
