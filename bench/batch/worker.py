"""A worker with `defer_to_batch`, whose clock another process moves.

`python -m bench.batch.worker URL HOME SOCKET NOW`. It says its port in the first line. Each line that it reads is the
time, in Unix seconds: the engine takes one step then, and when nothing runs any more it says how many jobs are open. It
ends when there is nothing more to read, and may be killed at any moment.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

import uvloop

from policies.defer_to_batch import Config, DeferToBatch
from proxy.chain import Services
from proxy.pricing import RateCards
from proxy.state.client import SocketStore
from tests.plane.running import Plane, entry, running

BOUND_S = 20.0  # patience with the state: what is measured here isn't time


class Wall:
    """Unix time, as it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """One life."""

    def __init__(self, began_s: float) -> None:
        self.wall = Wall()
        self.wall.now = began_s
        self.layer: DeferToBatch | None = None

    def build(self, config: Config, services: Services) -> DeferToBatch:
        self.layer = DeferToBatch(config, services, self.wall)
        self.layer._stepping = asyncio.get_running_loop().create_task(asyncio.sleep(0))  # steps are taken as told
        return self.layer

    async def obey(self, plane: Plane) -> None:
        """Steps until nobody tells it to."""
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            self.wall.now = float(line)
            assert self.layer is not None and self.layer.engine is not None
            await self.layer.engine.step()
            while plane.plane.tasks.running:
                await asyncio.sleep(0.001)
            say(len(self.layer.engine.live))


def say(number: int) -> None:
    """One line."""
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


async def live(url: str, home: Path, socket: Path, began_s: float) -> None:
    """The whole life."""
    worker = Worker(began_s)
    registry = {"defer_to_batch": SimpleNamespace(Config=Config, build=worker.build)}
    cards = RateCards.from_bytes(RateCards.compile().to_bytes())
    store, policies = SocketStore(socket, bound_s=BOUND_S), [entry("defer_to_batch")]
    async with running(url, home, policies, registry, cards=cards, store=store, state="sqlite:///state.db") as plane:
        say(plane.port)
        await worker.obey(plane)
    await store.aclose()


if __name__ == "__main__":
    uvloop.run(live(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])))
