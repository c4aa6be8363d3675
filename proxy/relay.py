"""From a `Response` to the client's connection.

Rules:
1. A stream's events go from the upstream's callback to the client's transport
   without waking a task.
2. A client that reads slowly pauses the upstream.
3. What breaks after the head has left is told in-band (an error event for event streams), and the end of the framing
   is withheld, so that no client takes it for the whole answer.
4. Before the last bytes leave, `before_last` has run: the journal knows what the client is about to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson

from proxy.errors import UPSTREAM, WeirError
from proxy.response import Outcome, Response
from proxy.stream import Stream
from proxy.wire import sse
from proxy.wire.call import Call
from proxy.wire.headers import Headers
from proxy.wire.sse import Event

LastWords = Callable[[Outcome], bytes]


class _Pipe:
    """Events of a stream to a client, as they come."""

    __slots__ = ("_anthropic", "_before_last", "_call", "_done", "_response")

    def __init__(
        self, response: Response, call: Call, done: asyncio.Future[Outcome], before_last: LastWords, anthropic: bool
    ) -> None:
        self._response = response
        self._call = call
        self._done = done
        self._before_last = before_last
        self._anthropic = anthropic

    def events(self, events: list[Event]) -> None:
        passed = events
        if not self._response.untouched:
            try:
                passed = self._response.pass_through(events)
            except Exception as error:
                self._spoiled(error)
                return
        if len(passed) == 1:
            self._call.write(passed[0].raw)
        elif passed:
            self._call.write(b"".join([event.raw for event in passed]))

    def end(self, error: WeirError | None) -> None:
        outcome = Outcome.COMPLETE if error is None else Outcome.PARTIAL
        self._response.end(outcome)
        last = self._before_last(outcome)
        if error is None:
            self._call.finish(last if self._response.is_event_stream else b"")
        else:
            broken(self._call, self._response, error, self._anthropic)
        if not self._done.done():
            self._done.set_result(outcome)

    def _spoiled(self, error: Exception) -> None:
        """A policy's edit failed. What it was to change must not pass unchanged."""
        assert self._response.stream is not None
        self._response.stream.close()
        if not self._call.finished:
            self.end(edit_failed(error))


def edit_failed(error: Exception) -> WeirError:
    """What the client is told; the error's own words may hold what it must not read."""
    message = f"The proxy failed on this answer ({type(error).__name__})."
    return WeirError(500, message, type="server_error", code="edit_failed")


class Heartbeat:
    """Comments to a client while its stream has nothing to say, so that load balancers don't cut the connection.

    The first one commits status 200; what goes wrong later is told in-band.
    """

    __slots__ = ("_call", "_every_s", "_handle", "_head", "_loop")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, call: Call, every_s: float, head: Callable[[], Headers]
    ) -> None:
        self._loop = loop
        self._call = call
        self._every_s = every_s
        self._head = head
        self._handle = loop.call_later(every_s, self._beat)

    def _beat(self) -> None:
        if self._call.finished:
            return
        if not self._call.started:
            self._call.start(200, self._head())
        self._call.write(sse.comment(b"waiting").raw)
        self._handle = self._loop.call_later(self._every_s, self._beat)

    def stop(self) -> None:
        """The answer has come, or never will."""
        self._handle.cancel()


async def relay_late(response: Response, call: Call, before_last: LastWords, *, anthropic: bool) -> Outcome:
    """Sends a response after a heartbeat has committed an event stream; raises a WeirError where it can't be one."""
    if not response.is_event_stream:
        body = response.held() if response.whole else b""
        await response.aclose()
        raise _told_in(response.status, body)
    if not response.whole:
        return await relay(response, call, [], before_last, anthropic=anthropic)
    call.write(response.held())
    call.finish(before_last(Outcome.COMPLETE))
    return Outcome.COMPLETE


def _told_in(status: int, body: bytes) -> WeirError:
    """The error that a body tells."""
    try:
        told = orjson.loads(body)["error"]
        code = told.get("code")
        return WeirError(status, str(told["message"]), type=str(told["type"]), code=None if code is None else str(code))
    except (ValueError, KeyError, TypeError, AttributeError):
        return WeirError(502, f"The upstream answered with status {status} and no stream.", type=UPSTREAM)


def broken(call: Call, response: Response, error: WeirError, anthropic: bool) -> None:
    """Ends an answer that can't be completed, so that its reader knows."""
    if response.is_event_stream:
        # Our framing ends where it should, because the event says what happened; there is no [DONE].
        call.finish(error_event(error, anthropic).raw)
    else:
        call.abort()


def error_event(error: WeirError, anthropic: bool) -> Event:
    """An in-band error. OpenAI's clients look for `error` in the data, Anthropic's for an event of that name."""
    if not anthropic:
        return sse.event(error.body())
    return sse.event(error.body_with_type(), b"error")


async def relay(
    response: Response, call: Call, headers: Headers, before_last: LastWords, *, anthropic: bool = False
) -> Outcome:
    """Sends a response that is still on its way; returns how it ended. If cancelled, the response is closed."""
    if not call.started:
        call.start(response.status, headers)
    try:
        if response.stream is not None:
            return await _pushed(response, response.stream, call, before_last, anthropic)
        return await _pulled(response, call, before_last, anthropic)
    except BaseException:
        await response.aclose()
        raise


async def _pushed(response: Response, stream: Stream, call: Call, before_last: LastWords, anthropic: bool) -> Outcome:
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def client_is_slow(slow: bool) -> None:
        if slow:
            stream.pause()
        else:
            stream.resume()

    call.on_pause = client_is_slow
    pipe = _Pipe(response, call, done, before_last, anthropic)
    stream.connect(pipe, call.write if response.untouched else None)
    if call.paused:
        stream.pause()
    try:
        return await done
    finally:
        call.on_pause = None


async def _pulled(response: Response, call: Call, before_last: LastWords, anthropic: bool) -> Outcome:
    try:
        async for piece in response:
            call.write(piece)
            if call.paused:
                await call.drained()
    except WeirError as error:
        before_last(Outcome.PARTIAL)
        broken(call, response, error, anthropic)
        return Outcome.PARTIAL
    last = before_last(Outcome.COMPLETE)
    call.finish(last if response.is_event_stream else b"")
    return Outcome.COMPLETE
