"""Many streams at once, each checked to the byte: count of events, their content, `[DONE]`, and how late each came.

The lag of chunk i is its arrival minus the time at which it was due (the stream's id tells its start, see
`bench.payloads`). It holds the upstream's and this client's own lag too; the same load straight to the upstream shows
how much that is.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import re
import time
from array import array
from dataclasses import dataclass, field

import httptools
import uvloop

from bench import payloads
from bench.load import wire

_ID = re.compile(rb'"id": ?"chatcmpl-(\d{20})"')
_END = b"\n\n"
_COMMENT = re.compile(rb"^:[^\n]*\n+", re.MULTILINE)


@dataclass(slots=True)
class Seen:
    """Events are those that carry a chunk; comments and [DONE] don't count."""

    events: int = 0
    right: int = 0  # streams that were complete and equal to what the upstream sent
    wrong: list[str] = field(default_factory=list)
    most_open: int = 0
    lags_us: array[float] = field(default_factory=lambda: array("d"))


class _Client(asyncio.Protocol):
    """One stream over one connection."""

    def __init__(self, chunks: int, gap_ns: int, seen: Seen, ended: asyncio.Future[None]) -> None:
        self._chunks, self._gap_ns, self._seen, self._ended = chunks, gap_ns, seen, ended
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._start_ns = self._count = self._now = 0
        self.problem: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic_ns()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._start_ns and (found := _ID.search(body)):
            self._start_ns = int(found[1])
        self._parts.append(body)
        self._count += body.count(_END)
        if self._start_ns and 0 < self._count <= self._chunks:
            self._seen.lags_us.append((self._now - self._start_ns - (self._count - 1) * self._gap_ns) / 1000)

    def on_message_complete(self) -> None:
        self._finish(None if self._parser.get_status_code() == 200 else f"status {self._parser.get_status_code()}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(f"closed early: {exc}")

    def _finish(self, problem: str | None) -> None:
        if not self._ended.done():
            self.problem = problem
            self._ended.set_result(None)

    def judge(self) -> None:
        """Compare what came with what was sent; after the run, so that it delays nobody."""
        body = _COMMENT.sub(b"", b"".join(self._parts))
        problem = "not ended in time" if not self._ended.done() else self.problem or check(body, self._chunks)
        self._seen.right += problem is None
        self._seen.events += max(0, body.count(_END) - 1)
        if problem is not None:
            self._seen.wrong.append(f"{problem}: {body[:200]!r} … {body[-200:]!r}")


def check(body: bytes, chunks: int) -> str | None:
    """None when the body is exactly the stream that its first id belongs to; else what is wrong."""
    found = _ID.search(body)
    if found is None:
        return "no chunk"
    if body in payloads.expected_streams(chunks, found[1]):
        return None
    return f"{body.count(_END)} events that differ from those sent"


def run(
    url: str, *, streams: int, chunks: int, gap_ms: int, ramp_s: float | None = None, patience_s: float = 30
) -> Seen:
    """Open all connections, start the streams spread over `ramp_s` (default: one gap), wait until all have ended."""
    return uvloop.run(_run(url, streams, chunks, gap_ms, gap_ms / 1000 if ramp_s is None else ramp_s, patience_s))


async def _run(url: str, streams: int, chunks: int, gap_ms: int, ramp_s: float, patience_s: float) -> Seen:
    loop = asyncio.get_running_loop()
    where, request, seen = wire.address(url), wire.request(url, payloads.stream_request(chunks, gap_ms)), Seen()
    ended: list[asyncio.Future[None]] = [loop.create_future() for _ in range(streams)]
    clients: list[_Client] = []
    for future in ended:
        make = functools.partial(_Client, chunks, gap_ms * 1_000_000, seen, future)
        _, client = await loop.create_connection(make, where.host, where.port)
        clients.append(client)
    gc.collect()
    gc.disable()
    start = loop.time()
    for index, client in enumerate(clients):
        loop.call_at(start + ramp_s * index / streams, client.transport.write, request)
    started = loop.call_at(start + ramp_s, _count_open, seen, ended)
    await asyncio.wait(ended, timeout=ramp_s + chunks * gap_ms / 1000 + patience_s)
    started.cancel()
    gc.enable()
    for client in clients:
        client.judge()
        client.transport.abort()
    await asyncio.sleep(0)
    return seen


def _count_open(seen: Seen, ended: list[asyncio.Future[None]]) -> None:
    seen.most_open = sum(not future.done() for future in ended)
