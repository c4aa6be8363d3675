"""A stream that is held back until it is known whether it is given: nothing of it is lost, and nothing leaves before.

Rules:
1. Whoever holds it either releases it, once, or closes it. What was held comes first, then what still comes, straight
   from the upstream's callback; events keep their data, so that layers further out can read them.
2. A wait may be cut short: what was waited for still comes. The stream of a layer that makes its own can't be left in
   the middle of a wait, so there the time is looked at when something comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from policies.cascade.answers import Gathered, Said
from policies.cascade.turn import Turn
from proxy.errors import WeirError
from proxy.response import Outcome, Response
from proxy.stream import Stream
from proxy.wire.sse import Event


class Held:
    """A response that is an event stream. Its taps and edits see everything as it comes, `gathered` before them."""

    def __init__(self, response: Response, gathered: Gathered) -> None:
        response.tap(lambda seen: gathered.event(seen.data) if isinstance(seen, Event) and seen.data else None)
        self._response = response
        self._events: list[Event] = []
        self._over = False
        self._own = response.stream is not None  # else the response itself shows what comes to its taps and edits
        self._source = response.stream or _batches(response)

    async def until(self, enough: Callable[[], bool], within_s: float | None = None) -> bool:
        """Holds back what comes until there is enough, or time is up; whether it is over. Raises the WeirError that cut
        it short."""
        loop = asyncio.get_running_loop()
        up_s = None if within_s is None else loop.time() + within_s
        while not enough() and not self._over and (up_s is None or loop.time() < up_s):
            try:
                events = await self._next(up_s if self._own else None)
            except TimeoutError:
                break
            except StopAsyncIteration:
                self._over = True
                self._response.end(Outcome.COMPLETE)  # does nothing where it knows
                break
            except WeirError:
                self._response.end(Outcome.PARTIAL)
                raise
            self._events += self._response.pass_through(events) if self._own else events
        return self._over

    async def _next(self, up_s: float | None) -> list[Event]:
        if up_s is None:
            return await anext(self._source)
        async with asyncio.timeout_at(up_s):
            return await anext(self._source)

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


async def looked_at(held: Held, gathered: Gathered, turn: Turn) -> tuple[bool, tuple[Said, ...] | None]:
    """Holds a stream until as much has come as is looked at: whether it is over; and what has come where time was up
    before. Raises the WeirError that cut it short."""
    prefix = turn.how == "prefix"
    over = await held.until(lambda: prefix and turn.begun(gathered.said()), turn.within_s)
    choices = gathered.said()
    return over, None if over or turn.begun(choices) else choices or (Said(),)


async def _batches(response: Response) -> AsyncIterator[list[Event]]:
    """Events as they come of a layer that makes its own stream, after taps and edits."""
    if response.whole:
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
