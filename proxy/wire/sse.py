"""Server-sent events as bytes: where one ends, and what its `data:` lines say.

Everything here is pure and works on bytes: partial UTF-8 is never decoded, and the same bytes give the same events at
every split point (WHATWG HTML, "Parsing an event stream"). An event keeps the exact bytes it came in (`raw`), so that a
relay writes what it read. One blank line ends an event; line ends may be LF, CR LF or CR.
"""

from __future__ import annotations

import re
from typing import Final

UNPARSED_EVENT_BYTES: Final = 64 * 1024
EVENT_BYTES: Final = 16 * 1024 * 1024

# Two line ends in a row. A CR that is the last byte seen may be half of a CR LF, so a lone CR counts only when another
# byte follows it (`Splitter.feed` keeps the tail); the second line end may be a lone CR at the end: nothing that can
# follow it changes where the event ended, except a LF, which then leads the next event's bytes.
_BLANK: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class Event:
    """One event, or one piece of an answer that isn't a stream of events.

    `raw` is what goes on the wire, with its terminator. `data` is the payload of the `data:` lines, joined by LF;
    None for a comment (heartbeat), for a piece of an event too large to look into, and for bytes of an answer that
    isn't an event stream.
    """

    __slots__ = ("data", "raw")

    def __init__(self, raw: bytes, data: bytes | None) -> None:
        self.raw = raw
        self.data = data

    def __repr__(self) -> str:
        return f"Event({self.raw[:60]!r}{'…' if len(self.raw) > 60 else ''})"


def event(data: bytes, name: bytes | None = None) -> Event:
    """An event made by us, for example an in-band error."""
    head = b"event: " + name + b"\n" if name else b""
    return Event(head + b"data: " + data + b"\n\n", data)


def comment(text: bytes) -> Event:
    """A comment: ignored by every client, keeps the connection alive."""
    return Event(b": " + text + b"\n\n", None)


class EventTooLarge(Exception):  # noqa: N818
    """One event was longer than the limit."""


class Splitter:
    """Cuts a stream of bytes into events. Feed it what was read; it keeps what isn't finished.

    An event that grows over `unparsed_bytes` is handed on in pieces with `data=None`, so that no more than that is
    ever held; over `event_bytes` it raises EventTooLarge.
    """

    __slots__ = ("_event_bytes", "_fresh", "_held", "_lead", "_oversize", "_swallow", "_unparsed_bytes")

    def __init__(self, unparsed_bytes: int = UNPARSED_EVENT_BYTES, event_bytes: int = EVENT_BYTES) -> None:
        self._unparsed_bytes = unparsed_bytes
        self._event_bytes = event_bytes
        self._fresh = True  # nothing is held over from the reads before
        self._held = b""
        self._oversize = 0  # bytes of the present event that were already handed on in pieces
        self._swallow = False  # the last event ended in a lone CR: a LF that follows belongs to it
        self._lead = 0  # 1 where what is held begins with such a LF, which goes on with the next event's bytes

    @property
    def unfinished(self) -> bool:
        """True while bytes of an event without its blank line are held: at the end of a stream that is a cut event."""
        return bool(self._held.strip(b"\r\n")) or self._oversize > 0

    @property
    def amid_event(self) -> bool:
        """Whether a part of an event that isn't finished was handed on."""
        return self._oversize > 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` finishes, in order."""
        payload = self.alone(data)
        if payload is not None:
            return [Event(data, payload)]
        if self._fresh and data.endswith(b"\n\n") and len(data) <= self._unparsed_bytes and data.find(b"\r") < 0:
            raws = [part + b"\n\n" for part in data[:-2].split(b"\n\n")]
            return [Event(raw, _payload(raw)) for raw in raws]
        return self._feed_slowly(data)

    def alone(self, data: bytes) -> bytes | None:
        """The payload of bytes that are one event of one line, as nearly every read is; None where they must be fed."""
        if not self._fresh or data[:6] != b"data: " or data[-2:] != b"\n\n" or len(data) > self._unparsed_bytes:
            return None
        payload = data[6:-2]  # slices, and `in` with numbers: methods of bytes cost several times as much
        return None if 0x0A in payload or 0x0D in payload else payload

    def _feed_slowly(self, data: bytes) -> list[Event]:
        try:
            return self._searched(data)
        finally:
            self._fresh = not (self._held or self._swallow or self._oversize)

    def _searched(self, data: bytes) -> list[Event]:
        if self._swallow and data:
            self._swallow = False
            self._lead = int(data.startswith(b"\n"))
        held = self._held + data
        events: list[Event] = []
        start = 0
        # A blank line may straddle the two reads, so look again at the last bytes that were held (at most CR LF CR).
        search_from = max(self._lead, len(self._held) - 3)
        while match := _BLANK.search(held, search_from):
            self._lead = 0
            if match.end() == len(held) and match.group().endswith(b"\r"):
                self._swallow = True
            events.append(self._finished(held[start : match.end()]))
            start = search_from = match.end()
        self._held = held[start:]
        if len(self._held) > self._unparsed_bytes:
            self._lead = 0
            events.append(self._piece())
        return events

    def _finished(self, raw: bytes) -> Event:
        if self._oversize:
            self._check(len(raw))
            self._oversize = 0
            return Event(raw, None)
        self._check(len(raw))
        if len(raw) > self._unparsed_bytes:
            return Event(raw, None)
        return Event(raw, _joined(raw) if b"\r" in raw else _payload(raw))

    def _piece(self) -> Event:
        """Hands on all but the last three bytes, in which a blank line may have begun."""
        piece, self._held = self._held[:-3], self._held[-3:]
        self._check(len(piece))
        self._oversize += len(piece)
        return Event(piece, None)

    def _check(self, size: int) -> None:
        if self._oversize + size > self._event_bytes:
            raise EventTooLarge

    def rest(self) -> bytes:
        """What is held and will never be finished, given once."""
        rest, self._held, self._oversize = self._held, b"", 0
        return rest


def _payload(raw: bytes) -> bytes | None:
    """The joined `data:` lines of one event whose lines end in LF, or None if it has none."""
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2:
        return raw[6:-2]
    return _joined(raw)


def _joined(raw: bytes) -> bytes | None:
    lines = []
    for line in _LINE_END.split(raw):
        if line.startswith(b"data:"):
            lines.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines) if lines else None
