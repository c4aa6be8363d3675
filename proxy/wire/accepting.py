"""Takes many waiting connections at once.

libuv accepts one connection a turn of its loop (since 1.45; before, one client could keep a loop busy accepting). So a
busy worker, whose turns take 20 ms, lets in 50 new clients a second, however many wait; measured: connections waited
seconds in the kernel's queue, where no limit of ours sees them. What libuv leaves is taken here, some hundred at a
time, fifty times a second.

Rules: what is accepted is served as if libuv had accepted it; where nothing waits, a look costs one system call. What
is accepted counts as a client a turn later, once it is open: whoever has a bound takes no more than there is room for.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

MOST: Final = 256


class Accepting:
    """The listeners of one worker. Their sockets don't block."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listeners: Sequence[socket.socket],
        factory: Callable[[], asyncio.BaseProtocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.taken = 0
        self._loop = loop
        self._listeners = listeners
        self._factory = factory
        self._tls = tls
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def opening(self) -> int:
        """How many are accepted and not open yet."""
        return len(self._opening)

    def take(self, most: int = MOST) -> None:
        """Accepts what waits, up to `most` on each listener."""
        if self._closed:
            return
        for listener in self._listeners:
            for _ in range(most):
                try:
                    sock, _address = listener.accept()
                except OSError:  # nothing waits, it is gone already, or there are no descriptors
                    break
                self.taken += 1
                task = self._loop.create_task(self._open(sock), name="accept")
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)

    async def _open(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            await self._loop.connect_accepted_socket(self._factory, sock, ssl=self._tls)
        except OSError:  # it left meanwhile, or its handshake failed
            sock.close()

    def close(self) -> None:
        """Accepts nothing more; what is being opened is opened."""
        self._closed = True
