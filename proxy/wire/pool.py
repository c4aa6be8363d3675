"""Connections kept for their next request, per origin.

Rules:
1. The connection used last is used next (LIFO), so that a burst's extra connections fall idle and close.
2. An idle connection is closed before its upstream would (uvicorn and vLLM close after 5 s), so a request rarely
   meets a dead one.
3. What can't get a connection waits in order, and gives up at the connect time limit.
"""

from __future__ import annotations

import asyncio
from collections import deque

from proxy.wire.client import Progress, UpstreamConnection, WireError
from proxy.wire.connect import Connector, Origin
from proxy.wire.ticker import Ticker


class Pool:
    """The connections to one origin."""

    def __init__(
        self,
        origin: Origin,
        connector: Connector,
        ticker: Ticker,
        *,
        max_connections: int = 512,
        idle_s: float = 4.0,
        connect_s: float = 5.0,
        user_timeout_s: float = 30.0,
    ) -> None:
        self.origin = origin
        self._connector = connector
        self._ticker = ticker
        self._max = max_connections
        self._idle_s = idle_s
        self._connect_s = connect_s
        self._user_timeout_s = user_timeout_s
        self._idle: deque[UpstreamConnection] = deque()
        self._open: set[UpstreamConnection] = set()
        self._connecting = 0
        self._waiters: deque[asyncio.Future[UpstreamConnection | None]] = deque()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self.deadline = self._loop.time() + idle_s
        ticker.watch(self)

    def __repr__(self) -> str:
        return f"<Pool {self.origin.host}:{self.origin.port} {len(self._idle)}/{len(self._open)} idle>"

    @property
    def open(self) -> int:
        """Connections open, idle ones included."""
        return len(self._open)

    def take(self) -> UpstreamConnection | None:
        """An idle connection, at once, or None."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.lost:
                return connection
        return None

    async def acquire(self, fresh: bool = False) -> UpstreamConnection:
        """A connection, made if none is idle (or if a `fresh` one is asked for). Raises WireError."""
        if not fresh and (connection := self.take()) is not None:
            return connection
        while len(self._open) + self._connecting >= self._max:
            if fresh:
                self._close_oldest()
            handed = await self._wait()
            if handed is None:
                return await self._connect(admitted=True)
            if not handed.lost:
                return handed
        return await self._connect()

    async def _connect(self, admitted: bool = False) -> UpstreamConnection:
        if not admitted:
            self._connecting += 1
        try:
            connection = await self._connector.connect(self.origin, self._made, self._connect_s)
        except BaseException:
            self._connecting -= 1
            self._admit_next()
            raise
        self._connecting -= 1
        if connection.lost:  # accepted and closed at once: nothing would ever tell its exchange
            self._admit_next()
            raise WireError("reset", Progress.CONNECTING, "the upstream closed the new connection")
        self._open.add(connection)
        return connection

    def _made(self) -> UpstreamConnection:
        return UpstreamConnection(self, self._ticker, self._user_timeout_s)

    async def _wait(self) -> UpstreamConnection | None:
        """A connection handed over, or None: the right to open one, counted in `_connecting`."""
        waiter: asyncio.Future[UpstreamConnection | None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._connect_s):
                return await waiter
        except TimeoutError:
            self._waive(waiter)
            detail = f"all {self._max} connections are busy"
            raise WireError("pool", Progress.CONNECTING, detail) from None
        except BaseException:
            self._waive(waiter)
            raise

    def _waive(self, waiter: asyncio.Future[UpstreamConnection | None]) -> None:
        """Gives back what a waiter that gave up was handed in the same moment."""
        if not waiter.done() or waiter.cancelled():
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        elif (handed := waiter.result()) is not None:
            self.release(handed, reusable=not handed.lost)
        else:
            self._connecting -= 1
            self._admit_next()

    def release(self, connection: UpstreamConnection, reusable: bool) -> None:
        """Takes a connection back, or forgets it."""
        if not reusable:
            if connection in self._open:
                self._open.remove(connection)
                self._admit_next()
            return
        if self._closed:
            connection.close()
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)

    def _admit_next(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._connecting += 1
                waiter.set_result(None)
                return

    def _close_oldest(self) -> None:
        """Makes room for a fresh connection, which no idle one can stand in for."""
        while self._idle:
            connection = self._idle.popleft()
            if not connection.lost:
                connection.close()
                return

    async def warm(self, count: int) -> None:
        """Opens connections ahead of the first request; failures are left to the requests."""
        for _ in range(max(0, count - len(self._open))):
            try:
                self.release(await self._connect(), reusable=True)
            except WireError:
                return

    def expire(self, now: float) -> None:
        """Closes what has been idle too long; the oldest are at the left."""
        self.deadline = now + min(0.25, self._idle_s / 4)
        while self._idle and (self._idle[0].lost or self._idle[0].idle_since + self._idle_s <= now):
            connection = self._idle.popleft()
            if not connection.lost:
                connection.close()

    def close(self) -> None:
        """Closes idle connections now and the others when they come back."""
        self._closed = True
        self._ticker.unwatch(self)
        while self._idle:
            self._idle.pop().close()
