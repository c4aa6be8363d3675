"""A client's next request, recognised by its bytes.

A client that keeps its connection sends the same head again and again; only the digits of Content-Length change.
Where a whole request came in one read and its head is, byte for byte but for these digits, one that llhttp has parsed
and the server has checked on this very connection, parsing it again can only give the same: so it isn't parsed again.
Everything else takes the ordinary way.

Pure: bytes in, an answer out.
"""

from __future__ import annotations

import re
from typing import Final

_LENGTH: Final = re.compile(rb"\r\nContent-Length: ([0-9]{1,10})\r\n", re.IGNORECASE)
_END: Final = b"\r\n\r\n"
_DIGITS: Final = 11  # ten and the CR that ends them


class Template:
    """A head with a gap where its Content-Length stood."""

    __slots__ = ("_prefix", "_suffix")

    def __init__(self, prefix: bytes, suffix: bytes) -> None:
        self._prefix = prefix
        self._suffix = suffix

    @classmethod
    def of(cls, data: bytes, body_bytes: int) -> Template | None:
        """The template of a request that came as exactly `data`; None where one read held more or less than it."""
        end = data.find(_END)
        if end < 0 or end + 4 + body_bytes != len(data):
            return None
        found = _LENGTH.search(data, 0, end + 2)
        if found is None or int(found[1]) != body_bytes:
            return None
        return cls(data[: found.start(1)], data[found.end(1) : end + 4])

    def body_of(self, data: bytes) -> bytes | None:
        """The body of a request that came as exactly `data` and has this head; None if it isn't that."""
        prefix, suffix = self._prefix, self._suffix
        if not data.startswith(prefix):
            return None
        start = len(prefix)
        end = data.find(b"\r", start, start + _DIGITS)
        digits = data[start:end]
        if not digits.isdigit() or not data.startswith(suffix, end):
            return None
        body = data[end + len(suffix) :]
        return body if len(body) == int(digits) else None
