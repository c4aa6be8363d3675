"""The body of an answer on its way: pushed in by whoever receives it, taken out by one reader.

Rules:
1. One reader. It either pulls (`async for`) or connects a sink, to which every later event goes straight from the
   socket's callback.
2. What isn't read yet is held up to a limit; beyond it the source is paused.
3. `end` is told once. After it nothing follows. Closing early cancels the source.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from proxy.errors import WeirError
from proxy.wire.sse import Event

BUFFER_BYTES = 256 * 1024


class Sink(Protocol):
    """Where a stream goes. Must not raise and can't delay it, only ask for a pause (`Stream.pause`)."""

    def events(self, events: list[Event]) -> None:
        """The next events, at least one."""

    def end(self, error: WeirError | None) -> None:
        """No more follows: the answer is whole (None), or was cut short."""


class Flow(Protocol):
    """The source's side of a stream."""

    def pause(self) -> None:
        """Send nothing for now."""

    def resume(self) -> None:
        """Send on."""

    def cancel(self) -> None:
        """Nobody reads any more."""


class _NoFlow:
    """The source of a stream that has ended."""

    def pause(self) -> None:
        """Nothing comes any more."""

    resume = cancel = pause


_ENDED = _NoFlow()


class Stream:
    """Events between a source and its one reader."""

    __slots__ = ("_ended", "_error", "_flow", "_held", "_limit", "_paused", "_queue", "_sink", "_waiter", "straight")

    straight: Callable[[bytes], object] | None
    """Where the bytes of whole events may go instead, while its sink takes them as they are."""

    def __init__(self, flow: Flow, limit_bytes: int = BUFFER_BYTES) -> None:
        self._flow = flow
        self._limit = limit_bytes
        self._queue: deque[list[Event]] = deque()
        self._held = 0
        self._paused = False
        self._ended = False
        self._error: WeirError | None = None
        self._sink: Sink | None = None
        self.straight = None
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "ended" if self._ended else "paused" if self._paused else "open"
        return f"<Stream {state}, {self._held} bytes held>"

    # --- the source's side

    def feed(self, events: list[Event]) -> None:
        """Takes the next events from the source."""
        if self._sink is not None:
            self._sink.events(events)
            return
        if self._ended:
            return  # closed by its reader
        self._queue.append(events)
        self._held += sum([len(event.raw) for event in events])
        if self._held > self._limit:
            self.pause()
        self._wake()

    def end(self, error: WeirError | None = None) -> None:
        """The source has nothing more. Only the first call counts."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._flow = _ENDED  # neither side keeps the other alive any longer
        sink, self._sink, self.straight = self._sink, None, None
        if sink is not None:
            sink.end(error)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- the reader's side

    def connect(self, sink: Sink, straight: Callable[[bytes], object] | None = None) -> None:
        """From now on everything goes to `sink`, what was held first.

        `straight` takes the bytes of events that need not be looked at, where the sink would do nothing but write them.
        """
        while self._queue:
            sink.events(self._queue.popleft())
        self._held = 0
        self.resume()
        if self._ended:
            sink.end(self._error)
        else:
            self._sink, self.straight = sink, straight

    async def __anext__(self) -> list[Event]:
        """The next events. Raises the WeirError that cut the stream short, after the events that came before it."""
        while not self._queue:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        events = self._queue.popleft()
        self._held -= sum([len(event.raw) for event in events])
        if self._paused and self._held <= self._limit // 2:
            self.resume()
        return events

    def __aiter__(self) -> Stream:
        return self

    def pause(self) -> None:
        """Asks the source to stop for now."""
        if not self._paused and not self._ended:
            self._paused = True
            self._flow.pause()

    def resume(self) -> None:
        """Lets the source go on."""
        if self._paused:
            self._paused = False
            self._flow.resume()

    def close(self) -> None:
        """The reader wants no more. Cancels the source unless it has ended."""
        if not self._ended:
            self._ended = True
            self._sink = self.straight = None
            self._queue.clear()
            flow, self._flow = self._flow, _ENDED
            flow.cancel()
