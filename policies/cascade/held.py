"""A stream that is held back until it is known whether it is given: nothing of it is lost, and nothing leaves before.

Rules: whoever holds it either releases it, once, or closes it. What was held comes first, then what still comes,
straight from the upstream's callback; events keep their data, so that layers further out can read them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from proxy.errors import WeirError
from proxy.response import Outcome, Response
from proxy.stream import Stream
from proxy.wire.sse import Event


class Held:
    """A response that is an event stream. Its taps and edits see everything as it comes."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._events: list[Event] = []
        self._over = False
        self._source = _batches(response)
        self._own = response.stream is not None  # else the response itself shows what comes to its taps and edits

    async def until(self, enough: Callable[[], bool]) -> bool:
        """Holds back what comes until there is enough; whether it is over. Raises the WeirError that cut it short."""
        while not enough():
            try:
                events = await anext(self._source)
            except StopAsyncIteration:
                self._over = True
                self._response.end(Outcome.COMPLETE)  # does nothing where it knows
                break
            except WeirError:
                self._response.end(Outcome.PARTIAL)
                raise
            self._events += self._response.pass_through(events) if self._own else events
        return self._over

    def released(self) -> Response:
        """The same answer, for the client."""
        response, inner = self._response, self._response.stream
        if inner is None and not self._over:
            return Response(response.status, response.headers, self._pulled())
        stream = Stream(_Flow(inner))
        if self._events:
            stream.feed(self._events)
        if self._over or inner is None:
            stream.end()
        else:
            inner.connect(_Pushed(response, stream))
        return Response(response.status, response.headers, stream)

    async def _pulled(self) -> AsyncIterator[bytes]:
        """The stream of a layer that makes its own."""
        try:
            for event in self._events:
                yield event.raw
            async for events in self._source:
                for event in events:
                    yield event.raw
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Gives it up."""
        await self._response.aclose()


async def _batches(response: Response) -> AsyncIterator[list[Event]]:
    """Events as they come: before taps and edits, or, of a layer that makes its own stream, after them."""
    if response.stream is not None:
        async for events in response.stream:
            yield events
    elif response.whole:
        yield [Event(response.held(), None)]
    else:
        async for piece in response:
            yield [Event(piece, None)]


class _Pushed:
    """What still comes, to its reader."""

    def __init__(self, response: Response, stream: Stream) -> None:
        self._response, self._stream = response, stream

    def events(self, events: list[Event]) -> None:
        passed = self._response.pass_through(events)
        if passed:
            self._stream.feed(passed)

    def end(self, error: WeirError | None) -> None:
        self._response.end(Outcome.COMPLETE if error is None else Outcome.PARTIAL)
        self._stream.end(error)


class _Flow:
    """The reader's pace, handed on to the upstream."""

    def __init__(self, inner: Stream | None) -> None:
        self._inner = inner

    def pause(self) -> None:
        if self._inner is not None:
            self._inner.pause()

    def resume(self) -> None:
        if self._inner is not None:
            self._inner.resume()

    def cancel(self) -> None:
        if self._inner is not None:
            self._inner.close()
