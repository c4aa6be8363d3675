"""An answer before it is timed bytes: status, headers, and a body, a stream of events, or a source of blocks.

`Reply` is what the dialects build and what most faults edit; `Script` is how it goes over the wire, which the others
edit. `script` turns the one into the other: the only place that knows HTTP/1.1 framing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import msgspec
import orjson

from proxy.simulator.playing import Frame
from proxy.simulator.usage import Tally

Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {529: b"Overloaded"}


class Framing(enum.Enum):
    """How the end of the body is told."""

    AUTO = "auto"  # a length for a body, chunks for a stream
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until-close"


class Bill(msgspec.Struct):
    """Who pays for an answer: the model, the tier and the tokens; the connection adds the key."""

    model: str
    endpoint: str
    tally: Tally
    tier: str = "default"


class Reply(msgspec.Struct):
    """An answer. Exactly one of `body`, `events` (frames of whole SSE events) and `blocks` (with `length`) is used."""

    status: int = 200
    content_type: bytes = JSON
    headers: Headers = []
    body: bytes = b""
    events: Iterator[Frame] | None = None
    terminal: bytes = b""
    blocks: Iterator[bytes] | None = None
    length: int | None = None
    delay: float = 0.0
    bill: Bill | None = None
    kept: tuple[str, bytes] | None = None
    framing: Framing = Framing.AUTO
    early: bool = False
    keep: bool = True
    before: bytes = b""
    raw_headers: bytes = b""
    trailers: bytes = b""


class Afterwards(enum.Enum):
    """What becomes of a connection that is kept alive after an answer."""

    KEEP = "keep"
    CLOSE = "close"  # at once, although the answer promised to keep it
    CLOSE_NEXT = "close-next"  # when the next request comes, without a byte


class Script(msgspec.Struct):
    """What goes over the wire and when; `single` writes one frame a turn of the loop, so that reads see it split."""

    frames: Iterator[Frame]
    keep: bool
    single: bool = False
    afterwards: Afterwards = Afterwards.KEEP


class Performance(msgspec.Struct):
    """A script, and the bill for it."""

    script: Script
    bill: Bill | None


def dumps(value: Any) -> bytes:
    """Compact JSON."""
    return orjson.dumps(value)


def jsonly(value: Any, status: int = 200, **fields: Any) -> Reply:
    """A unary JSON answer."""
    return Reply(status, body=orjson.dumps(value), **fields)


def script(reply: Reply, common: bytes, keep: bool) -> Script:
    """The frames of a reply. `common` are header lines of every answer; `keep`: the client keeps alive."""
    keep = keep and reply.keep and reply.framing is not Framing.UNTIL_CLOSE
    streamed = reply.events is not None
    chunked = reply.framing is Framing.CHUNKED or (reply.framing is Framing.AUTO and streamed)
    head = _head(reply, common, keep, chunked)
    if reply.events is not None:
        return Script(_streamed(reply, head, chunked), keep)
    if reply.blocks is not None:
        return Script(_blocks(reply.blocks, head), keep)
    return Script(_unary(reply, head, chunked), keep)


def _head(reply: Reply, common: bytes, keep: bool, chunked: bool) -> bytes:
    parts = [reply.before, b"HTTP/1.1 %d %b\r\n" % (reply.status, _REASONS.get(reply.status, b"Unknown")), common]
    if reply.content_type:
        parts.append(b"content-type: %b\r\n" % reply.content_type)
    parts += [b"%b: %b\r\n" % header for header in reply.headers]
    if chunked:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif reply.framing is Framing.AUTO and reply.status != 204:
        parts.append(b"content-length: %d\r\n" % (len(reply.body) if reply.length is None else reply.length))
    if not keep:
        parts.append(b"connection: close\r\n")
    parts += [reply.raw_headers, b"\r\n"]
    return b"".join(parts)


def _unary(reply: Reply, head: bytes, chunked: bool) -> Iterator[Frame]:
    output = reply.bill.tally.output if reply.bill else 0
    body = reply.body
    if chunked:
        body = b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, reply.trailers) if body else b"0\r\n\r\n"
    yield reply.delay, head + body, output


def _streamed(reply: Reply, head: bytes, chunked: bool) -> Iterator[Frame]:
    due, output = 0.0, 0
    assert reply.events is not None
    if reply.early:
        yield 0.0, head, 0
        head = b""
    for due, event, output in reply.events:
        if not isinstance(event, bytes):
            if head:
                yield due, head, 0
            yield due, event, output
            return
        yield due, head + (b"%x\r\n%b\r\n" % (len(event), event) if chunked else event), output
        head = b""
    if reply.terminal:
        end = reply.terminal
        yield due, head + (b"%x\r\n%b\r\n" % (len(end), end) if chunked else end), output
        head = b""
    if chunked:
        yield due, b"%b0\r\n%b\r\n" % (head, reply.trailers), output


def _blocks(blocks: Iterator[bytes], head: bytes) -> Iterator[Frame]:
    yield 0.0, head, 0
    for block in blocks:
        yield 0.0, block, 0
