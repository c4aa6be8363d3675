"""The few bytes of HTTP/1.1 that the load generators speak for themselves: requests built once, answers found in a
buffer.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.payloads import PATH

HEADERS = (
    ("Authorization", "Bearer sk-bench-0123456789abcdef0123456789abcdef"),
    ("Content-Type", "application/json"),
    ("Accept", "application/json"),
    ("User-Agent", "bench/1"),
)


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int


def address(url: str) -> Address:
    split = urlsplit(url)
    assert split.hostname and split.port, url
    return Address(split.hostname, split.port)


def request(url: str, body: bytes) -> bytes:
    """The whole request, headers and body, to the chat endpoint at `url` (an origin)."""
    where = address(url)
    lines = [
        f"POST {PATH} HTTP/1.1",
        f"Host: {where.host}:{where.port}",
        *(f"{name}: {value}" for name, value in HEADERS),
    ]
    return ("\r\n".join([*lines, f"Content-Length: {len(body)}"]) + "\r\n\r\n").encode() + body


def answer_end(buffer: bytes | bytearray) -> int:
    """Where the answer at the start of the buffer ends; 0 while it is incomplete. Raises ValueError when it isn't a
    200.
    """
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return 0
    if not buffer.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"not a 200: {bytes(buffer[:300])!r}")
    lower = bytes(buffer[:head]).lower()
    at = lower.find(b"\r\ncontent-length:")
    if at >= 0:
        end = head + 4 + int(lower[at + 17 :].split(b"\r\n", 1)[0])
        return end if len(buffer) >= end else 0
    last = buffer.find(b"0\r\n\r\n", head + 4)
    return last + 5 if last >= 0 else 0


def answer_body(answer: bytes) -> bytes:
    """The body of a complete answer, freed of its chunks."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"\r\ntransfer-encoding: chunked" not in head.lower():
        return body
    parts: list[bytes] = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        parts.append(rest[:length])
        body = rest[length + 2 :]
    return b"".join(parts)
