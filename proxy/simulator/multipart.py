"""multipart/form-data read as it arrives: fields are kept, files are handed on in pieces and never held.

Raises ValueError for what is not multipart. A field of more than `FIELD_BYTES` is cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable

FIELD_BYTES = 1 << 20

_BOUNDARY = re.compile(rb'boundary=(?:"([^"]+)"|([^;\s]+))', re.I)
_NAME = re.compile(rb'[;\s]name="((?:[^"\\]|\\.)*)"', re.I)
_FILENAME = re.compile(rb'filename="((?:[^"\\]|\\.)*)"', re.I)


class Multipart:
    """A push parser: `feed` the body, read `fields`, `filename` and `complete` after it."""

    def __init__(self, content_type: bytes, sink: Callable[[bytes], object]) -> None:
        found = _BOUNDARY.search(content_type)
        if not content_type.lower().startswith(b"multipart/form-data") or not found:
            raise ValueError("the body is not multipart/form-data with a boundary")
        self._mark = b"\r\n--" + (found[1] or found[2])
        self._sink = sink
        # The first boundary has no line break before it: with one in front, all are found alike.
        self._rest = b"\r\n"
        self._part: str | None = None
        self._in_head = False
        self._seen = False
        self._is_file = False
        self.fields: dict[str, bytes] = {}
        self.filename = ""
        self.complete = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        rest = self._rest + data
        while not self.complete:
            taken = self._head(rest) if self._in_head else self._body(rest)
            if taken is None:
                break
            rest = taken
        # Whatever could still be the start of a boundary waits for the next bytes.
        self._rest = b"" if self.complete else rest if self._in_head else self._spill(rest)

    def _spill(self, rest: bytes) -> bytes:
        keep = len(self._mark) + 2
        if len(rest) <= keep or rest.find(self._mark, max(0, len(rest) - keep)) >= 0:
            return rest
        self._take(rest[:-keep])
        return rest[-keep:]

    def _body(self, rest: bytes) -> bytes | None:
        at = rest.find(self._mark)
        after = at + len(self._mark)
        if at < 0 or len(rest) < after + 2:
            return None
        self._take(rest[:at])
        self._seen = True
        if rest[after : after + 2] == b"--":
            self.complete = True
            return b""
        self._in_head = True
        return rest[after:]

    def _head(self, rest: bytes) -> bytes | None:
        at = rest.find(b"\r\n\r\n")
        if at < 0:
            if len(rest) > 65_536:
                raise ValueError("a part's headers are too long")
            return None
        head = rest[:at]
        name, filename = _NAME.search(head), _FILENAME.search(head)
        if not name:
            raise ValueError("a part has no name")
        self._part = name[1].decode(errors="replace")
        self._is_file = filename is not None
        if filename:
            self.filename = filename[1].decode(errors="replace")
        else:
            self.fields[self._part] = b""
        self._in_head = False
        return rest[at + 4 :]

    def _take(self, data: bytes) -> None:
        if self._part is None or not data:
            return
        if self._is_file:
            self._sink(data)
        else:
            self.fields[self._part] = (self.fields[self._part] + data)[:FIELD_BYTES]
