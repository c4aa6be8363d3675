"""An event loop without sockets or clocks: transports in memory, time that moves only when nothing is left to do.

Invariants: callbacks run in the order in which they were scheduled, timers fire in order of their time and cost no
waiting, a connection to anywhere is a connection to the scripted upstream. So a run does the same work every time.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_PATIENCE_S = 7200  # timers that only re-arm themselves would go on for ever
Reply = Callable[[bytes], list[bytes]]


class _NoSockets:
    """A selector with nothing to select; when the loop would sleep, its clock jumps."""

    def __init__(self, loop: MemoryLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the data plane waits for something that can't happen in memory")
        self._loop.now += timeout
        if self._loop.now > self._loop.started + _PATIENCE_S:
            raise RuntimeError(f"nothing came of it in {_PATIENCE_S} s of the loop's time: an answer was lost")
        return []

    def close(self) -> None:
        return None


class MemoryLoop(asyncio.BaseEventLoop):
    """Connections made on this loop reach `reply`, which is given what was written and says what comes back, in
    pieces.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.now = self.started = 1_000_000.0
        self.reply = reply
        self.on_deliver: Callable[[], None] | None = None  # where a deliberate slow-down is put in
        self._selector = _NoSockets(self)

    def time(self) -> float:
        return self.now

    def _process_events(self, event_list: list[Any]) -> None:
        assert not event_list

    def _write_to_self(self) -> None:
        return None

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        return None

    async def create_connection(  # type: ignore[override]
        self, factory: Any, *_: Any, sock: Any = None, **__: Any
    ) -> tuple[Any, Any]:
        protocol = factory()
        transport = UpstreamTransport(self, protocol, sock)
        protocol.connection_made(transport)
        return transport, protocol


class MemoryTransport(asyncio.Transport):
    """What every transport in memory shares; `write` is for the subclasses."""

    def __init__(self, loop: MemoryLoop, protocol: Any, sock: socket.socket | None) -> None:
        super().__init__({"socket": sock, "peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._memory_loop, self._protocol, self._sock, self._closing = loop, protocol, sock, False

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        return None

    def resume_reading(self) -> None:
        return None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if self._sock is not None:
                self._sock.close()
            self._memory_loop.call_soon(self._protocol.connection_lost, None)

    abort = close


class UpstreamTransport(MemoryTransport):
    """The proxy's connection to the upstream. The pieces of an answer arrive 10 ms apart on the loop's clock, so each
    one meets a proxy that has nothing else left to do, as chunks of a real stream do.
    """

    GAP_S = 0.01

    def __init__(self, loop: MemoryLoop, protocol: Any, sock: socket.socket | None) -> None:
        super().__init__(loop, protocol, sock)
        self._request = b""

    def write(self, data: Any) -> None:
        self._request += data
        if not _whole(self._request):
            return
        pieces, self._request = self._memory_loop.reply(self._request), b""
        self._arrive(iter(pieces))

    def _arrive(self, pieces: Iterator[bytes]) -> None:
        piece = next(pieces, None)
        if piece is not None:
            self._memory_loop.call_later(self.GAP_S, self._deliver, piece, pieces)

    def _deliver(self, piece: bytes, pieces: Iterator[bytes]) -> None:
        if self._closing:
            return
        if self._memory_loop.on_deliver is not None:
            self._memory_loop.on_deliver()
        self._protocol.data_received(piece)
        self._arrive(pieces)


def _whole(request: bytes) -> bool:
    """Whether a request with Content-Length, as the proxy sends them, is complete."""
    head = request.find(b"\r\n\r\n")
    length = _LENGTH.search(request)
    return head >= 0 and length is not None and len(request) >= head + 4 + int(length[1])


class ClientTransport(MemoryTransport):
    """A client's connection to the proxy: `on_write` sees what the proxy writes."""

    def __init__(self, loop: MemoryLoop, protocol: Any, on_write: Callable[[bytes], None]) -> None:
        super().__init__(loop, protocol, None)
        self._on_write = on_write

    def write(self, data: Any) -> None:
        self._on_write(data)
