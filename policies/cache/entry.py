"""An answer as it is kept: what it said, when, and what it cost. Pure.

Rules: kept whole, whichever form it came in, and given in the form that is asked for. A hit has its own id and time
of making, as an answer has; everything else is the original's.
"""

from __future__ import annotations

import re
import zlib
from typing import Any, Final

import msgspec
import orjson

from proxy.body import Body, scan
from proxy.dialects.unrolling import unrolled
from proxy.errors import WeirError

_PACKED_BYTES: Final = 512  # below that, packing costs more than it saves
_PREFIX: Final = re.compile(r"[A-Za-z]+[-_]")
_DEEP: Final = 1 << 20


class Entry(msgspec.Struct, frozen=True):
    """One answer. `body` is the whole answer's JSON (or other bytes, for speech); times are Unix seconds."""

    key: str
    body: bytes
    kind: str  # content type
    dialect: str | None
    made_s: float
    model: str  # asked for at this layer
    served: str | None
    tokens: dict[str, int]
    nanodollars: int | None
    ttl_s: float
    tags: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Entry {self.key} {len(self.body)} bytes>"

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        return len(self.body) + 600


class _Packed(msgspec.Struct, array_like=True):
    packed: bool
    body: bytes
    rest: dict[str, Any]


_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(_Packed).decode


def encoded(entry: Entry) -> bytes:
    """For the Store: its body packed, if that makes it smaller."""
    body = zlib.compress(entry.body, 6) if len(entry.body) > _PACKED_BYTES else entry.body
    packed = len(body) < len(entry.body)
    rest = {name: getattr(entry, name) for name in entry.__struct_fields__ if name != "body"}
    return _pack(_Packed(packed, body if packed else entry.body, rest))


def decoded(data: bytes) -> Entry | None:
    """Back from the Store; None for what another version wrote, or damage."""
    try:
        told = _unpack(data)
        body = zlib.decompress(told.body) if told.packed else told.body
        return msgspec.convert({**told.rest, "body": body}, Entry)
    except (msgspec.MsgspecError, zlib.error, UnicodeDecodeError):
        return None


class Rendering:
    """An entry made ready: its id and time cut out, so that a hit only joins pieces."""

    __slots__ = ("_cuts", "_events", "_raw", "entry", "id_prefix")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.id_prefix = ""
        self._raw = entry.body
        self._cuts: list[tuple[str, int, int]] = []
        self._events: dict[bool, list[bytes]] = {}
        if entry.dialect is not None:
            self._cut(scan_kept(entry.body))

    def _cut(self, body: Body) -> None:
        for name in ("id", "created", "created_at"):
            span = body.span(name) if name in body else None
            value = body.get(name)
            if span is None or value is None:
                continue
            if name == "id" and isinstance(value, str):
                found = _PREFIX.match(value)
                self.id_prefix = found[0] if found else ""
            elif not isinstance(value, int):
                continue
            self._cuts.append((name, *span))
        self._cuts.sort(key=lambda cut: cut[1])

    def whole(self, fresh_id: str, now_s: float) -> bytes:
        """The answer's body, with its own id and time of making."""
        if not self._cuts:
            return self._raw
        parts, at = [], 0
        for name, start, end in self._cuts:
            parts.append(self._raw[at:start])
            parts.append(b'"%b%b"' % (self.id_prefix.encode(), fresh_id.encode()) if name == "id" else b"%d" % now_s)
            at = end
        parts.append(self._raw[at:])
        return b"".join(parts)

    def streamed(self, fresh_id: str, now_s: float, *, include_usage: bool) -> bytes | None:
        """The answer as server-sent events; None where its dialect can't be streamed."""
        dialect = self.entry.dialect
        if dialect is None:
            return None
        answer = orjson.loads(self.whole(fresh_id, now_s))
        events = unrolled(dialect, answer, include_usage=include_usage)
        if events is None:
            return None
        lines = [_line(name, told) for name, told in events]
        if dialect == "chat":
            lines.append(b"data: [DONE]\n\n")
        return b"".join(lines)


def scan_kept(raw: bytes) -> Body:
    """The answer as a body whose fields can be found."""
    try:
        return scan(raw, _DEEP)
    except WeirError as error:
        raise ValueError("not a JSON object") from error


def _line(name: str | None, told: dict[str, Any]) -> bytes:
    data = orjson.dumps(told)
    return b"data: %b\n\n" % data if name is None else b"event: %b\ndata: %b\n\n" % (name.encode(), data)
