"""The receiving end of one attempt: from the upstream's bytes to a `Response`, and what they say about tokens.

Rules:
1. `ready` resolves when the answer can be judged: a whole unary body (up to `unary_buffer_bytes`), or the first event
   of a stream. Until then a failure can still become a status, a retry or a fall-back.
2. The answer is over at its terminal event ([DONE], response.completed, message_stop), not when the connection says
   so; what follows is dropped.
3. A stream that breaks never looks whole: its end is an error, and its reader is told.
4. `settle` is called exactly once, before the last bytes are handed on, so that no client has an answer that the
   journal doesn't know.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from proxy import whole
from proxy.dialects import Reading, StreamReader, Verdict, read_tail, stream_reader
from proxy.errors import WeirError
from proxy.events import TAIL_BYTES, Events
from proxy.exchange import Attempt, Settle
from proxy.faults import Fault, cut_short, maybe_billed, of_event, of_status, of_wire
from proxy.response import Outcome, Response
from proxy.stream import Stream
from proxy.wire.client import Progress, UpstreamConnection, WireError
from proxy.wire.headers import Headers, for_client, get
from proxy.wire.inflate import CODINGS, Inflater
from proxy.wire.sse import Event, EventTooLarge, Splitter
from proxy.wire.ticker import NEVER

if TYPE_CHECKING:
    from proxy.upstreams import Upstream

_TEXT: Final = frozenset(("chat", "responses", "anthropic"))
_IDENTITY: Final = (None, b"", b"identity")
_LOOKS: Final = 4  # a stream is given up after between 4/4 and 5/4 of its idle limit
_PASS: Final = Verdict.PASS  # looked up once: a member of an enumeration costs as much as a call
_END: Final = Verdict.END
_ERROR: Final = Verdict.ERROR


class AnswerLimits(msgspec.Struct, frozen=True):
    """What an answer may take, in bytes."""

    unary_buffer_bytes: int = 2**20
    stream_buffer_bytes: int = 2**18
    event_bytes: int = 16 * 2**20
    unparsed_event_bytes: int = 64 * 2**10


class Settler(Protocol):
    """Takes the account of an attempt that is over."""

    def __call__(self, answer: Answer, outcome: str, fault: Fault | None) -> None:
        """outcome: complete, partial, aborted or failed."""


@dataclass(slots=True, eq=False, repr=False)
class Answer:
    """One attempt's answer while it comes in."""

    attempt: Attempt
    upstream: Upstream
    _limits: AnswerLimits
    _settle: Settler
    _dialect: str | None
    _reader: StreamReader | None  # of what a stream says, if one was asked for
    _inject: bool  # a usage chunk was asked for on the client's behalf, so it is taken out again
    settles: list[Settle]  # the guards that want to be told
    _loop: asyncio.AbstractEventLoop
    deadline: float
    ready: asyncio.Future[None] = field(init=False)
    reading: Reading = field(init=False)
    connection: UpstreamConnection | None = field(init=False, default=None)
    status: int = field(init=False, default=0)
    headers: Headers = field(init=False)
    over: bool = field(init=False, default=False)
    made: Response | None = field(init=False, default=None)
    """A stream's response: told that it ended, if the exchange ends before it."""
    stale_until: float = field(init=False, default=0.0)
    """The connection was kept: if it is reset by then, the request may go again."""
    _kind: bytes = field(init=False, default=b"")  # its media type
    _inflate: Inflater | None = field(init=False, default=None)
    _held: list[bytes] = field(init=False)
    _held_bytes: int = field(init=False, default=0)
    _stream: Stream | None = field(init=False, default=None)
    _events: Events | None = field(init=False, default=None)  # of a stream that is understood
    _streamed_bytes: int = field(init=False, default=0)  # of one that isn't
    _tail: bytes = field(init=False, default=b"")
    _first: bool = field(init=False, default=False)  # something of a stream has been passed on
    _first_by: float = field(init=False, default=NEVER)
    _quiet: int = field(init=False, default=0)  # looks at the clock since anything came

    def __post_init__(self) -> None:
        self.ready = self._loop.create_future()
        self.reading = Reading() if self._reader is None else self._reader.reading
        self.headers, self._held = [], []

    def __repr__(self) -> str:
        return f"<Answer {self.status or 'awaited'}{' over' if self.over else ''}>"

    @property
    def estimated_output_tokens(self) -> int:
        """What the answer so far may be worth where no usage tells: events of a stream carry about one token each.

        Vectors, images and sound have bytes, but not in proportion to tokens.
        """
        content = 0 if self._events is None else self._events.content
        if content or self._dialect not in _TEXT:
            return content
        return (self._held_bytes + self._streamed_bytes) // 4

    @property
    def sent(self) -> bool:
        """Whether the upstream may have heard of its request."""
        return self.connection is not None

    def attach(self, connection: UpstreamConnection) -> None:
        """The connection that carries it."""
        self.connection = connection
        ttft_s = self.attempt.exchange.ttft_s
        if ttft_s is not None and self._reader is not None:
            self._first_by = self._loop.time() + ttft_s
        connection.limit(min(self.deadline, self._first_by), self._expired)

    def _expired(self) -> None:
        now = self._loop.time()
        late = now >= self._first_by and not self._first
        if self._stream is not None and now < self.deadline and self._quiet < _LOOKS and not late:
            self._look_again(now)
            return
        kind = "total time limit" if now >= self.deadline else "no first event" if late else "no byte came in time"
        detail = f"{kind}, {_since(self.attempt) / 1e9:.1f} s after the request was sent"
        self.on_end(WireError("timeout", Progress.ANSWERING if self.status else Progress.SENT, detail))

    # --- what the connection tells (proxy.wire.client.Receiver)

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        self.attempt.status = status
        coding = None
        for name, value in headers:
            if name == b"content-type" and not self._kind:
                self._kind = value.partition(b";")[0].strip().lower()
            elif name == b"content-encoding":
                coding = value.strip().lower()
            elif name == b"x-request-id" or name == b"request-id":
                self.attempt.upstream_request_id = value.decode("latin-1")[:200]
        if coding not in _IDENTITY and self._dialect is not None:
            if coding not in CODINGS:
                why = "The upstream's answer has an encoding that wasn't asked for."
                self._fail(maybe_billed(502, "upstream_encoding", why))
                return
            self._inflate = Inflater()
        if status < 300 and self._kind == b"text/event-stream":
            self._streams()

    def _streams(self) -> None:
        limits = self._limits
        self._stream = Stream(self, limits.stream_buffer_bytes)
        self._look_again(self._loop.time())
        if self._dialect is None:  # not understood, so nothing about it is judged: byte for byte
            self._begin()
            return
        if self._reader is None:  # asked for in a form that isn't read
            self._reader = stream_reader(self._dialect)
            self.reading = self._reader.reading
        splitter = Splitter(limits.unparsed_event_bytes, limits.event_bytes)
        self._events = Events(self._dialect, self._reader, splitter, self._inject)

    def on_data(self, data: bytes) -> None:
        if self.over:
            return
        if self._inflate is not None:
            data = self._inflated(data)
            if not data:
                return
        self._quiet = 0
        events, stream = self._events, self._stream
        if stream is None:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > self._limits.unary_buffer_bytes:
                self._release_held()
        elif events is None:
            self._streamed_bytes += len(data)
            if self._dialect is not None:
                self._tail = (self._tail + data)[-TAIL_BYTES:]
            stream.feed([Event(data, None)])
        elif (straight := stream.straight) is None or (payload := events.splitter.alone(data)) is None:
            self._take(events, stream, data)
        elif (verdict := events.reader.event(payload)) is _PASS:  # the way of nearly every chunk
            events.content += 1
            straight(data)
        else:
            passed: list[Event] = []
            events.judge(Event(data, payload), verdict, passed)
            self._pass_on(events, stream, passed)

    def on_end(self, error: WireError | None) -> None:
        if self.over:
            return
        if error is None and self._inflate is not None and not self._inflate.whole:
            error = WireError("truncated", Progress.ANSWERING, "its compressed body is cut short")
        if error is not None:
            self._failed_on_the_wire(error)
        elif self._stream is None:
            self._held_ended()
        elif self._events is not None:
            self._events_ended(self._events)
        else:
            if self._dialect is not None:
                self.reading = read_tail(self._dialect, self._tail)
            self._finish("complete", None)

    # --- a stream of events

    def _take(self, events: Events, stream: Stream, data: bytes) -> None:
        try:
            passed = events.take(data, self._first)
        except EventTooLarge:
            why = f"an event was larger than {self._limits.event_bytes} bytes"
            self._begin()
            self._cut(cut_short(why, "upstream_event_too_large"))
        else:
            self._pass_on(events, stream, passed)

    def _pass_on(self, events: Events, stream: Stream, passed: list[Event]) -> None:
        if events.over is None:
            if passed:
                self._begin()
                stream.feed(passed)
        elif events.over is _END:
            self._ended_in_band(stream, passed)
        else:
            self._broken_by(events.over, stream, passed)

    def _begin(self) -> None:
        if not self._first:
            self._first = True
            self.attempt.ttft_ns = _since(self.attempt)
            self._come()

    def _ended_in_band(self, stream: Stream, passed: list[Event]) -> None:
        assert self.connection is not None
        self._begin()
        self._account("complete", None)
        stream.feed(passed)
        stream.end()
        self.connection.let_end(self)

    def _broken_by(self, verdict: Verdict, stream: Stream, passed: list[Event]) -> None:
        if verdict is _ERROR:
            fault = self._told(first=not self._first)
        else:
            fault = Fault(cut_short("an event is not valid JSON", "upstream_malformed_event"), billed=True)
        if not self._first and not passed:
            self._fail(fault)
            return
        self._begin()
        if passed:
            stream.feed(passed)
        self._cut(fault.error)

    def _events_ended(self, events: Events) -> None:
        if not self._first:
            self._fail(maybe_billed(502, "upstream_empty", "The upstream's stream held no event."))
        elif events.splitter.unfinished:
            self._cut(cut_short("its last event has no end", "upstream_truncated"))
        elif self.upstream.config.stream_end == "required":
            self._cut(cut_short("it ended without its closing event", "upstream_truncated"))
        else:
            self._finish("complete", None)

    # --- a body

    def _release_held(self) -> None:
        """Too large to hold: from here on it is relayed as it comes, unless its beginning says that it is a failure."""
        body = self._said(b"".join(self._held))
        fault = of_status(self.status, self.headers, body, self.upstream.own_key)
        if fault is None and self.status < 300 and self._dialect is not None:
            fault = whole.no_answer(body, self._kind, self._reader is not None)
        if fault is not None:
            self._fail(fault)
            return
        self._stream = Stream(self, self._limits.stream_buffer_bytes)
        self._stream.feed([Event(body, None)])
        self._held = []
        self._tail = body[-TAIL_BYTES:]
        self._look_again(self._loop.time())
        self._begin()

    def _held_ended(self) -> None:
        body = self._said(self._held[0] if len(self._held) == 1 else b"".join(self._held))
        self._held = [body]
        fault = of_status(self.status, self.headers, body, self.upstream.own_key)
        if fault is None and self.status < 300 and self._dialect is not None:
            fault = self._read(self._dialect, body)
        if fault is not None:
            self._fail(fault)
            return
        self.attempt.ttft_ns = _since(self.attempt)
        self._account("complete" if self.status < 400 else "failed", None)
        self._come()

    def _read(self, dialect: str, body: bytes) -> Fault | None:
        if (fault := whole.no_answer(body, self._kind, self._reader is not None)) is not None:
            return fault
        found = whole.read(dialect, body, self._kind)
        if isinstance(found, Fault):
            return found
        self.reading = found
        return None if found.error is None else self._told(first=True)

    def _said(self, body: bytes) -> bytes:
        return body if self.status < 400 else self.upstream.unsaid(body)

    def _told(self, first: bool) -> Fault:
        """The failure of an error in the answer."""
        fault = of_event(self.reading.error or {}, first=first, own_key=self.upstream.own_key)
        fault.error.message = self.upstream.unsaid(fault.error.message.encode("utf-8", "replace")).decode()
        return fault

    def _inflated(self, data: bytes) -> bytes:
        assert self._inflate is not None
        try:
            return self._inflate.feed(data)
        except ValueError as error:
            self.on_end(WireError("malformed", Progress.ANSWERING, str(error)))
            return b""

    # --- ends

    def _failed_on_the_wire(self, error: WireError) -> None:
        # Case 15: an idle connection was closed while the request was on its way.
        stale = self.stale_until > 0 and error.kind == "reset" and error.progress is Progress.SENT
        if stale and self.connection is not None and self.connection.unread:
            self.ready.set_exception(Stale())
        elif self._first:
            self._cut(cut_short(error.detail or error.kind, f"upstream_{error.kind}"))
        else:
            self._fail(of_wire(error), error, again=stale and self._loop.time() < self.stale_until)

    def _fail(self, fault: Fault, cause: WireError | None = None, *, again: bool = False) -> None:
        """Nothing has reached the reader: the failure still gets its status."""
        self._account("failed", fault)
        self._abandon()
        if not self.ready.done():
            self.ready.set_exception(Failed(fault, cause, again))
        if self._stream is not None:  # also one that nobody will ever read: it would keep this answer, and this it
            self._stream.end(fault.error)

    def _cut(self, error: WeirError) -> None:
        """Something has reached the reader: the failure follows in-band."""
        self._account("partial", Fault(error, billed=True))
        self._abandon()
        assert self._stream is not None
        if self._kind == b"text/event-stream" and (self._events is None or self._events.splitter.amid_event):
            self._stream.feed([Event(b"\n\n", None)])  # a part of an event went out: what follows must not join it
        self._stream.end(error)

    def _finish(self, outcome: str, fault: Fault | None) -> None:
        self._account(outcome, fault)
        if self._stream is not None:
            self._stream.end()
        self._come()

    def _come(self) -> None:
        """It can be judged."""
        if not self.ready.done():
            self.ready.set_result(None)

    def _account(self, outcome: str, fault: Fault | None) -> None:
        if self.over:
            return
        self.over = True
        self._settle(self, outcome, fault)

    def _abandon(self) -> None:
        if self.connection is not None:
            self.connection.abandon(self)

    def refuse(self, fault: Fault) -> None:
        """The request never left: connecting failed."""
        self._account("failed", fault)

    # --- the reader's side (proxy.stream.Flow)

    def pause(self) -> None:
        if self.connection is not None and not self.over:
            self.connection.pause()
            self.connection.deadline = self.deadline  # nothing comes because we don't read: that isn't idleness

    def resume(self) -> None:
        if self.connection is not None and not self.over:
            self.connection.resume()
            self._quiet = 0
            self._look_again(self._loop.time())

    def cancel(self) -> None:
        """Nobody wants the answer any more: the upstream is cancelled, and what was used is settled."""
        if not self.over:
            self._account("aborted", None)
            self._abandon()
            self.ready.cancel()
            if self._stream is not None:  # whoever still reads must not take it for whole
                self._stream.end(cut_short("it was given up", "exchange_ended"))
        if self.made is not None:
            made, self.made = self.made, None
            made.end(Outcome.ABORTED)

    def _look_again(self, now: float) -> None:
        """A stream's idle limit is looked at in parts, so that a chunk only notes that it came."""
        self._quiet += 1
        assert self.connection is not None
        part = (self.attempt.exchange.idle_s or self.upstream.stream_idle_s) / _LOOKS
        due = self.deadline if self._first else min(self.deadline, self._first_by)
        self.connection.limit(min(due, now + part), self._expired)

    # --- the result

    def response(self) -> Response:
        """The answer for the chain; once `ready`."""
        headers = for_client(self.headers, self.upstream.response_headers)
        if self._inflate is not None:
            headers = [pair for pair in headers if pair[0] != b"content-encoding"]
        if self._stream is not None:
            self.made = Response(self.status, headers, self._stream)
            return self.made
        if self.attempt.request.method == "HEAD" and (length := get(self.headers, b"content-length")) is not None:
            headers.append((b"content-length", length))  # that of the body that a GET would have
        return Response(self.status, headers, self._held[0] if self._held else b"")


class Failed(Exception):  # noqa: N818
    """Carries a fault from `Answer` to `dispatch`."""

    def __init__(self, fault: Fault, cause: WireError | None, again: bool = False) -> None:
        super().__init__(str(fault.error))
        self.fault = fault
        self.cause = cause
        self.again = again  # a kept connection was reset so early that its request was hardly read


class Stale(Exception):  # noqa: N818
    """A kept connection was dead, and the request read by nobody: it goes again, once, on a fresh one."""


def _since(attempt: Attempt) -> int:
    return time.perf_counter_ns() - attempt.started_ns
