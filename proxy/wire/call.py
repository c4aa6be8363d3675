"""One request of a client and the writing of its answer, as an application sees them.

What lives here: how a body is taken in (`Intake`, `BodyReader`, `InFlight`), and how an answer is framed (`Call`). The
connection that carries them is `server.py`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, Protocol

import msgspec

from proxy.errors import OVERLOADED, WeirError
from proxy.wire.head import Head
from proxy.wire.headers import Headers

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES: Final = {status: f"HTTP/1.1 {status} {phrase}".encode() for status, phrase in _REASONS.items()}
_END: Final = (b"", b"")  # of a head: an empty line
_PEEK_BYTES: Final = 4096
_JSON: Final = (b"content-type", b"application/json")


class ServerLimits(msgspec.Struct, frozen=True):
    """What a client may cost us: sizes in bytes, times in seconds."""

    line_bytes: int = 8192
    headers: int = 100
    stream_buffer_bytes: int = 256 * 1024
    header_s: float = 10.0
    body_idle_s: float = 30.0
    keep_alive_s: float = 75.0
    slow_reader_s: float = 60.0
    total_s: float = 900.0  # a body that drips in, or what drips out to a slow reader
    half_close: bool = False  # True: a client that shut down its writing side still gets its answer


class Intake(msgspec.Struct, frozen=True):
    """How the application wants a request's body.

    `gather`: whole, in memory, at most `limit_bytes`; else it streams through. `known` is the application's own
    knowledge of the request (its identity and endpoint), found before the body was read.
    """

    gather: bool
    limit_bytes: int
    known: Any = None


class InFlight:
    """Bytes of request bodies held by this worker at once; bounded, so that memory can't run out."""

    __slots__ = ("held", "limit")

    def __init__(self, limit_bytes: int) -> None:
        self.limit = limit_bytes
        self.held = 0

    def take(self, size: int) -> None:
        """Counts `size` more bytes, or refuses with 503."""
        if self.held + size > self.limit:
            message = "This worker holds as many request bytes as it may. Try again shortly."
            raise WeirError(
                503, message, type=OVERLOADED, code="overloaded", headers=((b"retry-after", b"1"),), close=True
            )
        self.held += size


class Door(Protocol):
    """Whether there is room for one request more."""

    pressed: bool  # some could be refused now: `Application.shed` is asked


class Application(Protocol):
    """What stands behind the connections."""

    in_flight: InFlight

    @property
    def gate(self) -> Door:
        """Looked at before each request."""

    def shed(self, intake: Intake) -> bytes | None:
        """The whole answer to a request that there is no room for; None to go on."""

    @property
    def at_once(self) -> Callable[[Intake, bytes], bytes | None] | None:
        """Gives the whole answer to an ordinary request with such a head and this body, if it is ready; None where
        nothing ever is."""

    def accept(self, head: Head, previous: Intake | None) -> Intake:
        """Looks at the head before the body is read; raises WeirError to refuse it.

        `previous` is what was returned for the connection's last request if this one has the same method, target and
        headers (but for its length): an application may give the same again.
        """

    def respond(self, call: Call) -> Awaitable[None]:
        """Answers one request, by `call.send` or `call.start`, `call.write`, `call.finish`. Must not raise."""


class Carrier(Protocol):
    """The connection under a call."""

    limits: ServerLimits
    draining: bool
    write_paused: bool

    @property
    def in_flight(self) -> InFlight:
        """What counts the bytes of bodies."""

    def write(self, data: bytes) -> None:
        """Bytes to the client."""

    def write_whole(self, head: bytes, body: bytes) -> None:
        """A whole answer to the client."""

    def pause_reading(self) -> None:
        """Takes no more of the body for now."""

    def resume_reading(self) -> None:
        """Takes more of the body."""

    def abort(self) -> None:
        """Cuts the connection."""

    async def drained(self) -> None:
        """Waits while the client reads too slowly."""


class BodyReader:
    """A request body that streams through: an async iterator of bytes. Pauses the client while it isn't read."""

    __slots__ = ("_chunks", "_connection", "_ended", "_error", "_held", "_waiter", "begun", "length")

    def __init__(self, connection: Carrier, length: int | None) -> None:
        self._connection = connection
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._error: WeirError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.length = length
        self.begun = False  # some of it is gone: it can't be sent again

    def feed(self, data: bytes) -> None:
        """One more piece from the wire."""
        self._chunks.append(data)
        self._held += len(data)
        if self._held > self._connection.limits.stream_buffer_bytes:
            self._connection.pause_reading()
        self._wake()

    def end(self, error: WeirError | None = None) -> None:
        """The body is whole, or won't be."""
        self._ended, self._error = True, error
        self._wake()

    @property
    def finished(self) -> bool:
        """Whether all of it came in."""
        return self._ended and self._error is None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def peek(self, enough: Callable[[bytes], bool], most: int) -> bytes:
        """The beginning, as soon as there is enough of it, or `most` bytes, or all; it stays to be read."""
        looked_at = -_PEEK_BYTES
        while True:
            if self._error is not None:
                raise self._error
            if self._ended or self._held >= looked_at + _PEEK_BYTES:  # not at every byte that drips in
                seen = b"".join(self._chunks)
                if self._ended or len(seen) >= most or enough(seen):
                    return seen
                looked_at = len(seen)
            self._connection.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.begun = True
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._connection.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        data = self._chunks.popleft()
        self._held -= len(data)
        return data


class Call:
    """One request of a client and the writing of its answer."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_head_bytes",
        "body",
        "finished",
        "head",
        "held",
        "intake",
        "keep_alive",
        "on_gone",
        "on_pause",
        "started",
    )

    def __init__(self, connection: Carrier, head: Head, intake: Intake) -> None:
        self._connection = connection
        self.head = head
        self.intake = intake
        self.body: bytes | BodyReader = b""
        self.keep_alive = head.keep_alive
        self.held = 0  # bytes counted in `InFlight`
        self.started = False
        self.finished = False
        self.on_pause: Callable[[bool], None] | None = (
            None  # told when the client reads too slowly, and when it caught up
        )
        self.on_gone: Callable[[], bool] | None = None  # asked when the client left: whether to go on without it
        self._chunked = False
        self._head_bytes = b""

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer at once."""
        self.started = self.finished = True
        if self.head.method == "HEAD":  # an empty body says nothing about the length that GET would have
            self._connection.write(self._head(status, headers, len(body) or None))
            return
        self._connection.write_whole(self._head(status, headers, len(body)), body)

    def send_error(self, error: WeirError, headers: Headers | None = None) -> None:
        """An answer in OpenAI's error form."""
        if error.close:
            self.keep_alive = False
        self.send(error.status, [_JSON, *(headers or ()), *error.headers], error.body())

    def start(self, status: int, headers: Headers, length: int | None = None) -> None:
        """Begins an answer whose body follows by `write`. The head leaves with the first piece of the body."""
        self.started = True
        if length is None:
            self._chunked = self.head.version == "1.1"
            if not self._chunked:
                self.keep_alive = False  # the end of the connection is the end of the body
        self._head_bytes = self._head(status, headers, length)

    def write(self, data: bytes) -> None:
        """One piece of the body."""
        if self._chunked:
            if not data:
                return  # a chunk of length 0 would be the end
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head_bytes:
            data, self._head_bytes = self._head_bytes + data, b""
        self._connection.write(data)

    def finish(self, last: bytes = b"") -> None:
        """Ends the body, with one more piece if given."""
        self.finished = True
        if self._chunked:
            last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else b"0\r\n\r\n"
        if self._head_bytes:
            last, self._head_bytes = self._head_bytes + last, b""
        if last:
            self._connection.write(last)

    def abort(self) -> None:
        """Cuts the connection, so that the client sees that the answer isn't whole."""
        self.finished = True
        self.keep_alive = False
        self._connection.abort()

    def hold(self, size: int) -> None:
        """Counts what the application made of the body (it was compressed), or refuses with 503."""
        self._connection.in_flight.take(size)
        self.held += size

    async def drained(self) -> None:
        """Waits until the client has caught up."""
        await self._connection.drained()

    @property
    def paused(self) -> bool:
        """Whether the client reads too slowly."""
        return self._connection.write_paused

    def _head(self, status: int, headers: Headers, length: int | None) -> bytes:
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status]
        lines += [b": ".join(pair) for pair in headers]  # less than half of what formatting costs
        if status == 204 or status == 304 or status < 200:
            self._chunked = False
        elif length is not None:
            lines.append(b"content-length: %d" % length)
        elif self._chunked:
            lines.append(b"transfer-encoding: chunked")
        body = self.body
        unread = type(body) is BodyReader and not body.finished
        if not self.keep_alive or unread or self._connection.draining:
            self.keep_alive = False
            lines.append(b"connection: close")
        elif self.head.version == "1.0":
            lines.append(b"connection: keep-alive")
        lines += _END
        return b"\r\n".join(lines)


def head_of(status: int, headers: Headers) -> bytes:
    """The head of an answer to an ordinary request (HTTP/1.1, on a connection that stays), up to its framing."""
    return b"\r\n".join([_STATUS_LINES[status], *[b": ".join(pair) for pair in headers], b""])


_date: tuple[int, bytes] = (0, b"")


def http_date() -> bytes:
    """The present time as RFC 9110, section 5.6.7 writes it; formatted once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, formatdate(now, usegmt=True).encode())
    return _date[1]
