"""The events of a streamed answer: which of them its reader gets, and which one ends it. Pure.

Rules:
1. An event passes as the bytes that it came in, or not at all.
2. A usage chunk that was asked for on the client's behalf is taken out again.
3. A comment before the first event is dropped: a heartbeat until then is ours to give.
4. Of an event that is too large to look into, its beginning and its end are looked at.
"""

from __future__ import annotations

from typing import Final

from proxy.dialects import StreamReader, Verdict, read_large
from proxy.wire.sse import Event, Splitter

TAIL_BYTES: Final = 64 * 1024
_COMMENT_BYTES: Final = 4096
_BLANK_LINES: Final = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\r", b"\n\r", b"\r\n\n")
_PASS: Final = Verdict.PASS  # looked up once: a member of an enumeration costs as much as a call
_USAGE: Final = Verdict.USAGE
_END: Final = Verdict.END


class Events:
    """What is known of one stream. Whoever takes single events past it counts them as `content`."""

    __slots__ = ("_dialect", "_inject", "_large", "_tail", "content", "over", "reader", "splitter")

    def __init__(self, dialect: str, reader: StreamReader, splitter: Splitter, inject: bool) -> None:
        self._dialect = dialect
        self._inject = inject
        self.reader = reader
        self.splitter = splitter
        self.content = 0  # events that carry some of the answer: about a token each
        self.over: Verdict | None = None  # END, or what broke it
        self._large = b""  # the beginning of the event that is passing in pieces
        self._tail = b""

    def take(self, data: bytes, begun: bool) -> list[Event]:
        """What passes on of the events that `data` finishes. Raises EventTooLarge."""
        passed: list[Event] = []
        for event in self.splitter.feed(data):
            payload = event.data
            if payload is not None:
                verdict = self.reader.event(payload)
            elif len(event.raw) > _COMMENT_BYTES or self._large:
                verdict = self._piece(event.raw)
            else:
                if begun:
                    passed.append(event)
                continue
            self.judge(event, verdict, passed)
            if self.over is not None:
                break
        return passed

    def judge(self, event: Event, verdict: Verdict, passed: list[Event]) -> None:
        """Adds an event to those that pass on, if it does; where the stream is over with it, `over` says so."""
        if verdict is _PASS:
            self.content += 1
            passed.append(event)
        elif verdict is _USAGE:
            if not self._inject:
                passed.append(event)
        else:
            self.over = verdict
            if verdict is _END:
                passed.append(event)

    def _piece(self, raw: bytes) -> Verdict:
        self._large = self._large or raw[:_COMMENT_BYTES]
        self._tail = (self._tail + raw)[-TAIL_BYTES:]
        if not raw.endswith(_BLANK_LINES):
            return _PASS
        verdict = read_large(self._dialect, self.reader.reading, self._large, self._tail)
        self._large = self._tail = b""
        return verdict
