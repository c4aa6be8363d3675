"""Upstreams that can't be simulated by an answer: nobody there, nobody who accepts, no such name. And free ports."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Iterator
from itertools import chain, cycle
from pathlib import Path
from types import TracebackType
from typing import Final, Self

# RFC 6761 reserves `.invalid`: no resolver may find it.
UNKNOWN_HOST_URL = "http://upstream.invalid/v1"

_LOWEST: Final = 10_000
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port of 127.0.0.1 for somebody who must be told one.

    It is below those that the kernel gives to connections and to whoever asks for any (ip(7), ip_local_port_range):
    one of these would be somebody else's as soon as the probe lets it go.
    """
    for _ in range(100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", next(_PORTS)))
            except OSError:
                continue
            port: int = probe.getsockname()[1]
            return port
    raise OSError(errno.EADDRINUSE, "no port is free")


def _ports() -> Iterator[int]:
    """Those that are only had by who asks for them by number, from some place on; where there are none, any."""
    try:
        given = int(_RANGE.read_text().split()[0])
    except OSError:  # not Linux
        given = 0
    ports = range(_LOWEST, given) or range(1)
    return chain(ports[secrets.randbelow(len(ports)) :], cycle(ports))


_PORTS: Final = _ports()


def refused_url() -> str:
    """A URL whose port refuses connections: it was free a moment ago, and is."""
    return f"http://127.0.0.1:{free_port()}/v1"


class BlackHole:
    """A port whose accept queue is full, so that the kernel drops further SYNs: connecting takes for ever."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self._fill = [socket.socket() for _ in range(4)]
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        for filler in self._fill:
            filler.setblocking(False)
            if filler.connect_ex(("127.0.0.1", self.port)) not in (0, errno.EINPROGRESS):
                raise OSError("the black hole could not be filled")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Be gone."""
        for filler in self._fill:
            filler.close()
        self._listener.close()
