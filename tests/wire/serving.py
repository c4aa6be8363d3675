"""`ServerConnection` with a small application: what it was asked, and answers made by a function."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from proxy.errors import WeirError
from proxy.wire.call import BodyReader, Call, Door, InFlight, Intake, ServerLimits
from proxy.wire.head import Head
from proxy.wire.server import ServerConnection
from proxy.wire.ticker import Ticker
from tests.patience import PATIENCE_S
from tests.wire.raw import Raw

Handler = Callable[[Call], Awaitable[None]]
USUAL = ServerLimits()
QUICK = ServerLimits(header_s=0.2, body_idle_s=0.2, keep_alive_s=5.0, slow_reader_s=0.4)
TICK_S = 0.02


@dataclass
class Seen:
    """One request as the application got it."""

    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    streamed: bool = False

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)


async def echo(call: Call) -> None:
    """Answers with what was sent."""
    body = call.body if isinstance(call.body, bytes) else b""
    call.send(200, [(b"content-type", b"text/plain"), (b"x-target", call.head.target)], body)


class Always:
    """There is room for everybody."""

    pressed = False


@dataclass
class App:
    """An application whose answers are made by `handler`. Bodies of paths under /upload stream through."""

    handler: Handler = echo
    in_flight: InFlight = field(default_factory=lambda: InFlight(1 << 28))
    limit_bytes: int = 1 << 20
    seen: list[Seen] = field(default_factory=list)
    cancelled: int = 0
    running: int = 0
    connections: set[ServerConnection] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    gate: Door = field(default_factory=Always)

    at_once = None

    def shed(self, intake: Intake) -> bytes | None:
        return None

    def accept(self, head: Head, previous: Intake | None) -> Intake:
        if head.path == "/refused":
            raise WeirError(404, "Nothing here.", code="unknown_url")
        return Intake(not (head.path.startswith("/upload") and head.has_body), self.limit_bytes)

    async def respond(self, call: Call) -> None:
        self.running += 1
        self._pulse()
        try:
            body, streamed = call.body, isinstance(call.body, BodyReader)
            if isinstance(body, BodyReader) and call.head.path == "/upload":
                try:
                    body = call.body = b"".join([piece async for piece in body])
                except WeirError as error:
                    call.send_error(error)
                    return
            head = call.head
            held = body if isinstance(body, bytes) else b""
            self.seen.append(Seen(head.method, head.target, head.version, head.headers, held, streamed))
            await self.handler(call)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
            self._pulse()

    def _pulse(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def until(self, true: Callable[[App], Any], within_s: float = PATIENCE_S) -> None:
        """Waits until `true(app)` holds after the beginning or end of an exchange."""
        async with asyncio.timeout(within_s):
            while not true(self):
                await self.changed.wait()


@dataclass
class Server:
    """A listening server."""

    app: App
    port: int
    connections: set[ServerConnection]

    async def connect(self, **options: Any) -> Raw:
        return await Raw.connect(self.port, **options)

    @property
    def connection(self) -> ServerConnection:
        """The only connection."""
        (only,) = self.connections
        return only


@asynccontextmanager
async def serving(app: App | None = None, limits: ServerLimits = USUAL, **options: Any) -> AsyncIterator[Server]:
    """A server on a free port, on the running loop."""
    app = app or App()
    loop = asyncio.get_running_loop()
    ticker = Ticker(loop, TICK_S)
    connections = app.connections

    def connected() -> ServerConnection:
        return ServerConnection(app, limits, ticker, connections)

    server = await loop.create_server(connected, "127.0.0.1", 0, **options)
    try:
        yield Server(app, server.sockets[0].getsockname()[1], connections)
    finally:
        server.close()
        for connection in list(connections):
            connection.abort()
        ticker.close()


class Gate:
    """A handler that waits to be let go."""

    def __init__(self, then: Handler = echo) -> None:
        self.open = asyncio.Event()
        self._then = then

    async def __call__(self, call: Call) -> None:
        await self.open.wait()
        await self._then(call)
