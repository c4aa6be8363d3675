"""Short ways to say what the tests of the Store ask for."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

from proxy.state.protocol import Granted, Hold, Part, Refused, Scope, Store
from tests.patience import PATIENCE_S

HOUR_NS = 3600 * 10**9
_ids = itertools.count(1)


def scope(key: str = "team", limit: int = 100, **more: object) -> Scope:
    """A hard scope that doesn't end."""
    return Scope(key, limit, **more)  # type: ignore[arg-type]


def hold(*parts: tuple[Scope, int], id: str = "", owner: str = "host/1/a", until_ns: int = 0) -> Hold:
    """A hold of some parts; its id is new unless it is said."""
    asked = tuple([Part(scope, amount) for scope, amount in parts])
    return Hold(id or f"hold-{next(_ids)}", owner, until_ns or time.time_ns() + HOUR_NS, asked)


async def granted(store: Store, *parts: tuple[Scope, int], wait_s: float = 0.0, **more: object) -> str:
    """A hold that must be granted; its id."""
    asked = hold(*parts, **more)  # type: ignore[arg-type]
    answer = await store.reserve(asked, wait_s)
    assert isinstance(answer, Granted), answer
    return asked.id


async def refused(store: Store, *parts: tuple[Scope, int], wait_s: float = 0.0, **more: object) -> Refused:
    """A hold that must be refused; the refusal."""
    answer = await store.reserve(hold(*parts, **more), wait_s)  # type: ignore[arg-type]
    assert isinstance(answer, Refused), answer
    return answer


async def queued(store: Store, asked: Hold, wait_s: float = PATIENCE_S) -> asyncio.Task[Granted | Refused]:
    """Somebody who waits, and has its place: a later call of the same worker reaches the Store after it."""
    task = asyncio.get_running_loop().create_task(store.reserve(asked, wait_s))
    await asyncio.sleep(0)
    await store.levels([part.scope for part in asked.parts])
    return task


async def left(store: Store, *waiting: asyncio.Task[Granted | Refused]) -> None:
    """Those who wait stop waiting."""
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until something is so; it must become so."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.01)


async def numbers(store: Store, *scopes: Scope) -> list[tuple[int, int]]:
    """Spent and held of scopes."""
    return [(level.spent, level.held) for level in await store.levels(scopes)]
