"""What `forward` returns: an answer, always a stream, with its taps and edits.

Rules:
1. A response belongs to somebody until it is exhausted or closed: return it, read it, or close it.
2. Taps and edits run in the order in which they were added, so an outer layer sees what inner layers left. They see
   whole events: those of an event stream; a body held whole as one event; otherwise pieces as they came.
3. A tap is shown every event and, exactly once, the outcome. It can change and delay nothing. An edit returns the
   event to pass on, or None.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from enum import Enum
from typing import Final

from proxy.errors import WeirError
from proxy.stream import Stream
from proxy.wire.headers import Headers, get
from proxy.wire.sse import Event


class Outcome(Enum):
    """How an answer ended."""

    COMPLETE = "complete"  # all of it reached its reader
    PARTIAL = "partial"  # the upstream failed after it had begun
    ABORTED = "aborted"  # its reader left


_COMPLETE: Final = Outcome.COMPLETE  # looked up once: a member of an enumeration costs as much as a call

Tap = Callable[[Event | Outcome], object]
Edit = Callable[[Event], Event | None]


class Response:
    """An answer: `status`, `headers` (lower-case names), and a body that is held whole or still on its way."""

    __slots__ = ("_body", "_iterator", "_outcome", "_stages", "_stream", "failed_tap", "headers", "status", "whole")

    whole: bool
    """Whether the body is held in memory, so that reading it waits for nobody."""

    def __init__(
        self,
        status: int,
        headers: Headers,
        body: bytes | Stream | AsyncIterator[bytes] = b"",
    ) -> None:
        self.status = status
        self.headers = headers
        self._body: bytes | None = None
        self._stream: Stream | None = None
        self._iterator: AsyncIterator[bytes] | None = None  # a policy's own generator
        if isinstance(body, bytes):
            self._body, self.whole = body, True
        else:
            self.whole = False
            if isinstance(body, Stream):
                self._stream = body
            else:
                self._iterator = body
        self._stages: list[tuple[Tap | None, Edit | None]] = []
        self.failed_tap: str | None = None  # the kind of exception that a tap raised
        self._outcome: Outcome | None = None

    def __repr__(self) -> str:
        state = "whole" if self.whole else "stream" if self._outcome is None else self._outcome.value
        return f"<Response {self.status} {state}>"

    @property
    def untouched(self) -> bool:
        """Whether no tap or edit wants to see its events."""
        return not self._stages

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return (get(self.headers, b"content-type") or b"").startswith(b"text/event-stream")

    @property
    def stream(self) -> Stream | None:
        """The stream behind a body that isn't whole; None for a policy's own generator."""
        return self._stream

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it is on its way."""
        return self._outcome

    def tap(self, fn: Tap) -> None:
        """Shows `fn` every event and once the outcome."""
        self._stage(fn, None)

    def edit(self, fn: Edit) -> None:
        """Passes every event through `fn`."""
        self._stage(None, fn)

    def _stage(self, tap: Tap | None, edit: Edit | None) -> None:
        self._stages.append((tap, edit))
        if self._stream is not None:
            self._stream.straight = None  # from here on its events must be seen

    def pass_through(self, events: list[Event]) -> list[Event]:
        """The events after all taps and edits. For whoever relays them; called once for each event."""
        if not self._stages:
            return events
        passed: list[Event] = []
        for event in events:
            kept = self._staged(event)
            if kept is not None:
                passed.append(kept)
        return passed

    def _staged(self, event: Event) -> Event | None:
        for tap, edit in self._stages:
            if tap is not None:
                self._show(tap, event)
            elif edit is not None:
                changed = edit(event)
                if changed is None:
                    return None
                event = changed
        return event

    def end(self, outcome: Outcome) -> None:
        """Tells the taps how it ended; only the first call counts. For whoever relays or reads it."""
        if self._outcome is not None:
            return
        self._outcome = outcome
        for tap, _ in self._stages:
            if tap is not None:
                self._show(tap, outcome)

    def _show(self, tap: Tap, what: Event | Outcome) -> None:
        """Calls a tap. One that fails sees nothing more, and changes nothing: that is what taps promise."""
        try:
            tap(what)
        except Exception as error:
            self.failed_tap = type(error).__name__
            self._stages = [stage for stage in self._stages if stage[0] is not tap]

    def held(self) -> bytes:
        """The whole body, after taps and edits. Only for a body that is `whole`."""
        assert self._body is not None
        if self._stages and self._outcome is None:
            events = self.pass_through([Event(self._body, self._body)])
            self._body = events[0].raw if events else b""
        self.end(_COMPLETE)
        return self._body

    async def read(self) -> bytes:
        """Gathers the body; afterwards it is whole. Raises the WeirError that cut it short."""
        if self._body is None:
            pieces = [piece async for piece in self]
            self._body = b"".join(pieces)
            self.whole = True
            self._stream = self._iterator = None
            self._stages, self._outcome = [], None  # they have seen it; the body may still be relayed
        return self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body, piece by piece (event by event for an event stream). Close the iterator to give the rest up."""
        try:
            if self._body is not None:
                yield self.held()
            elif self._stream is not None:
                async for events in self._stream:
                    for event in self.pass_through(events):
                        yield event.raw
            elif self._iterator is not None:
                async for piece in self._iterator:
                    for event in self.pass_through([Event(piece, None)]):
                        yield event.raw
            self.end(Outcome.COMPLETE)
        except WeirError:
            self.end(Outcome.PARTIAL)
            raise
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Gives up what wasn't read: the upstream is cancelled. Harmless where everything was."""
        if self._stream is not None:
            self._stream.close()
        if self._iterator is not None and hasattr(self._iterator, "aclose"):
            await self._iterator.aclose()
        if self._body is None:
            self.end(Outcome.ABORTED)
