"""Bodies that come compressed although that wasn't asked for: unpacked as they come, bounded."""

from __future__ import annotations

import zlib
from typing import Final

CODINGS: Final = (b"gzip", b"x-gzip", b"deflate")
_AT_LEAST: Final = 64 * 1024
_MOST_TIMES: Final = 200  # no honest answer is that repetitive


class Inflater:
    """Unpacks gzip or zlib, by its header."""

    __slots__ = ("_unpacking",)

    def __init__(self) -> None:
        self._unpacking = zlib.decompressobj(47)

    def feed(self, data: bytes) -> bytes:
        """What `data` unpacks to. Raises ValueError, in words for whoever is told."""
        try:
            out = self._unpacking.decompress(data, max(_AT_LEAST, _MOST_TIMES * len(data)))
        except zlib.error:
            raise ValueError("its compressed body is damaged") from None
        if self._unpacking.unconsumed_tail:
            raise ValueError("its compressed body unpacks to too much")
        return out

    @property
    def whole(self) -> bool:
        """Whether its end came."""
        return self._unpacking.eof
