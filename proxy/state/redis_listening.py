"""Connections on which the server speaks first: the waking of those who wait for a hold, and the feed.

Rules:
1. A wake is only a hint: it is never the reason why something is granted, and a lost one costs a moment (whoever waits
   asks again on its own). So nothing of it raises.
2. A follower of the feed gets each message once, in order, or `StateLost`.
3. Silence is told from loss: a subscription is pinged, a read of the feed ends each second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import MovedError, RedisError

from proxy.state.protocol import StateLost
from proxy.state.redis_line import Server, left

_LOST: Final = (RedisError, OSError, EOFError, TimeoutError, StateLost)
_IDLE_S: Final = 5.0
_AGAIN_S: Final = 0.25
_BLOCK_S: Final = 1.0
_OLDEST: Final = "0-0"


class Wakes:
    """The subscription of one store. It is made when somebody first waits, and kept."""

    def __init__(self, server: Server, channel: str) -> None:
        self.channel = channel
        self._server = server
        self._waiting: dict[str, asyncio.Event] = {}
        self._listening: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Wakes {self.channel} {len(self._waiting)} waiting>"

    def expect(self, ticket: str) -> asyncio.Event:
        """Set when the ticket is called; to be asked for before the server can call it."""
        if self._listening is None or self._listening.done():
            self._listening = asyncio.get_running_loop().create_task(self._listen(), name="redis wakes")
        event = self._waiting.setdefault(ticket, asyncio.Event())
        event.clear()
        return event

    def forget(self, ticket: str) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(ticket, None)

    async def aclose(self) -> None:
        """Ends the subscription."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        """Ends with the last who waits, if the server is lost; else stays."""
        while True:
            try:
                connection = await self._server.connect()
                try:
                    await self._hear(connection)
                finally:
                    await left(connection)
            except _LOST:
                if not self._waiting:
                    return
                await asyncio.sleep(_AGAIN_S)

    async def _hear(self, connection: AbstractConnection) -> None:
        await connection.send_command("SUBSCRIBE", self.channel)
        pinged = False
        while True:
            said: Any = await connection.read_response(timeout=_IDLE_S)
            if said is not None:
                pinged = False
                if said[0] == b"message" and (event := self._waiting.get(said[2].decode())):
                    event.set()
            elif pinged:
                raise TimeoutError
            else:
                pinged = True
                await connection.send_command("PING", check_health=False)


async def following(server: Server, stream: str, after: str, bound_s: float) -> AsyncIterator[tuple[str, bytes]]:
    """Messages of a stream that come after a position, as they come."""
    last, elsewhere = number_of(after) if after else _OLDEST, None
    while True:
        try:
            connection = await server.connect(elsewhere)
            try:
                while True:
                    for number, fields in await _read(connection, stream, last, bound_s):
                        last = number.decode()
                        yield position_of(last), fields[1]
            finally:
                await left(connection)
        except MovedError as moved:
            elsewhere = (moved.host, int(moved.port))
        except _LOST as error:
            raise StateLost(f"redis: {error or type(error).__name__}") from error


async def _read(connection: AbstractConnection, stream: str, last: str, bound_s: float) -> list[Any]:
    async with asyncio.timeout(_BLOCK_S + bound_s):
        words = ("COUNT", 256, "BLOCK", round(_BLOCK_S * 1000), "STREAMS", stream, last)
        await connection.send_command("XREAD", *words, check_health=False)
        said: Any = await connection.read_response()
    return said[0][1] if said else []


def position_of(number: str) -> str:
    """A position as callers see it: it sorts as text."""
    at_ms, _, count = number.partition("-")
    return f"{int(at_ms):014d}-{int(count):08d}"


def number_of(position: str) -> str:
    """A position as the server knows it."""
    at_ms, _, count = position.partition("-")
    return f"{int(at_ms)}-{int(count or 0)}"
