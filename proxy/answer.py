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
import zlib
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from proxy.dialects import Reading, StreamReader, Verdict, read_large, read_tail, read_unary, stream_reader
from proxy.errors import WeirError
from proxy.exchange import Attempt, Settle
from proxy.faults import Fault, cut_short, maybe_billed, of_event, of_status, of_wire
from proxy.response import Outcome, Response
from proxy.stream import Stream
from proxy.wire.client import Progress, UpstreamConnection, WireError
from proxy.wire.headers import Headers, for_client, get
from proxy.wire.sse import Event, EventTooLarge, Splitter
from proxy.wire.ticker import NEVER

if TYPE_CHECKING:
    from proxy.upstreams import Upstream

_TAIL_BYTES: Final = 64 * 1024
_INFLATED_AT_LEAST: Final = 64 * 1024
_INFLATION: Final = 200  # no honest answer is that repetitive
_TEXT: Final = frozenset(("chat", "responses", "anthropic"))
_COMMENT_BYTES: Final = 4096
_BLANK_LINES: Final = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\r", b"\n\r", b"\r\n\n")
_IDENTITY: Final = (None, b"", b"identity")


_PASS: Final = Verdict.PASS
_LOOKS: Final = 4  # a stream is given up after between 4/4 and 5/4 of its idle limit


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


class Answer:
    """One attempt's answer while it comes in."""

    __slots__ = (
        "_content_events",
        "_dialect",
        "_first",
        "_first_by",
        "_held",
        "_held_bytes",
        "_inflate",
        "_kind",
        "_large",
        "_limits",
        "_loop",
        "_mode",
        "_quiet",
        "_reader",
        "_settle",
        "_splitter",
        "_stream",
        "_streamed_bytes",
        "_tail",
        "attempt",
        "connection",
        "deadline",
        "headers",
        "inject",
        "made",
        "over",
        "reading",
        "ready",
        "settles",
        "stale_until",
        "status",
        "upstream",
    )

    def __init__(
        self,
        attempt: Attempt,
        upstream: Upstream,
        limits: AnswerLimits,
        settle: Settler,
        dialect: str | None,
        reader: StreamReader | None,
        inject: bool,
        settles: list[Settle],
        loop: asyncio.AbstractEventLoop,
        deadline: float,
    ) -> None:
        self.attempt = attempt
        self.upstream = upstream
        self._limits = limits
        self._settle = settle
        self._dialect = dialect
        self._reader = reader
        self.inject = inject  # a usage chunk was asked for on the client's behalf, so it is taken out again
        self.settles = settles  # the guards that want to be told
        self._loop = loop
        self.deadline = deadline
        self.ready: asyncio.Future[None] = loop.create_future()
        self.reading: Reading = reader.reading if reader is not None else Reading()
        self.connection: UpstreamConnection | None = None
        self.status = 0
        self.headers: Headers = []
        self.over = False
        self.made: Response | None = None  # a stream's response: told that it ended, if the exchange ends before it
        self.stale_until = 0.0  # the connection was kept: if it is reset by then, the request may go again
        self._mode = "head"
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._tail = b""
        self._large = b""  # the beginning of the event that is passing in pieces
        self._stream: Stream | None = None
        self._splitter: Splitter | None = None
        self._first = False
        self._first_by = NEVER  # when the first event of a stream is due
        self._content_events = 0
        self._streamed_bytes = 0
        self._inflate: Any = None
        self._kind = b""  # its media type
        self._quiet = 0  # looks at the clock since anything came

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self._mode}{' over' if self.over else ''}>"

    @property
    def estimated_output_tokens(self) -> int:
        """What the answer so far may be worth where no usage tells: events of a stream carry about one token each.

        Vectors, images and sound have bytes, but not in proportion to tokens.
        """
        if self._content_events or self._dialect not in _TEXT:
            return self._content_events
        return (self._held_bytes + self._streamed_bytes) // 4

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
        self.on_end(WireError("timeout", Progress.SENT if self._mode == "head" else Progress.ANSWERING, detail))

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
            if coding not in (b"gzip", b"x-gzip", b"deflate"):
                self._fail(
                    maybe_billed(
                        502, "upstream_encoding", "The upstream's answer has an encoding that wasn't asked for."
                    )
                )
                return
            self._inflate = zlib.decompressobj(47)  # gzip or zlib, by its header
        if status < 300 and self._kind == b"text/event-stream":
            limits = self._limits
            self._stream = Stream(self, limits.stream_buffer_bytes)
            self._look_again(self._loop.time())
            if self._dialect is None:  # not understood, so nothing about it is judged: byte for byte
                self._mode = "body"
                self._begin()
                return
            self._mode = "events"
            self._splitter = Splitter(limits.unparsed_event_bytes, limits.event_bytes)
            if self._reader is None:
                self._reader = stream_reader(self._dialect)  # asked for in a form that isn't read
                self.reading = self._reader.reading
        else:
            self._mode = "held"

    def on_data(self, data: bytes) -> None:
        if self.over:
            return
        if self._inflate is not None:
            data = self._inflated(data)
            if not data:
                return
        self._quiet = 0
        if self._mode == "events":
            stream, splitter, reader = self._stream, self._splitter, self._reader
            assert stream is not None and splitter is not None and reader is not None
            straight = stream.straight
            if straight is None or (payload := splitter.alone(data)) is None:
                self._take_events(splitter, reader, data)
            elif (verdict := reader.event(payload)) is _PASS:  # the way of nearly every chunk
                self._content_events += 1
                straight(data)
            else:
                self._take_last(Event(data, payload), verdict)
        elif self._mode == "held":
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > self._limits.unary_buffer_bytes:
                self._release_held()
        else:
            self._streamed_bytes += len(data)
            if self._dialect is not None:
                self._tail = (self._tail + data)[-_TAIL_BYTES:]
            assert self._stream is not None
            self._stream.feed([Event(data, None)])

    def on_end(self, error: WireError | None) -> None:
        if self.over:
            return
        if error is None and self._inflate is not None and not self._inflate.eof:
            error = WireError("truncated", Progress.ANSWERING, "its compressed body is cut short")
        if error is not None:
            self._failed_on_the_wire(error)
        elif self._mode == "events":
            self._events_ended()
        elif self._mode == "held":
            self._held_ended()
        else:
            if self._dialect is not None:
                self.reading = read_tail(self._dialect, self._tail)
            self._finish("complete", None)

    # --- a stream of events

    def _take_events(self, splitter: Splitter, reader: StreamReader, data: bytes) -> None:
        try:
            events = splitter.feed(data)
        except EventTooLarge:
            why = f"an event was larger than {self._limits.event_bytes} bytes"
            self._begin()
            self._cut(cut_short(why, "upstream_event_too_large"))
            return
        passed: list[Event] = []
        for event in events:
            payload = event.data
            if payload is not None:
                verdict = reader.event(payload)
            elif len(event.raw) > _COMMENT_BYTES or self._large:
                verdict = self._piece(event.raw)
            else:
                if self._first:  # a heartbeat before the first token is ours to give
                    passed.append(event)
                continue
            if not self._goes_on(event, verdict, passed):
                return
        self._pass_on(passed)

    def _take_last(self, event: Event, verdict: Verdict) -> None:
        """An event that came alone and isn't content."""
        passed: list[Event] = []
        if self._goes_on(event, verdict, passed):
            self._pass_on(passed)

    def _pass_on(self, passed: list[Event]) -> None:
        if passed:
            assert self._stream is not None
            self._begin()
            self._stream.feed(passed)

    def _goes_on(self, event: Event, verdict: Verdict, passed: list[Event]) -> bool:
        """Adds an event to those that are passed on, if it is; False where the stream is over with it."""
        if verdict is _PASS:
            self._content_events += 1
            passed.append(event)
        elif verdict == Verdict.USAGE:
            if not self.inject:
                passed.append(event)
        elif verdict == Verdict.END:
            passed.append(event)
            self._ended_in_band(passed)
            return False
        else:
            self._broken_by(verdict, passed)
            return False
        return True

    def _piece(self, raw: bytes) -> Verdict:
        """A piece of an event that is too large to look into: what its beginning and its end say."""
        assert self._dialect is not None
        self._large = self._large or raw[:_COMMENT_BYTES]
        self._tail = (self._tail + raw)[-_TAIL_BYTES:]
        if not raw.endswith(_BLANK_LINES):
            return Verdict.PASS
        verdict = read_large(self._dialect, self.reading, self._large, self._tail)
        self._large = self._tail = b""
        return verdict

    def _begin(self) -> None:
        if not self._first:
            self._first = True
            self.attempt.ttft_ns = _since(self.attempt)
            if not self.ready.done():
                self.ready.set_result(None)

    def _ended_in_band(self, passed: list[Event]) -> None:
        assert self._stream is not None and self.connection is not None
        self._begin()
        self._account("complete", None)
        self._stream.feed(passed)
        self._stream.end()
        self.connection.let_end(self)

    def _broken_by(self, verdict: Verdict, passed: list[Event]) -> None:
        assert self._stream is not None
        if verdict == Verdict.ERROR:
            fault = self._told(first=not self._first)
        else:
            fault = Fault(cut_short("an event is not valid JSON", "upstream_malformed_event"), billed=True)
        if not self._first and not passed:
            self._fail(fault)
            return
        self._begin()
        if passed:
            self._stream.feed(passed)
        self._cut(fault.error)

    def _events_ended(self) -> None:
        assert self._splitter is not None
        unfinished = self._splitter.unfinished
        if not self._first:
            self._fail(maybe_billed(502, "upstream_empty", "The upstream's stream held no event."))
        elif unfinished:
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
            fault = self._not_an_answer(body)
        if fault is not None:
            self._fail(fault)
            return
        self._mode = "body"
        self._stream = Stream(self, self._limits.stream_buffer_bytes)
        self._stream.feed([Event(body, None)])
        self._held = []
        self._tail = body[-_TAIL_BYTES:]
        self._look_again(self._loop.time())
        self._begin()

    def _held_ended(self) -> None:
        body = self._said(self._held[0] if len(self._held) == 1 else b"".join(self._held))
        self._held = [body]
        fault = of_status(self.status, self.headers, body, self.upstream.own_key)
        if fault is None and self.status < 300 and self._dialect is not None:
            fault = self._read_body(body)
        if fault is not None:
            self._fail(fault)
            return
        self.attempt.ttft_ns = _since(self.attempt)
        self._account("complete" if self.status < 400 else "failed", None)
        self.ready.set_result(None)

    def _read_body(self, body: bytes) -> Fault | None:
        assert self._dialect is not None
        if (fault := self._not_an_answer(body)) is not None:
            return fault
        if not self._is_json(body):
            return None  # speech, an image, text: passed as it is
        try:
            self.reading = read_unary(self._dialect, body)
        except ValueError:
            return maybe_billed(502, "upstream_truncated", "The upstream's answer is not valid JSON.")
        if self.reading.error is not None:
            return self._told(first=True)
        return None

    def _said(self, body: bytes) -> bytes:
        return body if self.status < 400 else self.upstream.unsaid(body)

    def _told(self, first: bool) -> Fault:
        """The failure of an error in the answer."""
        fault = of_event(self.reading.error or {}, first=first)
        fault.error.message = self.upstream.unsaid(fault.error.message.encode("utf-8", "replace")).decode()
        return fault

    def _not_an_answer(self, body: bytes) -> Fault | None:
        """A body, or the beginning of one, that can't be what was asked for."""
        if not body or self._kind == b"text/html":
            what = "is empty" if not body else "is a page of HTML"
            return maybe_billed(502, "upstream_not_an_answer", f"The upstream answered 200, but its body {what}.")
        if self._reader is not None and self._is_json(body):
            return maybe_billed(502, "upstream_not_a_stream", "A stream was asked for, but the upstream sent none.")
        return None

    def _is_json(self, body: bytes) -> bool:
        return self._kind == b"application/json" or b"json" in self._kind or body.lstrip()[:1] == b"{"

    def _inflated(self, data: bytes) -> bytes:
        try:
            out: bytes = self._inflate.decompress(data, max(_INFLATED_AT_LEAST, _INFLATION * len(data)))
        except zlib.error:
            self.on_end(WireError("malformed", Progress.ANSWERING, "its compressed body is damaged"))
            return b""
        if self._inflate.unconsumed_tail:
            self.on_end(WireError("malformed", Progress.ANSWERING, "its compressed body unpacks to too much"))
            return b""
        return out

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
        if self._kind == b"text/event-stream" and (self._splitter is None or self._splitter.amid_event):
            self._stream.feed([Event(b"\n\n", None)])  # a part of an event went out: what follows must not join it
        self._stream.end(error)

    def _finish(self, outcome: str, fault: Fault | None) -> None:
        self._account(outcome, fault)
        if self._stream is not None:
            self._stream.end()
        if not self.ready.done():
            self.ready.set_result(None)

    def _account(self, outcome: str, fault: Fault | None) -> None:
        if self.over:
            return
        self.over = True
        self.attempt.total_ns = _since(self.attempt)
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
