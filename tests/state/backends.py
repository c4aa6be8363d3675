"""Each backend of the Store as the contract sees it: somewhere empty, to which several workers connect."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from proxy.state.client import SocketStore
from proxy.state.memory import MemoryStore
from proxy.state.opening import socket_path
from proxy.state.process import serving
from proxy.state.protocol import Store
from proxy.state.redis import RedisStore
from tests.state.servers import Server

ServerOf = Callable[[str], Server]


class Backend(ABC):
    """`connect` gives one worker's Store. `outlasts`: what was told is there for those who connect later."""

    outlasts = True

    def __init__(self, home: Path, server_of: ServerOf, name: str) -> None:
        self.home = home
        self.server_of = server_of
        self.name = name
        self.stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stack.aclose()

    async def connect(self) -> Store:
        """Another worker."""
        store = await self.made()
        self.stack.push_async_callback(store.aclose)
        return store

    async def begin(self) -> None:
        """Starts what has to run before anybody connects."""
        self.home.mkdir(exist_ok=True)

    @abstractmethod
    async def made(self) -> Store:
        """A worker's Store."""

    async def crash(self, store: Store) -> None:
        """The worker has gone without a word; where that can be."""
        pytest.skip("there is nobody else")


class Memory(Backend):
    """One process: all are the same."""

    outlasts = False

    async def begin(self) -> None:
        self.store = MemoryStore()

    async def made(self) -> Store:
        return self.store


class Sqlite(Backend):
    """The state process' server over a file, and its socket."""

    async def begin(self) -> None:
        self.socket = socket_path(self.home)
        await self.stack.enter_async_context(serving("sqlite:///state.db", self.home, self.socket, _quiet))

    async def made(self) -> Store:
        return SocketStore(self.socket, bound_s=20.0)

    async def crash(self, store: Any) -> None:
        """Its socket ends, and is not made anew."""
        await store.aclose()


class Redis(Backend):
    """A prefix of its own on a server that all tests share."""

    kind = "redis"

    async def made(self) -> Store:
        # Far more than the usual bound: machines that run tests may be slow, and what is tested here is what is said.
        return RedisStore(self.server_of(self.kind).url, prefix=self.name, bound_s=20.0, poll_s=0.3)

    async def crash(self, store: Any) -> None:
        """Its sockets end, and it says nothing any more."""
        store._owed.add = lambda *words: None
        store._money.run = store._money.call = _never
        await store._wakes.aclose()
        await store._money.aclose()


class Valkey(Redis):
    """Valkey, as a cluster: commands over several slots are errors there."""

    kind = "valkey"


def _quiet(level: str, event: str, **fields: object) -> None:
    """Nobody reads it."""


async def _never(*words: object, **more: object) -> Awaitable[Any]:
    await asyncio.Event().wait()
    raise AssertionError


BACKENDS: dict[str, Callable[[Path, ServerOf, str], Backend]] = {
    "memory": Memory,
    "sqlite": Sqlite,
    "redis": Redis,
    "valkey": Valkey,
}
