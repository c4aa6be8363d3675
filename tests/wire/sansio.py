"""Both connections without a socket: bytes in, calls and bytes out. Fast enough to try every split of many messages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop

from proxy.wire.call import ServerLimits
from proxy.wire.client import UpstreamConnection, WireError
from proxy.wire.headers import Headers
from proxy.wire.server import ServerConnection
from proxy.wire.ticker import Ticker
from tests.wire.serving import App, Seen

Pieces = Iterable[bytes]


class Transport:
    """What a connection did to its socket."""

    def __init__(self) -> None:
        self.written = b""
        self.end = ""  # how we ended it: "eof", "close" or "abort"
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        if not self.end:
            self.written += data

    def writelines(self, pieces: Sequence[bytes]) -> None:
        self.write(b"".join(pieces))

    def write_eof(self) -> None:
        self.end = self.end or "eof"

    def close(self) -> None:
        self.end = self.end or "close"

    def abort(self) -> None:
        if self.end != "abort":
            self.end = "abort"
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self.end in ("close", "abort")

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Loop:
    """One uvloop for all examples of a test."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def __enter__(self) -> Loop:
        self._runner.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._runner.close()

    def served(self, pieces: Pieces, **options: Any) -> Served:
        return self._runner.run(served(pieces, **options))

    def received(self, pieces: Pieces, **options: Any) -> Received:
        return self._runner.run(received(pieces, **options))


@dataclass
class Served:
    """What a server made of bytes: requests in order, and what it wrote."""

    seen: list[Seen]
    written: bytes
    end: str


async def served(pieces: Pieces, *, limits: ServerLimits | None = None, limit_bytes: int = 1 << 20) -> Served:
    """Feeds the pieces to a server connection; each request is answered with its own body."""
    app, transport = App(limit_bytes=limit_bytes), Transport()
    ticker = Ticker(asyncio.get_running_loop(), 3600)
    connection = ServerConnection(app, limits or ServerLimits(), ticker, set())
    transport.protocol = connection
    connection.connection_made(transport)  # type: ignore[arg-type]
    for piece in pieces:
        if transport.end in ("close", "abort"):
            break
        connection.data_received(piece)
        await _settle(connection, app)
    result = Served(app.seen, transport.written, transport.end)
    connection.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ticker.close()
    return result


async def _settle(connection: ServerConnection, app: App) -> None:
    """Lets exchanges run until all have ended, or one waits for more of its body."""
    while connection._running is not None:
        before = len(app.seen)
        for _ in range(4):
            await asyncio.sleep(0)
        if connection._running is not None and len(app.seen) == before:
            break


@dataclass
class Received:
    """What a receiver was told of an answer."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    ends: list[WireError | None] = field(default_factory=list)
    heads: int = 0
    calls: list[str] = field(default_factory=list)
    released: list[bool] = field(default_factory=list)
    aborted: bool = False

    def on_head(self, status: int, headers: Headers) -> None:
        self.calls.append("head")
        self.status, self.headers = status, list(headers)

    def on_data(self, data: bytes) -> None:
        assert data
        self.calls.append("data")
        self.body += data

    def on_end(self, error: WireError | None) -> None:
        self.calls.append("end")
        self.ends.append(error)

    def release(self, connection: UpstreamConnection, reusable: bool) -> None:
        self.released.append(reusable)

    @property
    def verdict(self) -> str:
        """`whole`, `open` (the end hasn't come), or the kind of failure."""
        if not self.ends:
            return "open"
        return "whole" if self.ends[0] is None else self.ends[0].kind

    def well_formed(self) -> None:
        """The contract of a receiver: one head, then data, then exactly one end."""
        assert self.calls.count("head") <= 1
        assert self.calls.count("end") <= 1
        told = [call for call in self.calls if call != "data"]
        assert told in (["head", "end"], ["end"], ["head"], []), told
        if "data" in self.calls:
            assert self.calls[0] == "head"
            assert "data" not in self.calls[self.calls.index("end") :] if "end" in self.calls else True


async def received(pieces: Pieces, *, head_request: bool = False, eof: bool = False) -> Received:
    """Feeds the pieces to an upstream connection that sent a request; `eof`: then the upstream closes."""
    result, transport = Received(), Transport()
    ticker = Ticker(asyncio.get_running_loop(), 3600)
    connection = UpstreamConnection(result, ticker, 30.0)
    transport.protocol = connection
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", result, head_request=head_request)
    for piece in pieces:
        if transport.is_closing():
            break
        connection.data_received(piece)
    result.aborted = transport.end == "abort"
    if eof and not transport.is_closing():
        connection.eof_received()
        connection.connection_lost(None)
    await asyncio.sleep(0)
    ticker.close()
    result.well_formed()
    return result
