"""One blocking keep-alive connection: what a caller waits for when nothing else is going on, and the CPU of big
bodies.
"""

from __future__ import annotations

import socket
import ssl
import time

from bench.load import wire


class Connection:
    """A closed loop of one; use as a context."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        where = wire.address(url)
        plain = socket.create_connection((where.host, where.port), timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = tls.wrap_socket(plain, server_hostname=where.host) if tls else plain

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def exchange(self, request: bytes) -> bytes:
        """Send, and return the whole answer. Raises ValueError when it isn't a 200, ConnectionError when it is cut."""
        self.send(request)
        return self.receive()

    def send(self, request: bytes) -> None:
        """Send, and leave the answer for `receive`."""
        self._socket.sendall(request)

    def receive(self) -> bytes:
        """The whole answer. Raises as `exchange`."""
        buffer = self._socket.recv(65536)
        while not (end := wire.answer_end(buffer)):
            more = self._socket.recv(65536)
            if not more:
                raise ConnectionError(f"closed after {buffer[:300]!r}")
            buffer += more
        if end != len(buffer):
            raise ValueError(f"{len(buffer) - end} bytes after the answer")
        return buffer


def latencies_us(url: str, request: bytes, count: int) -> list[float]:
    """The time of each of `count` exchanges, one after another, in microseconds."""
    taken: list[float] = []
    with Connection(url) as connection:
        for _ in range(count):
            start = time.perf_counter_ns()
            connection.exchange(request)
            taken.append((time.perf_counter_ns() - start) / 1000)
    return taken
