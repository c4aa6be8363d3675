"""Workers that outlived their supervisor, and how the next one takes their place without a gap.

Rules:
1. A worker whose supervisor is gone listens on a Unix socket under the home directory, whose name is its process id.
   Whoever connects (the same user only) gets its listening sockets, and is its supervisor from then on.
2. The next supervisor of that home serves on these same sockets, so no connection is refused meanwhile; once its own
   workers are ready, it tells the old ones to drain. If it can't start, it hangs up, and they go on as before.
3. A socket that nobody answers on is left over by a dead process, and is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.state.opening import socket_path

SUFFIX: Final = ".sock"
MOST_LISTENERS: Final = 64
ANSWER_S: Final = 1.0


def directory(home: Path) -> Path:
    """Where the sockets of orphans are: beside the state's, since both need a short path."""
    return socket_path(home).parent / "orphans"


async def handed_over(home: Path, listeners: Sequence[socket.socket]) -> socket.socket:
    """The worker's side: waits for a supervisor, hands it the listeners; returns the line to it."""
    path = directory(home) / f"{os.getpid()}{SUFFIX}"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waiting:
        waiting.setblocking(False)
        waiting.bind(str(path))
        try:
            path.chmod(0o600)
            waiting.listen(1)
            while True:
                line, _ = await loop.sock_accept(waiting)
                if _user_of(line) == os.getuid():
                    socket.send_fds(line, [b"\n"], [sock.fileno() for sock in listeners])
                    return line
                line.close()
        finally:
            path.unlink(missing_ok=True)


@dataclass(slots=True, eq=False)
class Orphan:
    """A worker without a supervisor, as its next one sees it: `line` leads it, `listeners` are its."""

    pid: int
    line: socket.socket
    listeners: list[socket.socket]

    def close(self) -> None:
        """Hang up: without an order to drain it waits for the next supervisor."""
        self.line.close()
        self.close_listeners()

    def close_listeners(self) -> None:
        """Give up the copies of its listening sockets."""
        for sock in self.listeners:
            sock.close()


def find(home: Path) -> list[Orphan]:
    """All that answer. Blocking, for a moment."""
    found = []
    for path in sorted(directory(home).glob(f"*{SUFFIX}")):
        with contextlib.suppress(OSError, ValueError):
            if (orphan := _taken(path)) is not None:
                found.append(orphan)
    return found


def _taken(path: Path) -> Orphan | None:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.settimeout(ANSWER_S)
        line.connect(str(path))
        said, fds, _, _ = socket.recv_fds(line, 1, MOST_LISTENERS)
        if said != b"\n":
            raise OSError("it ended meanwhile")
        return Orphan(int(path.stem), line, [socket.socket(fileno=fd) for fd in fds])
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except BaseException:
        line.close()
        raise
    line.close()
    return None


def _user_of(line: socket.socket) -> int:
    """Who is at the other end (Linux)."""
    credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
