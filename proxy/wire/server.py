"""The client's side of the wire: HTTP/1.1 requests in, answers out.

What lives here: parsing by httptools (llhttp), the checks that llhttp leaves to its caller, framing of answers,
pipelining in order, back-pressure, time limits, and the moment a client is gone. What a request means is the
application's matter.

Rules:
1. A connection runs one exchange at a time; pipelined requests wait in order, and what may wait is bounded.
2. Reading goes on while an exchange runs, because a paused socket hides FIN and RST.
3. A client that is gone cancels its exchange at once, unless others wait for what that calls (`Call.on_gone`).
4. Anything ambiguous about where a request ends is answered with 400 and the connection is closed (RFC 9112, section
   11.2).
5. Time limits are numbers looked at by a `Ticker`; a request sets up no timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from typing import Any, Final

import httptools

from proxy.errors import WeirError
from proxy.wire.bulk import BULK_BYTES, Bulk
from proxy.wire.call import Application, BodyReader, Call, InFlight, Intake, ServerLimits, http_date
from proxy.wire.head import Head, bad, body_too_large, check, fields, frame, too_large
from proxy.wire.headers import Headers
from proxy.wire.repeated import Last
from proxy.wire.ticker import NEVER, Ticker
from proxy.wire.unsent import unacknowledged

# Loud, because a build without the C extension would fall back to nothing: this parser is what stands between us and
# smuggling.
assert httptools.HttpRequestParser.__module__.startswith("httptools.parser"), "httptools' C parser is missing"

_PIPELINED: Final = 32  # requests that may wait behind the one that runs
_LINGER_S: Final = 2.0  # how long a closing connection waits for its client's next bytes, or FIN
_LONGEST_LINGER_S: Final = 30.0
_BIG: Final = 64 * 1024


class ServerConnection(asyncio.Protocol):
    """One client connection."""

    def __init__(
        self, app: Application, limits: ServerLimits, ticker: Ticker, connections: set[ServerConnection]
    ) -> None:
        self._app = app
        self.limits = limits
        self._ticker = ticker
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made
        self._parser = httptools.HttpRequestParser(self)
        self.deadline = NEVER
        self.draining = False
        self._idle_s = limits.keep_alive_s
        self.write_paused = False
        self._drain_waiter: asyncio.Future[None] | None = None
        self._unwritten = 0
        self._whole_by = NEVER  # a body that drips in is never idle, and a client that sips always makes progress
        self._drained_by = NEVER
        self._reading_paused = False
        self._discard = False  # a bad request or the last one was read; what still comes in is thrown away
        self._half_closed = False
        self._linger_until = 0.0
        self._lost = False
        self._running: Call | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Call] = deque()
        self._refusal: WeirError | None = None
        # The request being read.
        self._in_head = False
        self._head_bytes = 0  # fed since the last head or piece of a body was whole
        self._target = b""
        self._most_head_bytes = 8 * limits.line_bytes
        self._asked = b""  # the method, once the head is whole
        self._raw: Headers = []
        self._length: bytes | None = None
        self._special: dict[bytes, bytes] = {}
        self._last: Last | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._large = 0  # the length of a body that is taken without the parser
        self._bulk: Bulk | None = None  # and what takes it
        self._reading: Call | None = None
        self._turned_away: Call | None = None  # by the read that is being taken

    @property
    def in_flight(self) -> InFlight:
        """The worker's count of bytes."""
        return self._app.in_flight

    # --- the transport's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop's is no subclass
        self._transport = transport
        transport.set_write_buffer_limits(high=self.limits.stream_buffer_bytes)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.limits.slow_reader_s * 1000) + 5000)
        self._connections.add(self)
        self.deadline = self._loop.time() + self.limits.header_s
        self._ticker.watch(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._connections.discard(self)
        self._ticker.unwatch(self)
        self._parser = _UNFED  # a parser holds this connection's methods
        self._drop_reading(WeirError(400, "The client left before its request was whole."))
        for call in self._waiting:
            self._release(call)
        self._waiting.clear()
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)
        if self._task is not None and not self._goes_on():
            self._task.cancel()

    def _goes_on(self) -> bool:
        """Whether the running exchange is wanted by others than its client."""
        call = self._running
        return call is not None and call.on_gone is not None and call.on_gone()

    def eof_received(self) -> bool:
        # Case 37 of the abuse table: a half-close and a close look the same, and a client that left must not cost
        # tokens.
        self._half_closed = self.limits.half_close and (self._running is not None or bool(self._waiting))
        if self._half_closed:
            self._drop_reading(WeirError(400, "The request's body was cut short.", code="bad_request", close=True))
        return self._half_closed

    def pause_writing(self) -> None:
        self.write_paused = True
        self._drained_by = self._loop.time() + self.limits.total_s
        self._unwritten = _ALL  # measured a moment later, when what was on its way from the upstream is in
        self.deadline = self._loop.time() + min(1.0, self.limits.slow_reader_s / 4)
        if self._running is not None and self._running.on_pause is not None:
            self._running.on_pause(True)

    def resume_writing(self) -> None:
        self.write_paused = False
        self.deadline = self._next_deadline()
        if self._running is None and self._waiting:
            self._start_next()
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)
        if self._running is not None and self._running.on_pause is not None:
            self._running.on_pause(False)

    def data_received(self, data: bytes) -> None:
        if self._discard:
            if self._linger_until and not self.write_paused:
                self.deadline = min(self._linger_until, self._loop.time() + _LINGER_S)
            return
        idle = self._running is None and self._reading is None and not self._in_head
        if idle and self._last is not None and self._repeated(data, self._last):
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :] if upgrade.args else b"")
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or _malformed(error, self._parser))
        else:
            # llhttp holds a line of a head or trailer until it ends and says nothing meanwhile: so it is counted here.
            if self._head_bytes > self._most_head_bytes and (self._in_head or self._reading is not None):
                self._refuse(too_large("A header line", self.limits.line_bytes))
            elif self._large and self._reading is not None:
                self._bulk = Bulk(self, self._body, self._large)
                self._body, self._large = [], 0
                self._transport.set_protocol(self._bulk)
            elif idle and self._last is not None and not self._waiting:
                call = self._turned_away or self._running
                if call is not None:
                    self._last.learn(data, call)
        self._turned_away = None

    def on_bulk(self, count: int, whole: bool) -> None:
        """More of a large body was read, past the parser."""
        assert self._reading is not None
        try:
            self._hold(self._reading, count)
        except WeirError as error:
            self._refuse(error)
            return
        if whole and self._bulk is not None:
            self.pause_reading()  # what follows is the next request, and the transport still holds the body
            self._loop.call_soon(self._bulk_whole, self._bulk)

    def _bulk_whole(self, bulk: Bulk) -> None:
        if self._bulk is not bulk:
            return  # the client is gone, or was refused
        self._body = [bulk.taken()]
        self._leave_bulk()
        self._parser = httptools.HttpRequestParser(self)  # the old one still waits for this body
        self.resume_reading()
        self.on_message_complete()
        self._turned_away = None

    def _leave_bulk(self) -> None:
        if self._bulk is not None:
            self._bulk = None
            self._transport.set_protocol(self)

    def _repeated(self, data: bytes, last: Last) -> bool:
        """Takes a whole request whose head is the last one's again, without parsing it. False: it isn't one."""
        if last.template is None or (body := last.template.body_of(data)) is None or self.draining:
            return False
        if self.write_paused:
            return False  # others may be waiting to be answered first
        if self._app.gate.pressed and (refusal := self._app.shed(last.intake)) is not None:
            self._transport.write(refusal)
            if not self.write_paused:
                self.deadline = self._next_deadline()
            return True
        at_once = self._app.at_once
        if at_once is not None and (answer := at_once(last.intake, body)) is not None:
            self._transport.write(answer)
            if not self.write_paused:
                self.deadline = self._loop.time() + self._idle_s
            return True
        head = last.head.copy()
        head.keep_alive, head.content_length = True, len(body)
        try:
            intake = self._app.accept(head, last.intake)
            if intake is not last.intake or len(body) > intake.limit_bytes:
                return False
            self._app.in_flight.take(len(body))
        except WeirError:
            return False  # the ordinary way says so to the client
        call = Call(self, head, intake)
        call.body, call.held = body, len(body)
        self._begin(call)
        return True

    # --- the parser's callbacks

    def on_message_begin(self) -> None:
        self._in_head = True
        self._target = b""
        self._asked = b""
        self._raw = []
        self._length = None
        if self._running is None and not self.write_paused:
            self.deadline = self._loop.time() + self.limits.header_s

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self.limits.line_bytes:
            self._stop(too_large("The request target", self.limits.line_bytes, 414))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer field: nobody here has a use for one, and it must not pass for a header
        if len(name) == 14 and name.lower() == b"content-length":
            self._length = value  # all that differs between requests of one client; llhttp refuses a second one
        else:
            self._raw.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        parser = self._parser
        last, raw = self._last, self._raw
        method, version = parser.get_method(), parser.get_http_version()
        self._asked = method
        try:
            if last is not None and last.is_like(method, self._target, version, raw):
                head, previous = last.head.copy(), last.intake
                self._special = last.special
            else:
                special = self._special = {}
                head = Head(
                    method.decode("latin-1"),
                    self._target,
                    version,
                    fields(raw, special, self.limits.line_bytes, self.limits.headers),
                )
                previous = None
                check(head, special)
            frame(head, self._special.get(b"transfer-encoding"), self._length)
            head.keep_alive = parser.should_keep_alive() and not self.draining
            intake = self._app.accept(head, previous)
            if intake is not previous:
                self._last = Last(method, self._target, raw, head, self._special, intake)
            call = Call(self, head, intake)
            if intake.gather and head.content_length is not None and head.content_length > intake.limit_bytes:
                raise body_too_large(intake.limit_bytes)
        except WeirError as error:
            self._stop(error)
        self._reading = call
        self._body = []
        self._body_bytes = 0
        self._large = 0
        if b"upgrade" in self._special and parser.should_upgrade():
            return  # llhttp stops here and raises HttpParserUpgrade: see _upgrade
        if head.has_body:
            self._whole_by = self._loop.time() + self.limits.total_s
            if not self.write_paused:
                self.deadline = min(self._loop.time() + self.limits.body_idle_s, self._whole_by)
            expected = b"expect" in self._special and version == "1.1"
            if expected and self._running is None and not self._waiting:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not intake.gather and head.has_body:
            call.body = BodyReader(self, head.content_length)
            self._enqueue(call)
        elif head.content_length is not None and head.content_length > BULK_BYTES:
            self._large = head.content_length

    def on_body(self, data: bytes) -> None:
        call = self._reading
        assert call is not None
        self._body_bytes += len(data)
        if self._body_bytes > call.intake.limit_bytes:
            self._stop(body_too_large(call.intake.limit_bytes))
        self._head_bytes = 0
        if isinstance(call.body, BodyReader):
            self._body_goes_on()
            call.body.feed(data)
            return
        try:
            self._hold(call, len(data))
        except WeirError as error:
            self._stop(error)
        self._body.append(data)

    def _hold(self, call: Call, count: int) -> None:
        self._body_goes_on()
        self._app.in_flight.take(count)
        call.held += count

    def _body_goes_on(self) -> None:
        if not self.write_paused:
            self.deadline = min(self._loop.time() + self.limits.body_idle_s, self._whole_by)

    def on_message_complete(self) -> None:
        call = self._reading
        assert call is not None
        if b"upgrade" in self._special and self._parser.should_upgrade():
            return
        self._reading = None
        if self._running is not None and not self.write_paused:
            self.deadline = NEVER
        if isinstance(call.body, BodyReader):
            call.body.end()
            if len(self._waiting) < _PIPELINED:
                self.resume_reading()  # what is held is all there is
            return
        body = self._body
        call.body = body[0] if len(body) == 1 else b"".join(body)
        self._body = []
        self._enqueue(call)

    # --- exchanges in order

    def _enqueue(self, call: Call) -> None:
        if self._running is None and not self._waiting and not self.write_paused:
            if not self._start(call):
                self._turned_away = call
            return
        self._waiting.append(call)
        if len(self._waiting) >= _PIPELINED:
            self.pause_reading()

    def _start(self, call: Call) -> bool:
        """Whether an exchange runs now; else the call was answered at once."""
        if self._app.gate.pressed and self._shed(call):
            return False
        self._begin(call)
        return True

    def _begin(self, call: Call) -> None:
        self._running = call
        if self._reading is None:
            self.deadline = NEVER
        self._task = asyncio.Task(self._run(call), loop=self._loop, name="exchange")

    def _shed(self, call: Call) -> bool:
        """Answers at once where there is no room; a task for it would cost more than the answer."""
        ordinary = call.keep_alive and not self.draining and call.head.version == "1.1" and call.head.method != "HEAD"
        if not ordinary or isinstance(call.body, BodyReader):
            return False
        refusal = self._app.shed(call.intake)
        if refusal is None:
            return False
        self._release(call)
        self._transport.write(refusal)
        call.started = call.finished = True
        self._finish(call)
        return True

    def _start_next(self) -> None:
        self._start(self._waiting.popleft())
        self.resume_reading()

    async def _run(self, call: Call) -> None:
        try:
            await self._app.respond(call)
        except asyncio.CancelledError:
            if not self._lost:
                call.abort()
        finally:
            self._release(call)
            self._finish(call)

    def _release(self, call: Call) -> None:
        self._app.in_flight.held -= call.held
        call.held = 0

    def _finish(self, call: Call) -> None:
        self._running = None
        self._task = None
        if self._lost:
            return
        if not call.finished:
            call.abort()
            return
        unread = isinstance(call.body, BodyReader) and not call.body.finished
        if unread or not call.keep_alive or (self.draining and not self._idle_s):
            self._linger()
            return
        if self._waiting:
            if not self.write_paused:  # else its answer would only be held here: resume_writing starts it
                self._start_next()
        elif self._discard:
            self._answer_refusal()
        elif self._half_closed:
            self._linger()
        elif not self.write_paused:
            self.deadline = self._next_deadline()

    def _next_deadline(self) -> float:
        """When the client's next bytes are due."""
        now = self._loop.time()
        if self._linger_until:
            return min(self._linger_until, now + _LINGER_S)
        if self._reading is not None:
            return min(now + self.limits.body_idle_s, self._whole_by)
        if self._running is not None:
            return NEVER
        return now + (self.limits.header_s if self._in_head else self._idle_s)

    # --- writing

    def write(self, data: bytes) -> None:
        """Bytes to the client; a lost client is silently ignored, its exchange is being cancelled."""
        if not self._lost:
            self._transport.write(data)

    def write_whole(self, head: bytes, body: bytes) -> None:
        """A whole answer to the client, without a copy of a large body."""
        if self._lost:
            return
        if len(body) > _BIG:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head + body)

    async def drained(self) -> None:
        """Waits while the client reads too slowly."""
        while self.write_paused and not self._lost:
            self._drain_waiter = self._loop.create_future()
            await self._drain_waiter

    def pause_reading(self) -> None:
        """Stops reading: an upload or a pipeline is ahead of what can be handled."""
        if not self._reading_paused and not self._lost:
            self._reading_paused = True
            self._transport.pause_reading()
            if self._reading is not None and not self.write_paused:
                self.deadline = NEVER  # it is not the client who is slow

    def resume_reading(self) -> None:
        """Reads on."""
        if self._reading_paused and not self._lost:
            self._reading_paused = False
            self._transport.resume_reading()
            if self._reading is not None and not self.write_paused:
                self.deadline = self._next_deadline()

    # --- ends

    def expire(self, now: float) -> None:
        """A time limit has passed."""
        if self.write_paused:
            unwritten = self._transport.get_write_buffer_size() + unacknowledged(self._transport)
            if unwritten < self._unwritten and now < self._drained_by:
                self._unwritten, self.deadline = unwritten, min(now + self.limits.slow_reader_s, self._drained_by)
            else:
                self._reset()
        elif self._discard or self._transport.is_closing():
            self._reset()
        elif self._reading is not None:
            self._refuse(
                WeirError(
                    408,
                    f"The request's body stalled for {self.limits.body_idle_s:g} s, or took {self.limits.total_s:g} s.",
                    code="request_timeout",
                    headers=((b"x-should-retry", b"false"),),
                    close=True,
                )
            )
        else:
            self.close()

    def drain(self, idle_s: float = 0.0) -> None:
        """Ends after the running exchange, or after one more, whose answer says so.

        An idle one ends once it has been idle for `idle_s`, and so does one whose answer began before and couldn't say
        so: a client that uses it has sent by then, and one that sends at the very moment of a close couldn't tell
        whether its request was taken (RFC 9112, section 9.5).
        """
        self.draining, self._idle_s = True, min(idle_s, self._idle_s)
        busy = self._running is not None or self._reading is not None or self._waiting
        if busy or self._in_head or self._discard or self.write_paused:
            return
        now = self._loop.time()
        since = now if self._last is None else self.deadline - self.limits.keep_alive_s
        self.deadline = since + idle_s
        if self.deadline <= now:
            self.close()

    def close(self) -> None:
        """Closes once everything is written, within a bounded time."""
        self.deadline = self._loop.time() + self.limits.slow_reader_s
        self._transport.close()

    def abort(self) -> None:
        """Cuts the connection now."""
        if not self._lost:
            self._transport.abort()

    def _reset(self) -> None:
        """Cuts a client that doesn't read, by RST: the kernel would keep megabytes for it until it had read them."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self._lost:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.abort()

    def _stop(self, error: WeirError) -> None:
        """Stops the parser from inside one of its callbacks."""
        self._refusal = error
        raise error

    def _refuse(self, error: WeirError) -> None:
        """Answers a request that can't be handled, in its place in the pipeline, and closes."""
        self._discard = True
        self._refusal = error
        error.let_go()
        self._drop_reading(error)
        if self._running is None and not self._waiting:
            self._answer_refusal()
        elif not self.write_paused:
            self.deadline = NEVER  # earlier requests of the pipeline come first: see _finish

    def _answer_refusal(self) -> None:
        assert self._refusal is not None
        # Only a head that was read to its end says HEAD: what a broken one says depends on where it was cut.
        call = Call(self, Head("HEAD" if self._asked == b"HEAD" else "GET", b"/", "1.1", []), Intake(True, 0))
        call.keep_alive = False
        call.send_error(self._refusal, [(b"date", http_date())])
        self._linger()

    def _drop_reading(self, error: WeirError) -> None:
        call, self._reading = self._reading, None
        self._body = []
        self._leave_bulk()
        if call is None:
            return
        if isinstance(call.body, BodyReader):
            call.body.end(error)
        else:
            self._release(call)

    def _linger(self) -> None:
        """Closes so that the answer survives unread input, where close would send RST (RFC 9112, section 9.6)."""
        self._discard = True
        self.resume_reading()
        if self._transport.can_write_eof() and not self._transport.get_extra_info("ssl_object"):
            self._transport.write_eof()
            self._linger_until = self._loop.time() + _LONGEST_LINGER_S
            if not self.write_paused:
                self.deadline = self._next_deadline()
        else:
            self.close()

    def _upgrade(self, rest: bytes) -> None:
        """An Upgrade was asked for. WebSocket is refused; any other is ignored, as RFC 9110, section 7.8 allows."""
        special = self._special
        if b"websocket" in special.get(b"upgrade", b"").lower():
            message = "WebSocket connections are not supported: use the HTTP endpoints."
            self._refuse(WeirError(501, message, code="websocket_unsupported", close=True))
            return
        # llhttp takes what follows for another protocol: read the request again without its Upgrade.
        call = self._reading
        if call is None or call.head.method == "CONNECT":
            self._refuse(bad("The request asks for a protocol that isn't spoken here."))
            return
        self._parser = httptools.HttpRequestParser(self)
        self._reading = None
        lines = [b"%b: %b\r\n" % pair for pair in call.head.headers if pair[0] not in _UPGRADE_FIELDS]
        if self._length is not None:
            lines.append(b"content-length: %b\r\n" % self._length)
        options = special.get(b"connection", b"").lower().split(b",")
        kept = [option.strip() for option in options if option.strip() in (b"close", b"keep-alive")]
        if kept:
            lines.append(b"connection: %b\r\n" % b", ".join(kept))
        method, target, version = call.head.method.encode(), call.head.target, call.head.version.encode()
        self.data_received(b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, target, version, b"".join(lines), rest))


_ALL: Final = 1 << 62
_UNFED: Final = httptools.HttpRequestParser(object())
_AT_ONCE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: nothing is waited for
_UPGRADE_FIELDS: Final = (b"upgrade", b"connection", b"http2-settings")


def _malformed(error: httptools.HttpParserError, parser: Any) -> WeirError:
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return WeirError(400, "The request's method is not known.", code="bad_request", close=True)
    if str(error) == "Invalid HTTP version":
        return WeirError(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.", code="http_version", close=True)
    return bad("The request is not valid HTTP/1.1.")
