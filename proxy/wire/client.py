"""The upstream's side of the wire: HTTP/1.1 requests out, answers in.

What lives here: one connection's parsing and framing. `pool.py` keeps connections, `connect.py` makes them. What an
answer means is the business of its `Receiver`, which is told the head, pieces of the body, and the end, by plain
calls from the socket's callback.

Rules:
1. A connection carries one exchange at a time. It goes back to the pool only when its answer ended where its framing
   said.
2. Every failure is a `WireError` that says how far the exchange had come, because that decides whether money may have
   been spent.
3. Answers are read strictly: llhttp's leniencies stay off, redirects are not followed here or anywhere.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from enum import IntEnum
from typing import Final, Protocol

import httptools

from proxy.wire.headers import Headers
from proxy.wire.ticker import NEVER, Ticker
from proxy.wire.unsent import unacknowledged

_BIG: Final = 64 * 1024
_HEAD_BYTES: Final = 64 * 1024  # an upstream's head, or trailers: more room than a client gets, still bounded
_HEADERS: Final = 200
_DRAIN_S: Final = 1.0  # how long a finished stream may take to end its framing before the connection is given up
_ALERT_BYTES: Final = 64  # what TLS may send behind a request whose connection is being closed, and more
_UNFED: Final = httptools.HttpResponseParser(object())


class Progress(IntEnum):
    """How far an exchange had come when it failed."""

    CONNECTING = 0  # no byte of the request left
    SENT = 1  # bytes left; no byte of an answer came
    ANSWERING = 2  # the answer had begun


# A member of an enumeration costs as much to look up as a call.
_SENT: Final = Progress.SENT
_ANSWERING: Final = Progress.ANSWERING


class WireError(Exception):
    """An exchange with an upstream failed. `kind` is one of the words below, `progress` says how far it had come.

    kinds: refused, dns, connect_timeout, tls, proxy, timeout, reset, malformed, truncated, pool
    """

    def __init__(self, kind: str, progress: Progress, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.progress = progress
        self.detail = detail


class Receiver(Protocol):
    """Who is told what comes in. Must not raise."""

    def on_head(self, status: int, headers: Headers) -> None:
        """Status and fields of the final answer (never 1xx)."""

    def on_data(self, data: bytes) -> None:
        """A piece of the body, never empty."""

    def on_end(self, error: WireError | None) -> None:
        """Called exactly once: the body is whole (None), or never will be."""


class Released(Protocol):
    """Takes connections back."""

    def release(self, connection: UpstreamConnection, reusable: bool) -> None:
        """The connection is idle and reusable, or gone."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to an upstream."""

    def __init__(self, owner: Released, ticker: Ticker, user_timeout_s: float, buffer_bytes: int = 256 * 1024) -> None:
        self._owner = owner
        self._ticker = ticker
        self._user_timeout_s = user_timeout_s
        self._buffer_bytes = buffer_bytes
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._busy = False
        self._head_request = False
        self._until_close = False
        self._headers: Headers = []
        self._head_bytes = 0  # fed since the request was sent or a piece of a body came
        self._in_head = True
        self._progress = _SENT
        self._keep = False
        self._paused = False
        self._can_write: asyncio.Future[None] | None = None
        self._uploading = False
        self.lost = False
        self.unread = False  # it was closed before the whole request had come: nobody has read that
        self.used = 0  # exchanges begun on this connection
        self.idle_since = 0.0
        self.deadline = NEVER
        self._on_deadline: Callable[[], None] | None = None

    def __repr__(self) -> str:
        state = "lost" if self.lost else "busy" if self._busy else "idle"
        return f"<UpstreamConnection {state}, used {self.used}>"

    # --- the exchange's side

    def send(self, head: bytes, body: bytes, receiver: Receiver, *, head_request: bool = False) -> None:
        """Sends a whole request; the receiver is told the rest."""
        self._begin(receiver, head_request)
        if len(body) > _BIG:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head + body)

    async def send_streamed(
        self, head: bytes, body: AsyncIterator[bytes], receiver: Receiver, *, chunked: bool, limit: float
    ) -> None:
        """Sends a request whose body comes in pieces; returns when all of it is out or the answer has ended.

        `limit` is the longest that the upstream may take none of it, in seconds.
        """
        self._begin(receiver, head_request=False)
        self._uploading = True
        self._transport.write(head)
        async for piece in body:
            if self.lost or self._receiver is not receiver:
                break  # answered or gone before the upload was whole: no use to send the rest
            if piece:
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if self._can_write is not None and not await self._writable(limit):
                return
        else:
            self._uploading = False
            if chunked and not self.lost:
                self._transport.write(b"0\r\n\r\n")

    async def _writable(self, limit: float) -> bool:
        """Waits until the upstream takes more; gives the exchange up if it takes nothing for `limit` seconds."""
        assert self._can_write is not None
        try:
            await asyncio.wait_for(asyncio.shield(self._can_write), limit)
        except TimeoutError:
            self._fail("timeout", f"the upstream took nothing of the request for {limit:g} s")
            return False
        return True

    def _begin(self, receiver: Receiver, head_request: bool) -> None:
        assert not self._busy, "a connection carries one exchange at a time"
        self._busy = True
        self.used += 1
        self._receiver = receiver
        self._head_request = head_request
        self._progress = _SENT
        self._in_head = True
        self._head_bytes = 0

    def limit(self, deadline: float, on_deadline: Callable[[], None] | None) -> None:
        """At `deadline` (the loop's time) `on_deadline` is called."""
        self.deadline = deadline
        self._on_deadline = on_deadline

    def pause(self) -> None:
        """Stops reading: whoever takes the body is behind."""
        if not self._paused and not self.lost:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self._paused and not self.lost:
            self._paused = False
            self._transport.resume_reading()

    def abandon(self, receiver: Receiver) -> None:
        """The exchange is over for `receiver`, whatever still comes: cancels it by closing the connection."""
        if self._receiver is receiver:
            self._receiver = None
            self._transport.abort()

    def let_end(self, receiver: Receiver) -> None:
        """The receiver has all it needs. Keeps the connection if its framing ends within a moment, else closes it."""
        if self._receiver is receiver:
            self._receiver = None
            self.resume()
            self.limit(self._loop.time() + _DRAIN_S, self._transport.abort)

    def close(self) -> None:
        """Closes an idle connection."""
        self._transport.close()

    # --- the transport's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop's is no subclass
        self._transport = transport
        transport.set_write_buffer_limits(high=self._buffer_bytes)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._user_timeout_s * 1000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._ticker.watch(self)

    def pause_writing(self) -> None:
        self._can_write = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)
        self._can_write = None

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            self._transport.abort()  # bytes that nobody asked for: nothing after them can be trusted
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail("malformed", str(error))
        except httptools.HttpParserUpgrade:
            self._fail("malformed", "the upstream switched protocols")
        else:
            # llhttp holds a line of a head or trailer until it ends and says nothing meanwhile: so it is counted here.
            if self._head_bytes > _HEAD_BYTES and self._busy:
                self._fail("malformed", "the answer's head or its trailers are too large")

    def eof_received(self) -> None:
        """The upstream has closed. With that its kernel says up to where it got what was sent (RFC 9293, section 3.4):
        where that isn't the end of the request, no program has read it all, and none will.
        """
        if self._busy:
            self.unread = unacknowledged(self._transport) > _ALERT_BYTES

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._ticker.unwatch(self)
        self._parser = _UNFED  # a parser holds this connection's methods
        self.resume_writing()
        if self._busy:
            if self._head_bytes:
                self._progress = _ANSWERING  # half a head is a byte of an answer, too: the request was read
            if self._until_close and exc is None and not self._in_head:
                self._end(None)
            else:
                kind = "truncated" if self._progress is _ANSWERING else "reset"
                self._end(WireError(kind, self._progress, str(exc or "the upstream closed the connection")))
        self._owner.release(self, reusable=False)

    def expire(self, now: float) -> None:
        """A time limit has passed."""
        self.deadline = NEVER
        if self._on_deadline is not None:
            self._on_deadline()

    # --- the parser's callbacks

    def on_message_begin(self) -> None:
        self._headers = []
        if not self._busy or (self._progress is _ANSWERING and not self._in_head):
            raise ValueError("a second answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer field
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        status = parser.get_status_code()
        self._progress = _ANSWERING
        if status < 200:
            if status < 100:
                raise ValueError("no such status")
            return  # 100 Continue, 103 Early Hints: the answer is still to come
        self._in_head = False
        self._keep = parser.should_keep_alive()
        if not self._keep and parser.get_http_version() not in ("1.1", "1.0"):
            raise ValueError("not HTTP/1.1")
        if len(self._headers) > _HEADERS:
            raise ValueError("too many headers")
        self._until_close = not self._framed(status)
        if self._receiver is not None:
            self._receiver.on_head(status, self._headers)
        if self._head_request:  # its Content-Length speaks of a body that doesn't come
            self._parser = httptools.HttpResponseParser(self)
            self._end(None)

    def _framed(self, status: int) -> bool:
        if self._head_request or status in (204, 304):
            return True
        for name, value in self._headers:
            if name == b"content-length":
                return True
            if name == b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    raise ValueError("a transfer coding that wasn't asked for")
                return True
        return False

    def on_body(self, data: bytes) -> None:
        if self._in_head:
            raise ValueError("an interim answer with a body")
        self._head_bytes = 0
        if self._receiver is not None:
            self._receiver.on_data(data)
        elif not self._busy:
            self._transport.abort()  # a body behind an answer that has none

    def on_message_complete(self) -> None:
        if self._in_head or not self._busy:
            return  # the end of a 1xx answer, or of a HEAD answer that ended at its headers
        self._end(None)

    # --- ends

    def _fail(self, kind: str, detail: str) -> None:
        self._keep = False
        self._end(WireError(kind, self._progress, detail))
        self._transport.abort()

    def _end(self, error: WireError | None) -> None:
        if not self._busy:
            return
        receiver, self._receiver = self._receiver, None
        self._busy = False
        self.deadline = NEVER
        self._on_deadline = None
        reusable = error is None and self._keep and not self._until_close and not self.lost and not self._uploading
        self._uploading = False
        if reusable:
            self.resume()
        if receiver is not None:
            receiver.on_end(error)
        if reusable:
            self._owner.release(self, reusable=True)
        elif not self.lost:
            self._transport.abort()
