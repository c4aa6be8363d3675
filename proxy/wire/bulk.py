"""Large request bodies: read from the socket to where they stay. The parser, and joining pieces, would copy each byte.

Rules: the length is known, and the body is gathered, not streamed. Memory is asked for at once but used as bytes come:
the system gives pages when they are written to, so a client that announces much and sends little takes little.
"""

from __future__ import annotations

import asyncio
import io
from typing import Final, Protocol

BULK_BYTES: Final = 256 * 1024


class Receiver(Protocol):
    """The connection that is being read."""

    def connection_lost(self, exc: Exception | None) -> None:
        """As of `asyncio.Protocol`, like the others."""

    def eof_received(self) -> bool: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def on_bulk(self, count: int, whole: bool) -> None:
        """So many more bytes of the body came."""


class Bulk(asyncio.BufferedProtocol):
    """Takes the place of a connection as its transport's protocol until the body is whole."""

    def __init__(self, connection: Receiver, begun: list[bytes], length: int) -> None:
        self._connection = connection
        # The one way to fill a `bytes` without a copy of it: its file gives the object away again that it was made of.
        self._file = io.BytesIO(bytes(length))
        self._room = self._file.getbuffer()
        self._came = 0
        for piece in begun:
            self._room[self._came : self._came + len(piece)] = piece
            self._came += len(piece)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room[self._came :]

    def buffer_updated(self, nbytes: int) -> None:
        self._came += nbytes
        self._connection.on_bulk(nbytes, self._came == len(self._room))

    def taken(self) -> bytes:
        """The whole body. While the transport holds the buffer, as in `on_bulk`, this would be a copy."""
        self._room.release()
        return self._file.getvalue()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
