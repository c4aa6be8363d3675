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

from proxy.wire.call import Call, Intake
from proxy.wire.head import Head
from proxy.wire.headers import Headers

_ORDINARY: Final = frozenset((b"host", b"connection"))
_LENGTH: Final = re.compile(rb"\r\nContent-Length: ([0-9]{1,10})\r\n", re.IGNORECASE)
_END: Final = b"\r\n\r\n"
_DIGITS: Final = 11  # ten and the CR that ends them


class Template:
    """A head with a gap where its Content-Length stood."""

    __slots__ = ("_head", "_prefix", "_suffix", "_whole_bytes")

    def __init__(self, prefix: bytes, suffix: bytes) -> None:
        self._prefix = prefix
        self._suffix = suffix
        self._head = b"?"  # with the digits that it had the last time, and how long the whole request was
        self._whole_bytes = -1

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
        if len(data) == self._whole_bytes and data.startswith(self._head):
            return data[len(self._head) :]
        prefix, suffix = self._prefix, self._suffix
        if not data.startswith(prefix):
            return None
        start = len(prefix)
        end = data.find(b"\r", start, start + _DIGITS)
        digits = data[start:end]
        if not digits.isdigit() or not data.startswith(suffix, end):
            return None
        at = end + len(suffix)
        if len(data) - at != int(digits):
            return None
        self._head, self._whole_bytes = data[:at], len(data)
        return data[at:]


class Last:
    """The last request of a connection. Clients send the same head again: what was found out about it still holds."""

    __slots__ = ("_method", "_raw", "_target", "head", "intake", "special", "template")

    def __init__(
        self, method: bytes, target: bytes, raw: Headers, head: Head, special: dict[bytes, bytes], intake: Intake
    ) -> None:
        self._method = method
        self._target = target
        self._raw = raw
        self.head = head
        self.special = special
        self.intake = intake
        self.template: Template | None = None

    def learn(self, data: bytes, call: Call) -> None:
        """Notes the bytes of the head, where the whole request came in one read and nothing about it is special."""
        plain = call.head.version == "1.1" and call.keep_alive and call.intake.gather and call.head.content_length
        if self.template is None and plain and self.special.keys() <= _ORDINARY and isinstance(call.body, bytes):
            self.template = Template.of(data, len(call.body))

    def is_like(self, method: bytes, target: bytes, version: str, raw: Headers) -> bool:
        """Whether a request is the same but for its body and length."""
        return target == self._target and raw == self._raw and method == self._method and version == self.head.version
