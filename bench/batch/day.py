"""A simulated day of `defer_to_batch`: what is lost, run twice, late, and saved.

10,000 requests arrive over a day, with 6 to 24 hours to wait; the simulated provider's batches take half an hour in the
median, and fail 5 % of their lines; for two hours the provider is away; twice the worker is killed at some moment:
from then on not one of its calls reaches the state, also in the middle of what it does, and another begins. Everything
but the clock is real: the data plane, its journal, requests on the wire, the provider's own invoice.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import orjson

from policies.defer_to_batch import Config, DeferToBatch
from proxy.body import scan
from proxy.chain import Services
from proxy.endpoints import endpoint_of
from proxy.exchange import Exchange, Identity, Request
from proxy.jobs import Jobs
from proxy.pricing import RateCards
from proxy.simulator import Simulator
from proxy.simulator.latency import Latency
from proxy.simulator.speech.batches import Terms
from proxy.state.memory import MemoryStore
from tests.plane.running import Plane, entry, running

JOBS: Final = 10_000
HOUR: Final = 3600.0
KILLS_H: Final = (5.3, 13.7)
OUTAGE_H: Final = (9.0, 11.0)
STEP_S: Final = 60.0
_PATH: Final = "/v1/chat/completions"


class Wall:
    """Unix time, as the bench says."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Killed(BaseException):
    """The worker is gone."""


class Line:
    """One worker's way to the state, until it is cut."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.left: int | None = None  # calls that still pass

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        async def asked(*args: Any, **kwargs: Any) -> Any:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise Killed
            return await call(*args, **kwargs)

        return asked


class Day:
    """The course of things."""

    def __init__(self, simulator: Simulator, directory: Path, jobs: int, seed: int) -> None:
        self.simulator, self.directory, self.count = simulator, directory, jobs
        self.random = random.Random(seed)
        self.wall = simulator.batches.wall = Wall()
        self.store = MemoryStore(lambda: int(self.wall.now * 1e9))
        self.cards = RateCards.from_bytes(RateCards.compile().to_bytes())
        self.ids: list[str] = []
        self.layer: DeferToBatch | None = None
        self.line = Line(self.store)
        self.homes = 0
        self.refused = 0

    def build(self, config: Config, services: Services) -> DeferToBatch:
        layer = DeferToBatch(config, services, self.wall)
        layer._stepping = asyncio.get_running_loop().create_task(asyncio.sleep(0))  # the bench takes the steps
        self.layer = layer
        return layer

    async def run(self) -> dict[str, Any]:
        """The whole day, and as long as it takes."""
        began = self.wall.now
        arrivals = sorted(self.random.random() * 24 * HOUR for _ in range(self.count))
        kills, totals = [began + at * HOUR for at in KILLS_H], Counter[str]()
        while arrivals or self.ids:
            self.line, self.homes = Line(self.store), self.homes + 1
            registry = {"defer_to_batch": SimpleNamespace(Config=Config, build=self.build)}
            home, policies = self.directory / str(self.homes), [entry("defer_to_batch")]
            async with running(
                self.simulator.url, home, policies, registry, cards=self.cards, store=self.line, state="memory:"
            ) as plane:
                try:
                    await self._worker(plane, began, arrivals, kills)
                except Killed:
                    kills.pop(0)
                    assert self.layer is not None
                    self.layer.engine = None  # who is killed takes no leave
                finally:
                    for one in plane.journal("settled"):
                        if str(one["exchange"]).startswith("job_"):
                            totals[str(one["exchange"])] += 1
                if not arrivals and self.ids and not await self._open():
                    break
        return await self._told(totals)

    async def _open(self) -> list[str]:
        return await self.store.keys("jobs/open/", 100_000)

    async def _worker(self, plane: Plane, began: float, arrivals: list[float], kills: list[float]) -> None:
        """One worker's life: to the end of the day, or to its own."""
        while True:
            self.wall.now += STEP_S
            away = OUTAGE_H[0] <= (self.wall.now - began) / HOUR < OUTAGE_H[1]
            self.simulator._provider.rules.clear()
            if away:
                self.simulator.fault("error-503")
            if kills and self.wall.now >= kills[0] and self.line.left is None:
                self.line.left = self.random.randint(0, 400)
            while arrivals and arrivals[0] <= self.wall.now - began:
                await self._ask(plane, arrivals.pop(0))
            assert self.layer is not None and self.layer.engine is not None
            await self.layer.engine.step()
            while plane.plane._background:
                await asyncio.sleep(0.001)
                if self.line.left is not None and self.line.left < 0:
                    raise Killed
            if not arrivals and not self.layer.engine.live and not await self._open():
                return

    async def _ask(self, plane: Plane, at: float) -> None:
        words = f"Question {at}"
        raw = orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": words}]})
        endpoint = endpoint_of("POST", _PATH)
        assert endpoint is not None
        exchange = Exchange(Identity("tenant", "key"), endpoint.name, spawn=plane.plane.spawn)
        deadline = b"%dh" % self.random.randint(6, 24)
        headers = [(b"x-weir-deadline", deadline)]
        request = Request(exchange, endpoint, "POST", _PATH.encode(), _PATH, headers, scan(raw), "gpt-4o-mini")
        response = await plane.plane.state.chain.forward(request)
        if response.status == 202:
            self.ids.append(orjson.loads(response.held())["id"])
        else:
            self.refused += 1

    async def _told(self, settled: Counter[str]) -> dict[str, Any]:
        jobs = Jobs(self.store)
        found = [await jobs.load(id) for id in self.ids]
        done = [job for job in found if job is not None and job.state == "completed"]
        answers = sum(row.requests for row in self.simulator.invoice().rows)
        cost = sum(job.nanodollars or 0 for job in done)
        saved = sum(job.saved_nanodollars for job in done)
        return {
            "accepted": len(self.ids),
            "lost": len(self.ids) - len(done),
            "late": sum(job.ended_s > job.deadline_s for job in done),
            "answers that the provider billed": answers,
            "run twice": answers - len(self.ids) - self.refused,
            "booked twice": sum(count - 1 for id, count in settled.items() if "." not in id and count > 1),
            "in batches": sum(job.how == "batch" for job in done),
            "saved": round(saved / (cost + saved), 4) if cost else 0.0,
        }


async def measure(jobs: int = JOBS, seed: int = 7) -> dict[str, Any]:
    """The day's figures."""
    with tempfile.TemporaryDirectory() as directory:
        async with Simulator(seed=seed, remember=0) as simulator:
            simulator.batches.terms = Terms(Latency.parse("lognormal(1800s, 0.8)"), fail=0.05, cancel_s=300.0)
            return await Day(simulator, Path(directory), jobs, seed).run()


if __name__ == "__main__":
    import sys

    print(asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else JOBS)))
