"""`<home>/running.json`: which supervisor runs with this home directory, and where it listens.

Rules: written when it serves, removed when it ends; after a crash it stays, so a reader checks that the process
lives.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from proxy.clients.keys import write_private

FILE = "running.json"


class Running(msgspec.Struct, frozen=True):
    """A running supervisor; addresses as bound."""

    pid: int
    listen: tuple[str, ...]
    ops: str | None
    admin: str | None


def announce(home: Path, running: Running) -> None:
    """Write the file."""
    write_private(home / FILE, msgspec.json.encode(running) + b"\n")


def withdraw(home: Path) -> None:
    """Remove the file if it is this process's."""
    running = _read(home)
    if running is not None and running.pid == os.getpid():
        (home / FILE).unlink(missing_ok=True)


def running_in(home: Path) -> Running | None:
    """The supervisor that runs with this home directory, None if there is none."""
    running = _read(home)
    return running if running is not None and _lives(running.pid) else None


def _read(home: Path) -> Running | None:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((home / FILE).read_bytes(), type=Running)
    return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
