"""Upstreams that can't be simulated by an answer: nobody there, nobody who accepts, no such name."""

from __future__ import annotations

import errno
import socket
from types import TracebackType
from typing import Self

# RFC 6761 reserves `.invalid`: no resolver may find it.
UNKNOWN_HOST_URL = "http://upstream.invalid/v1"


def refused_url() -> str:
    """A URL whose port refuses connections: it was free a moment ago, and is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


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
