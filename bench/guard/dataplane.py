"""The data plane under the guard: the one place that knows which classes of the proxy a worker is made of."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from proxy.errors import WeirError
from proxy.wire.client import WireError
from proxy.wire.connect import Connector, Resolver, origin_of
from proxy.wire.headers import Headers
from proxy.wire.pool import Pool
from proxy.wire.server import Call, Head, InFlight, Intake, ServerConnection, ServerLimits
from proxy.wire.ticker import Ticker

UPSTREAM = "http://127.0.0.1:9/v1"


class DataPlane(Protocol):
    """A worker without its sockets."""

    def connection(self) -> asyncio.Protocol:
        """The protocol of a new client connection."""

    async def close(self) -> None:
        """End what runs; nothing is left on the loop."""


async def make() -> DataPlane:
    """The data plane on the running loop."""
    return _WireOnly()


class _Relay:
    def __init__(self, call: Call, done: asyncio.Future[None]) -> None:
        self.call, self.done = call, done

    def on_head(self, status: int, headers: Headers) -> None:
        self.call.start(status, headers, int(dict(headers).get(b"content-length", 0)) or None)

    def on_data(self, data: bytes) -> None:
        self.call.write(data)

    def on_end(self, error: WireError | None) -> None:
        self.call.finish()
        self.done.set_result(None)


class _WireOnly:
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.in_flight, self.ticker = InFlight(2**28), Ticker(loop)
        self.pool = Pool(origin_of(UPSTREAM), Connector(Resolver()), self.ticker)
        self.connections: set[ServerConnection] = set()

    def connection(self) -> asyncio.Protocol:
        return ServerConnection(self, ServerLimits(), self.ticker, self.connections)

    def accept(self, head: Head) -> Intake:
        return Intake(gather=True, limit_bytes=2**25)

    async def respond(self, call: Call) -> None:
        try:
            connection = self.pool.take() or await self.pool.acquire()
        except WireError as error:
            call.send_error(WeirError(502, str(error)))
            return
        body: Any = call.body
        head = b"POST %b HTTP/1.1\r\nhost: up\r\ncontent-length: %d\r\n\r\n" % (call.head.target, len(body))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        connection.send(head, body, _Relay(call, done))
        await done

    async def close(self) -> None:
        for connection in list(self.connections):
            connection.abort()
        self.pool.close()
        self.ticker.close()
        await asyncio.sleep(0)
