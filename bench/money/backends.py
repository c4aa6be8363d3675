"""Where the shared state is kept: the state process, or a real Redis for as long as it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.state import servers

BACKENDS: Final = ("sqlite", "redis")


class MissingError(Exception):
    """What is needed isn't installed; the text says what."""


@contextmanager
def redis(directory: Path, *options: str) -> Iterator[servers.Server]:
    """A Redis of its own."""
    try:
        program = servers.redis_program()
    except servers.Unavailable as error:
        raise MissingError(str(error)) from None
    with servers.running(program, directory, *options) as server:
        yield server


@contextmanager
def state(backend: str, directory: Path) -> Iterator[str]:
    """Its address, for `state:`."""
    if backend == "sqlite":
        yield "sqlite:///state.db"
        return
    with redis(directory) as server:
        yield server.url
