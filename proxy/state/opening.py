"""Which Store a URL means.

sqlite:///state.db      a file in the home directory (sqlite:////var/… an absolute one), owned by the state process
memory:                 the state process without a file: gone with it
redis://, rediss://, valkey://, valkeys://      a server that a fleet shares; there is no state process then
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from proxy.state.protocol import Store

MEMORY: Final = "memory:"
SOCKET: Final = "state.sock"
COUNTING: Final = "tokens.sock"
"""Where the process that counts tokens listens (`proxy.tokens`)."""
_SQLITE: Final = "sqlite:///"
_LONGEST_PATH: Final = 100  # sun_path has 108 bytes on Linux, 104 elsewhere
BOUND_S: Final = 0.25


def has_process(url: str) -> bool:
    """Whether this state is kept by a state process of this host."""
    return url.startswith((MEMORY, _SQLITE))


def file_of(url: str, home: Path) -> Path | None:
    """The state file; None for `memory:`. Raises ValueError for any other scheme."""
    if url.startswith(MEMORY):
        return None
    if not url.startswith(_SQLITE):
        raise ValueError(f"{url} isn't kept by a state process")
    return home / url[len(_SQLITE) :]


def socket_path(home: Path, socket: str = SOCKET) -> Path:
    """Where the state process of a home listens, or another by its socket's name: there, unless that path is too long.

    Then in a directory of its own under the temporary one, which must be ours alone.
    """
    path = home / socket
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        return path
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"weir-{os.getuid()}-{name}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{directory} isn't a directory of this user alone")
    return directory / socket


def open_store(
    url: str, socket: str | Path = "", bound_s: float = BOUND_S, log: Callable[..., object] | None = None
) -> Store:
    """A Store; to be called in the loop that uses it, and closed by `aclose`. `socket` is the state process'.

    `log(level, event, **fields)` hears of a server that may forget what it is told.
    """
    if has_process(url):
        from proxy.state.client import SocketStore

        return SocketStore(socket, bound_s)
    from proxy.state.redis import RedisStore

    return RedisStore(url, bound_s=bound_s, log=log)
