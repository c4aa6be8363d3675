"""A simulated day of `defer_to_batch`: what is lost, run twice, late, and saved.

10,000 requests arrive over a day, with 6 to 24 hours to wait; the simulated provider's batches take half an hour in the
median, and fail 5 % of their lines; for two hours the provider is away; twice the worker is killed by SIGKILL, while it
takes a request or does its work, and another begins. Everything but the clock is real: processes, the state over
SQLite, requests on the wire, the journal, the ledger, the provider's own invoice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import select

from bench.batch.worker import BOUND_S, Wall
from proxy.jobs import JOB, MOST, Jobs
from proxy.ledger.ingest import Ingest
from proxy.ledger.opening import open_ledger
from proxy.ledger.tables import attempts
from proxy.simulator import Simulator
from proxy.simulator.latency import Latency
from proxy.simulator.speech.batches import Terms
from proxy.state.client import SocketStore
from proxy.state.process import serving
from tests.wire.raw import Raw, post

JOBS: Final = 10_000
HOUR: Final = 3600.0
KILLS_H: Final = (5.3, 13.7)
OUTAGE_H: Final = (9.0, 11.0)
STEP_S: Final = 60.0
BEGIN_S: Final = 1_800_000_000.0
_PATH: Final = "/v1/chat/completions"
_GONE: Final = (ConnectionError, BrokenPipeError, EOFError, AssertionError, ValueError)


class Life:
    """One worker process, spoken to."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.client: Raw

    async def heard(self) -> int:
        """The next number that it says. Raises EOFError when it is gone."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise EOFError
        return int(line)

    async def step(self, now_s: float) -> int:
        """It does what is due; how many jobs it has then."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"%f\n" % now_s)
        except RuntimeError:  # uvloop's word for a pipe that has nobody at its end
            raise EOFError from None
        return await self.heard()

    def kill(self) -> None:
        """Without a word."""
        os.kill(self.process.pid, signal.SIGKILL)


class Day:
    """The course of things: the clients, the provider's outage, and who kills the worker."""

    def __init__(self, simulator: Simulator, directory: Path, jobs: int, seed: int) -> None:
        self.simulator, self.directory, self.count = simulator, directory, jobs
        self.random = random.Random(seed)
        self.wall = simulator.batches.wall = Wall()
        self.wall.now = BEGIN_S
        self.socket = directory / "state.sock"
        self.told: list[str] = []
        self.lives = 0
        self.others = Counter[int]()  # what clients were told instead of 202, by status
        self.unheard = 0  # whose client never heard whether there is a job

    async def run(self) -> dict[str, Any]:
        """The whole day, and as long as it takes."""
        arrivals = sorted(self.random.random() * 24 * HOUR for _ in range(self.count))
        kills = [BEGIN_S + at * HOUR for at in KILLS_H]
        async with serving("sqlite:///state.db", self.directory, self.socket, _quiet, lambda: int(self.wall.now * 1e9)):
            store = SocketStore(self.socket, bound_s=BOUND_S)
            jobs = Jobs(store)
            while arrivals or await jobs.owners():
                async with self._life() as life:
                    try:
                        await self._live(life, jobs, arrivals, kills)
                    except _GONE:
                        if life.process.returncode is None:
                            await life.process.wait()
                        if life.process.returncode != -signal.SIGKILL:
                            raise
            told = await self._figures(jobs)
            await store.aclose()
            return told

    @contextlib.asynccontextmanager
    async def _life(self) -> AsyncIterator[Life]:
        self.lives += 1
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.batch.worker", self.simulator.url, str(self._home(self.lives))),
            *(str(self.socket), str(self.wall.now)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        life = Life(process)
        try:
            async with await Raw.connect(await life.heard()) as life.client:
                yield life
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    def _home(self, life: int) -> Path:
        return self.directory / str(life)

    async def _live(self, life: Life, jobs: Jobs, arrivals: list[float], kills: list[float]) -> None:
        """One worker's life: to the end of the day, or to its own."""
        while True:
            self.wall.now += STEP_S
            passed_s = self.wall.now - BEGIN_S
            self.simulator._provider.rules.clear()
            if OUTAGE_H[0] <= passed_s / HOUR < OUTAGE_H[1]:
                self.simulator.fault("error-503")
            if kills and self.wall.now >= kills[0]:
                kills.pop(0)
                asyncio.get_running_loop().call_later(self.random.random() * 0.05, life.kill)
            while arrivals and arrivals[0] <= passed_s:
                await self._ask(life, arrivals.pop(0))
            if not await life.step(self.wall.now) and not arrivals and not await jobs.owners():
                return

    async def _ask(self, life: Life, at: float) -> None:
        words = [{"role": "user", "content": f"Question {at}"}]
        raw = orjson.dumps({"model": "gpt-4o-mini", "messages": words})
        self.unheard += 1
        answer = await life.client.ask(post(_PATH, raw, f"x-weir-deadline: {self.random.randint(6, 24)}h"))
        if not answer.status:
            raise EOFError
        self.unheard -= 1
        if answer.status == 202:
            self.told.append(orjson.loads(answer.body)["id"])
        else:
            self.others[answer.status] += 1

    def _booked(self) -> Counter[str]:
        """How often each job was paid for, by the ledger that took in the journals of all workers."""
        engine, times = open_ledger("sqlite://", self.directory), Counter[str]()
        for life in range(1, self.lives + 1):
            ingest = Ingest(engine, self._home(life) / "home")
            while not ingest.step().caught_up:
                pass
        with engine.connect() as db:
            for exchange in db.scalars(select(attempts.c.exchange).where(attempts.c.nanodollars > 0)):
                times[exchange.partition(".")[0]] += 1
        engine.dispose()
        return times

    async def _figures(self, jobs: Jobs) -> dict[str, Any]:
        known = [key.removeprefix(JOB) for key in await jobs.store.keys(JOB, MOST)]
        ids = {*self.told, *known}
        found = [await jobs.load(id) for id in ids]
        done = [job for job in found if job is not None and job.state == "completed"]
        answers = sum(row.requests for row in self.simulator.invoice().rows)
        cost = sum(job.nanodollars or 0 for job in done)
        saved = sum(job.saved_nanodollars for job in done)
        booked = self._booked()
        return {
            "accepted": len(ids),
            "whose client never heard": self.unheard,
            "workers": self.lives,
            "lost": len(ids) - len(done),
            "late": sum(job.ended_s > job.deadline_s for job in done),
            "answers that the provider billed": answers,
            "run twice": answers - len(done) - self.others[200],
            "answered otherwise": dict(self.others),
            "not booked": sum(booked[id] == 0 for id in ids),
            "booked twice": sum(max(0, booked[id] - 1) for id in ids),
            "in batches": sum(job.how == "batch" for job in done),
            "saved": round(saved / (cost + saved), 4) if cost else 0.0,
        }


def _quiet(level: str, event: str, **fields: Any) -> None:
    """The state's log."""


async def measure(jobs: int = JOBS, seed: int = 7) -> dict[str, Any]:
    """The day's figures."""
    with tempfile.TemporaryDirectory() as directory:
        async with Simulator(seed=seed, remember=0) as simulator:
            simulator.batches.terms = Terms(Latency.parse("lognormal(1800s, 0.8)"), fail=0.05, cancel_s=300.0)
            return await Day(simulator, Path(directory), jobs, seed).run()


if __name__ == "__main__":
    print(asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else JOBS)))
