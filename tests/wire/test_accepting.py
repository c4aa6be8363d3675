"""Connections that wait are taken many at a time."""

from __future__ import annotations

import asyncio
import socket

from proxy.wire.accepting import Accepting


class Counted(asyncio.Protocol):
    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).made += 1
        transport.close()


async def test_all_that_wait_are_taken_in_one_turn() -> None:
    """libuv would take one a turn; where nothing waits, nothing happens, and closed means closed."""
    Counted.made = 0
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.setblocking(False)
        accepting = Accepting(asyncio.get_running_loop(), [listener], Counted, None)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(50)]
        accepting.take(most=40)
        assert accepting.taken == 40
        accepting.take()
        assert accepting.taken == 50
        while Counted.made < 50:
            await asyncio.sleep(0)
        accepting.close()
        clients.append(socket.create_connection(listener.getsockname()))
        accepting.take()
        assert accepting.taken == 50
        for client in clients:
            client.close()
