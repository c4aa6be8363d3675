"""The line between the supervisor and a worker, or a process that it keeps beside them: newline-delimited JSON over an
inherited socket pair.

Rules:
- A message is one JSON object on one line; `type` names it. What types there are, and who sends which:
    supervisor -> worker: configure, keys, signing, bypass, drain, stop, snapshot, answer
    worker -> supervisor: ready, configured, rejected, metrics, drained, lookup, log
    supervisor -> cold process: settings, stop; and back: ready, ledger, log
    supervisor -> state process: stop; and back: ready, log
- Keys come whole (`keys`) with the first `configure`, then as what is otherwise (`changed_keys`, `gone_keys`); each a
  list of texts, JSON arrays of some of them, so that thousands are read in steps.
- `send` never waits and never raises: the data plane calls it. When the peer has stopped reading, messages beyond
  `UNSENT_BYTES` are dropped (and `send` says so); when the peer is gone, all are.
- A line that isn't a JSON object with a `type` closes the channel: the two ends ship together, so it is a bug.
- Ending of the channel means that the peer is gone, not that this side should stop: a worker outlives its supervisor.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

UNSENT_BYTES = 4 * 1024 * 1024
"""A peer that leaves this much unread is stuck. One message may be larger: what counts is what waits before it."""

Lookup = Callable[..., "asyncio.Future[dict[str, Any] | None]"]
"""Asks the supervisor what is named, by keywords; None where it doesn't know, or isn't there."""


class Channel(asyncio.Protocol):
    """One end of the line. Open it with `Channel.open`, read it by `async for`, write it with `send`."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._partial = bytearray()
        self._messages: deque[dict[str, Any]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        """Take over `sock` (one end of `socket.socketpair()`); the channel closes it."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(cls, sock=sock)
        return channel

    def send(self, type: str, **fields: Any) -> bool:
        """Queue one message; False when it was dropped because the peer is gone or doesn't read."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > UNSENT_BYTES:
            return False
        transport.write(orjson.dumps({"type": type, **fields}, option=orjson.OPT_APPEND_NEWLINE))
        return True

    def close(self) -> None:
        """Flush what was sent and close; the iteration ends."""
        if self._transport is not None:
            self._transport.close()
        self._end()

    @property
    def closed(self) -> bool:
        """Whether the peer is gone or this end was closed."""
        return self._ended

    def __aiter__(self) -> Channel:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while not self._messages:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._messages.popleft()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._partial += data
        if b"\n" not in data:
            return
        *lines, rest = bytes(self._partial).split(b"\n")
        self._partial = bytearray(rest)
        for line in lines:
            if not self._accept(line):
                self.close()
                return
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end()

    def _accept(self, line: bytes) -> bool:
        try:
            message = orjson.loads(line)
        except orjson.JSONDecodeError:
            return False
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            return False
        self._messages.append(message)
        return True

    def _end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
