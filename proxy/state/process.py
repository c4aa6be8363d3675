"""The state process: `python -m proxy.state.process --state URL --home DIR --socket PATH [--control FD]`.

Rules:
1. One process owns a state: it holds a lock for as long as it lives, and a second one doesn't start (status 3). What a
   dead one left of its socket is removed.
2. With `--control` it tells the supervisor `ready`, and what it logs (`proxy.control`). It ends when told `stop`, by
   SIGTERM, or, once its supervisor is gone, when no worker has been connected for a while: workers outlive a dead
   supervisor, and so does their state.
3. What was answered is written before (`proxy.state.serving`); so it may be killed at any moment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import uvloop

from proxy import scheduling
from proxy.control import Channel
from proxy.state.blobs import MemoryShelf, Shelf
from proxy.state.core import Core
from proxy.state.opening import MEMORY, file_of
from proxy.state.serving import Forgetful, Keeper, Serving
from proxy.state.sqlite import SqliteShelf, StateFile

ALONE_S: Final = 5.0
NOT_OPENED: Final = 2
OWNED: Final = 3
Log = Callable[..., object]


class OwnedError(Exception):
    """Another process has this state."""


def lock(path: Path) -> int:
    """A descriptor that holds the lock until it is closed. Raises OwnedError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise OwnedError(f"{path} is locked: another process has this state") from None
    return fd


@contextlib.asynccontextmanager
async def serving(
    url: str, home: Path, path: Path, log: Log, clock: Callable[[], int] = time.time_ns
) -> AsyncIterator[Serving]:
    """The state of a URL, served at a socket. `clock`: Unix nanoseconds."""
    file = file_of(url, home)
    with contextlib.ExitStack() as stack:
        # By the file, which two homes might share; without one, by the socket.
        fd = lock(Path(f"{path if file is None else file}.lock"))
        stack.callback(os.close, fd)
        core, keeper, shelf = _opened(file, stack)
        server = Serving(core, keeper, shelf, log, clock)
        stack.callback(server.close)
        path.unlink(missing_ok=True)  # noqa: ASYNC240  # nobody waits yet
        before = os.umask(0o077)
        try:
            listener = await asyncio.get_running_loop().create_unix_server(server.connection, str(path), backlog=512)
        finally:
            os.umask(before)
        stack.callback(path.unlink, missing_ok=True)
        stack.callback(listener.close)
        yield server


def _opened(file: Path | None, stack: contextlib.ExitStack) -> tuple[Core, Keeper, Shelf]:
    core = Core()
    if file is None:
        return core, Forgetful(), MemoryShelf()
    kept = StateFile(file)
    stack.callback(kept.close)
    kept.load(core)
    shelf = SqliteShelf(file.with_name(f"{file.name}-blobs"))
    stack.callback(shelf.close)
    return core, kept, shelf


async def _run(url: str, home: Path, path: Path, control: int | None) -> int:
    channel = await Channel.open(socket.socket(fileno=control)) if control is not None else None

    def log(level: str, event: str, **fields: Any) -> None:
        if channel is None or not channel.send("log", level=level, event=event, fields=fields):
            print(f"{level} {event} {fields}", file=sys.stderr, flush=True)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with serving(url, home, path, log) as server:
            obeying = asyncio.create_task(_obey(channel, server, stop), name="control") if channel else None
            await stop.wait()
            if obeying is not None:
                obeying.cancel()
    except OwnedError as error:
        log("error", "state_owned", reason=str(error))
        return OWNED
    except (OSError, sqlite3.Error) as error:
        log("error", "state_not_opened", state=url, reason=str(error))
        return NOT_OPENED
    finally:
        if channel is not None:
            channel.close()
            await asyncio.sleep(0)
    return 0


async def _obey(channel: Channel, server: Serving, stop: asyncio.Event) -> None:
    channel.send("ready", pid=os.getpid())
    async for message in channel:
        if message["type"] == "stop":
            stop.set()
    alone_s = 0.0
    while alone_s < ALONE_S:
        await asyncio.sleep(0.5)
        alone_s = 0.0 if server.connections else alone_s + 0.5
    stop.set()


def main() -> None:
    """The process's entry point."""
    parser = argparse.ArgumentParser(prog="proxy.state.process")
    parser.add_argument("--state", required=True, help=f"sqlite:///FILE, or {MEMORY}")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--control", type=int)
    options = parser.parse_args()
    os.umask(0o077)  # cached answers are in its files
    scheduling.answer_at_once()  # every request near a limit waits for it
    sys.exit(uvloop.run(_run(options.state, options.home, options.socket, options.control)))


if __name__ == "__main__":
    main()
