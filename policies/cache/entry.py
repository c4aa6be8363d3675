"""An answer as it is kept: what it said, when, and what it cost. Pure.

Rules: kept whole, whichever form it came in, and given in the form that is asked for. A hit has its own id and time
of making, as an answer has; everything else is the original's.
"""

from __future__ import annotations

import re
import secrets
import zlib
from typing import Any, Final

import msgspec
import orjson

from proxy.body import Body, scan
from proxy.dialects.unrolling import unrolled
from proxy.errors import WeirError
from proxy.exchange import Saving
from proxy.wire.headers import Headers

_PACKED_BYTES: Final = 512  # below that, packing costs more than it saves
_LEVEL: Final = 1  # of zlib: 60 MB a second, at nine tenths of what level 6 saves
_PREFIX: Final = re.compile(r"[A-Za-z]+[-_]")
_DEEP: Final = 1 << 20
_AROUND_BYTES: Final = 2048  # the structures around an entry's body; measured, see tests/policies/cache/test_tiers.py
_TAG_BYTES: Final = 64
_OWN: Final = ("id", "created", "created_at", "completed_at")


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
        """What it takes in memory, with all that is kept about it: rather too much than too little."""
        return len(self.body) + _AROUND_BYTES + sum([_TAG_BYTES + len(tag) for tag in self.tags])


class _Packed(msgspec.Struct, array_like=True):
    packed: bool
    body: bytes
    rest: dict[str, Any]


_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(_Packed).decode


def encoded(entry: Entry) -> bytes:
    """For the Store: its body packed, if that makes it smaller."""
    body = zlib.compress(entry.body, _LEVEL) if len(entry.body) > _PACKED_BYTES else entry.body
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
    """An entry made ready: its id and times cut out, so that a hit only joins pieces.

    `size_bytes` grows with the forms that were asked for and are kept.
    """

    __slots__ = (
        "_cuts", "_prefix", "_streams", "entry", "headers", "kind", "request_id", "saving", "size_bytes", "told",
    )  # fmt: skip

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.size_bytes = entry.size_bytes
        self.kind = b"content-type", entry.kind.encode("latin-1")
        self.request_id = b"request-id" if entry.dialect == "anthropic" else b"x-request-id"
        self.saving: Saving | None = None  # these three are for whoever gives it
        self.told: Any = None
        self.headers: Headers = []
        self._prefix = b""
        self._cuts: list[tuple[bool, int, int]] = []  # whether it is the id; from, to
        self._streams: dict[bool, Template | None] = {}
        if entry.dialect is not None:
            self._cut(scan_kept(entry.body))

    def _cut(self, body: Body) -> None:
        for name in _OWN:
            span = body.span(name) if name in body else None
            value = body.get(name)
            if span is None or value is None:
                continue
            if name == "id" and isinstance(value, str):
                found = _PREFIX.match(value)
                self._prefix = found[0].encode() if found else b""
            elif not isinstance(value, int):
                continue
            self._cuts.append((name == "id", *span))
        self._cuts.sort(key=lambda cut: cut[1])

    def whole(self, fresh_id: str, now_s: float) -> bytes:
        """The answer's body, with its own id and time of making."""
        return self._filled(b'"%b%b"' % (self._prefix, fresh_id.encode()), b"%d" % now_s)

    def _filled(self, fresh_id: bytes, now: bytes) -> bytes:
        parts: list[bytes] = []
        raw, at = self.entry.body, 0
        for is_id, start, end in self._cuts:
            parts += (raw[at:start], fresh_id if is_id else now)
            at = end
        parts.append(raw[at:])
        return b"".join(parts)

    def streamed(self, fresh_id: str, now_s: float, *, include_usage: bool) -> bytes | None:
        """The answer as server-sent events; None where its dialect can't be streamed."""
        template = self._streams.get(include_usage, _UNMADE)
        if template is _UNMADE:
            template = self._template(include_usage)
            if template is None or template.size_bytes <= _KEPT_STREAM_BYTES:
                self._streams[include_usage] = template
                self.size_bytes += 0 if template is None else template.size_bytes
        return None if template is None else template.filled(fresh_id.encode(), b"%d" % now_s)

    def _template(self, include_usage: bool) -> Template | None:
        dialect = self.entry.dialect
        if dialect is None:
            return None
        answer = orjson.loads(self._filled(b'"%b%b"' % (self._prefix, ID_MARK), TIME_MARK))
        try:
            events = unrolled(dialect, answer, include_usage=include_usage)
            if events is None:
                return None
            lines = [_line(name, told) for name, told in events]
        except (ValueError, TypeError, KeyError, AttributeError):  # of a form that nobody foresaw, or too deep
            return None
        if dialect == "chat":
            lines.append(b"data: [DONE]\n\n")
        return Template(b"".join(lines))


class Template:
    """A text with gaps for an id and a time."""

    __slots__ = ("_now", "_pieces", "_text")

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._now = b""
        self._pieces: list[bytes] = []  # the text of this second, cut where the id stands

    @property
    def size_bytes(self) -> int:
        """What it takes in memory: the text twice, and its pieces."""
        return 2 * len(self._text) + 64 * self._text.count(ID_MARK) + 256

    def filled(self, fresh_id: bytes, now: bytes) -> bytes:
        """The text."""
        if self._now != now:
            self._now, self._pieces = now, self._text.replace(TIME_MARK, now).split(ID_MARK)
        return fresh_id.join(self._pieces)


# Stand for an id and a time. Chosen anew by each process, so that no answer can be made to hold them.
ID_MARK: Final = secrets.token_hex(16).encode()
TIME_MARK: Final = b"%d" % (10**17 + secrets.randbelow(9 * 10**17))
AGE_MARK: Final = 10**14 + secrets.randbelow(9 * 10**14)  # likewise, for an age
_KEPT_STREAM_BYTES: Final = 1024 * 1024
_UNMADE: Final = Template(b"")


def scan_kept(raw: bytes) -> Body:
    """The answer as a body whose fields can be found."""
    try:
        return scan(raw, _DEEP)
    except WeirError as error:
        raise ValueError("not a JSON object") from error


def _line(name: str | None, told: dict[str, Any]) -> bytes:
    data = orjson.dumps(told)
    return b"data: %b\n\n" % data if name is None else b"event: %b\ndata: %b\n\n" % (name.encode(), data)
