"""A provider fast enough not to be measured: streams on a fixed schedule, and unary answers once the whole body has
arrived.

    python -m bench.upstream PORT [CERT KEY]

Chunk i of a stream is due at start + i * gap, whatever happened to the chunks before it, so lag never adds up unseen. A
body over 64 KiB is not kept: its CRC goes into the answer, so the client can tell that it arrived whole.
"""

from __future__ import annotations

import asyncio
import gc
import re
import ssl
import sys
import time
import zlib
from functools import lru_cache

import uvloop

from bench import payloads

KEPT_BODY = 64 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"x-request-id: req_bench\r\ntransfer-encoding: chunked\r\n\r\n"
)
_NEEDS_LENGTH = b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@lru_cache(maxsize=16)
def _framed(chunks: int, usage: bool) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """What goes before and after the id in each chunked event; and the end of the stream, with ID in it."""
    all_events = payloads.events(chunks, usage)
    split = [(b"%x\r\n%s" % (len(event), event)).split(payloads.ID) for event in all_events[:chunks]]
    last = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in all_events[chunks:]) + b"0\r\n\r\n"
    return [(before, after + b"\r\n") for before, after in split], last


class Upstream(asyncio.Protocol):
    """One connection: requests in sequence, no pipelining."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._head = b""
        self._body: list[bytes] | None = None  # None while the head is incomplete
        self._missing = self._crc = self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._body is None:
            head, found, rest = (self._head + data).partition(b"\r\n\r\n")
            if not found:
                self._head += data
                return
            length = _LENGTH.search(head)
            if length is None:
                self._transport.write(_NEEDS_LENGTH)
                self._transport.close()
                return
            self._body, self._missing, self._crc, self._size, data = [], int(length[1]), 0, int(length[1]), rest
        self._take(data)

    def _take(self, data: bytes) -> None:
        assert self._body is not None
        self._missing -= len(data)
        if self._size > KEPT_BODY:
            self._crc = zlib.crc32(data, self._crc)
        else:
            self._body.append(data)
        if self._missing <= 0:
            body, self._body, self._head = b"".join(self._body), None, b""
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        plan = payloads.stream_plan(body)
        if plan is None:
            answer = payloads.answer_with_fingerprint(f"fp_{self._crc:08x}") if self._size > KEPT_BODY else _unary()
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (len(answer), answer)
            )
            return
        chunks, gap_ms, usage = plan
        self._transport.write(_STREAM_HEAD)
        _Stream(self, self._loop, self._transport, chunks, gap_ms, usage).send()


@lru_cache(maxsize=1)
def _unary() -> bytes:
    return payloads.unary_answer()


class _Stream:
    """The schedule of one stream."""

    def __init__(
        self,
        owner: Upstream,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        chunks: int,
        gap_ms: int,
        usage: bool,
    ) -> None:
        self._owner, self._loop, self._transport = owner, loop, transport
        self._pieces, self._last = _framed(chunks, usage)
        self._gap_s, self._start_s, self._next = gap_ms / 1000, loop.time(), 0
        self._id = b"%0*d" % (payloads.ID_DIGITS, time.monotonic_ns())

    def send(self) -> None:
        before, after = self._pieces[self._next]
        self._next += 1
        if self._next < len(self._pieces):
            self._transport.write(before + self._id + after)
            self._owner._timer = self._loop.call_at(self._start_s + self._next * self._gap_s, self.send)
        else:
            self._transport.write(before + self._id + after + self._last.replace(payloads.ID, self._id))
            self._owner._timer = None


async def serve(port: int, tls: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(loop), "127.0.0.1", port, ssl=tls, backlog=4096)
    gc.collect()
    gc.freeze()
    await server.serve_forever()


def main() -> None:
    tls = None
    if len(sys.argv) > 2:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(sys.argv[2], sys.argv[3])
    uvloop.run(serve(int(sys.argv[1]), tls))


if __name__ == "__main__":
    main()
