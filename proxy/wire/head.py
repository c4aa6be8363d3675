"""A request's head: its fields, and what RFC 9112 asks of them that llhttp doesn't ask itself. Pure.

Rule: anything ambiguous about what is asked for, or where the request ends, is refused (section 11.2).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.errors import WeirError
from proxy.wire.headers import Headers

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?[ \t]*\Z")
_TARGET: Final = re.compile(rb"/[\x21-\x22\x24-\x7e\x80-\xff]*\Z")  # no control byte, space or fragment
_DIGITS: Final = re.compile(rb"[0-9]{1,19}[ \t]*\Z")  # llhttp leaves the white space after a value
# In a decoded path: what a server may resolve to another path than the one that our rules were asked about.
_AMBIGUOUS: Final = re.compile(rb"//|/\.\.?(?:/|\Z)|[\x00-\x1f\x7f\\]")
_SPECIAL: Final = frozenset((b"host", b"transfer-encoding", b"connection", b"expect", b"upgrade"))


class Head:
    """A request's first part, checked. `target` is in origin form; `path` is the part before `?`, not decoded."""

    __slots__ = ("chunked", "content_length", "headers", "keep_alive", "method", "path", "target", "version")

    def __init__(self, method: str, target: bytes, version: str, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.path = target.partition(b"?")[0].decode("latin-1")
        self.version = version
        self.headers = headers
        self.keep_alive = False
        self.content_length: int | None = None
        self.chunked = False

    def copy(self) -> Head:
        """The same head, its framing not yet known."""
        head = Head.__new__(Head)
        head.method, head.target, head.path = self.method, self.target, self.path
        head.version, head.headers = self.version, self.headers
        head.keep_alive, head.content_length, head.chunked = False, None, False
        return head

    @property
    def has_body(self) -> bool:
        """Whether body bytes follow."""
        return self.chunked or bool(self.content_length)


def fields(raw: Headers, special: dict[bytes, bytes], line_bytes: int, most: int) -> Headers:
    """The header fields with lower-case names; those that concern the connection are noted in `special`."""
    if len(raw) > most:
        raise too_many(most)
    headers: Headers = []
    for name, value in raw:
        if len(name) + len(value) + 4 > line_bytes:
            raise too_large("A header line", line_bytes)
        name = name.lower()
        if name in _SPECIAL:
            if name in special:
                if name != b"connection":
                    raise bad(f"More than one {name.decode()} header was sent.")
                value = special[name] + b"," + value
            special[name] = value
        headers.append((name, value))
    return headers


def check(head: Head, special: dict[bytes, bytes]) -> None:
    """What RFC 9112 asks of a request's head and llhttp doesn't ask itself."""
    if head.version not in ("1.1", "1.0"):
        raise WeirError(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.", code="http_version", close=True)
    if head.method == "CONNECT":
        raise WeirError(405, "This is not a forward proxy: CONNECT is not supported.", code="method", close=True)
    if head.target.startswith((b"http://", b"https://")):  # absolute form, RFC 9112, section 3.2.2
        _, _, rest = head.target.partition(b"://")
        authority, slash, path = rest.partition(b"/")
        if not authority or not _HOST.match(authority):
            raise bad("The request target names no valid host.")
        head.target = slash + path or b"/"
        head.path = head.target.partition(b"?")[0].decode("latin-1")
    if not _TARGET.match(head.target) and not (head.target == b"*" and head.method == "OPTIONS"):
        raise bad("The request target must begin with / and hold no space, control byte or fragment.")
    path = head.target.partition(b"?")[0]
    if _AMBIGUOUS.search(unquote_to_bytes(path) if b"%" in path else path):
        raise bad("The path holds an empty segment, a dot segment, a backslash or a control byte.")
    host = special.get(b"host")
    if host is None and head.version == "1.1":
        raise bad("An HTTP/1.1 request needs a Host header.")
    if host is not None and not _HOST.match(host):
        raise bad("The Host header is not a host name with an optional port.")
    if special.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise WeirError(417, "The only expectation understood is 100-continue.", code="expect", close=True)


def frame(head: Head, coding: bytes | None, length: bytes | None) -> None:
    """Where the body ends (RFC 9112, section 6)."""
    if coding is not None:
        if length is not None:
            raise bad("Content-Length and Transfer-Encoding exclude each other.")
        if coding.strip().lower() != b"chunked" or head.version == "1.0":
            raise bad("The only transfer coding understood is `chunked`, in HTTP/1.1.")
        head.chunked = True
    elif length is not None:
        if not _DIGITS.match(length):
            raise bad("Content-Length must be a decimal number.")
        head.content_length = int(length)


def bad(message: str) -> WeirError:
    return WeirError(400, message, code="bad_request", close=True)


def too_large(what: str, limit: int, status: int = 431) -> WeirError:
    return WeirError(status, f"{what} is longer than {limit} bytes.", code="headers_too_large", close=True)


def too_many(limit: int) -> WeirError:
    return WeirError(431, f"More than {limit} headers were sent.", code="headers_too_large", close=True)


def body_too_large(limit: int) -> WeirError:
    message = f"The request's body is larger than {limit} bytes, the limit for this endpoint."
    return WeirError(413, message, code="request_too_large", close=True)
