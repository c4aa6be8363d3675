"""The course of a worker's jobs: taken over from those that are gone, handed to batches, run where time is short.

Each worker sees to the jobs that it accepted; when one is gone, another takes its jobs over (`_adopt`), by a duty that
only one can have. What it has is in `worklist.py`, what becomes of batches in `batching.py`.

Rules:
1. What a batch has no time for runs synchronously, or goes into the next batch if it has time. What a batch failed to
   answer is tried in one more batch, then synchronously.
2. What can't be written is written later: an answer that is here isn't asked for again.
3. Nothing is done while another worker may have taken over.
"""

from __future__ import annotations

import asyncio
from typing import Final

from policies.defer_to_batch import held
from policies.defer_to_batch.batching import Batching
from policies.defer_to_batch.worklist import AGAIN, LAST_S, Worklist
from proxy.deferred import release
from proxy.errors import WeirError
from proxy.exchange import Attempt, Settle
from proxy.jobs import Batch, Job
from proxy.response import Outcome
from proxy.state.protocol import StateLost

ALIVE_S: Final = 30.0
SWEEP_S: Final = 3600.0  # what is held for jobs that never were is let go after that


class Engine:
    """Sees to the jobs that one worker has accepted or taken over."""

    def __init__(self, work: Worklist) -> None:
        self.work, self.batching = work, Batching(work)
        self.jobs, self.live = work.jobs, work.live
        self._services, self._wall = work.services, work.wall
        self._never: list[Job] = []  # which may be in the Store though their requests were answered otherwise
        self._swept_s = 0.0
        self._missed = False  # whether jobs may be ours in the Store, and not here
        self._running: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(work.config.at_once)
        self._adopted_s = 0.0
        self._held_s = 0.0  # when the Store last said that what is here is this worker's

    def __repr__(self) -> str:
        return f"<Engine {self.work.owner}: {len(self.live)} jobs, {len(self.batching.live)} batches>"

    # --- from the layer

    async def accept(self, job: Job, attempt: Attempt, settles: list[Settle]) -> None:
        """A job begins. Raises StateLost or NoRoomError where it couldn't be kept: then there is none."""
        until_ns = round((self._wall() + SWEEP_S) * 1e9)
        job.kept, rest = await held.keep(self.jobs.store, attempt, settles, job.id, until_ns)
        try:
            await self.jobs.save(job)
        except BaseException:
            release(attempt, rest)
            self._never.append(job)
            raise
        self.work.settles[job.id] = rest
        self.live[job.id] = job

    # --- the course of things

    async def step(self) -> None:
        """Does what is due. What fails because something is away is due again."""
        for part in (
            self._adopt,
            self._tidy,
            self._heed_cancels,
            self.batching.submit_due,
            self.batching.look,
            self._run_late,
        ):
            if part != self._adopt and self._wall() - self._held_s >= ALIVE_S:
                return  # another may have taken over
            try:
                await part()
            except (StateLost, TimeoutError):
                self._services.metrics.count("deferred_state_lost")
            except WeirError as error:
                self._services.metrics.count("deferred_upstream_failed")
                self._services.log("warning", "batch_failed", code=error.code or error.type)
            except Exception as error:  # a fault of ours with one job is not to end the course of all others
                self._services.log("error", "jobs_step_failed", step=part.__name__, error=type(error).__name__)

    async def _adopt(self) -> None:
        """Says that this worker is there, and takes over from those that aren't."""
        now = self._wall()
        if now - self._adopted_s < ALIVE_S / 3:
            return
        self._adopted_s = now
        store = self.jobs.store
        if not await store.claim(f"jobs/{self.work.owner}", self.work.owner, ALIVE_S):
            self._lose()
            await store.claim(f"jobs/{self.work.owner}", self.work.owner, ALIVE_S)
        self._held_s = now
        for owner in await self.jobs.owners():
            if owner == self.work.owner and not self._missed:
                continue
            if owner != self.work.owner and not await store.claim(f"jobs/{owner}", self.work.owner, ALIVE_S):
                continue
            self._missed = True
            if owner != self.work.owner:
                await self.jobs.take_over(owner, self.work.owner)
        if self._missed:
            await self._take_in(*await self.jobs.of(self.work.owner))
            self._missed = False

    def _lose(self) -> None:
        """Another has taken over what is here, since this worker couldn't be heard: it begins anew."""
        self._services.log("warning", "jobs_lost", jobs=len(self.live), batches=len(self.batching.live))
        for running in self._running.values():
            running.cancel()
        for job in self.live.values():
            if settles := self.work.settles.pop(job.id, []):
                release(None, settles, self.work.request(job, self.work.exchange(job)))
        self.batching.live.clear()
        self.work.begin_anew()

    async def _take_in(self, jobs: list[Job], batches: list[Batch]) -> None:
        """Jobs and batches that are this worker's by what the Store says, and weren't here."""
        jobs = [job for job in jobs if job.id not in self.live]
        for batch in batches:
            self.batching.live.setdefault(batch.id, batch)
        for job in jobs:
            if job.state == "running":  # and it may have been billed
                await held.close(self.jobs.store, job.kept, held.in_full(job.kept))
                job.kept = []
            if job.state == "running" or (job.state == "submitted" and job.batch not in self.batching.live):
                job.state = "waiting"  # nobody has its answer
                await self.jobs.save(job)
            self.live[job.id] = job
        self._services.log("info", "jobs_taken_over", jobs=len(jobs), batches=len(batches))

    async def _tidy(self) -> None:
        """Says again what the Store may not have heard; lets go of what is held for jobs that never were."""
        for job in [job for job in self.live.values() if job.over]:
            await self.work.ended(job)
        while self._never:
            job = self._never[-1]
            await self.jobs.forget(job)
            await held.close(self.jobs.store, job.kept, None)
            self._never.remove(job)
        now = self._wall()
        if now - self._swept_s < SWEEP_S:
            return
        self._swept_s = now
        for hold in await self.jobs.store.standing(held.OWNER, 0):
            found = await self.jobs.load(hold.id.partition("/")[0])
            if found is None or (found.over and not found.kept):
                await self.jobs.store.close(hold.id, [0] * len(hold.parts))

    async def _heed_cancels(self) -> None:
        if not self.live:
            return
        for id in await self.jobs.cancelled():
            job = self.live.get(id)
            if job is None or job.over:
                continue
            if (running := self._running.get(id)) is not None:
                running.cancel()
                await asyncio.wait([running])
            if not job.over:
                if not await self.batching.drop(job):
                    job.batch = ""
                await self.work.finish(job, "cancelled", 0, b"", "")
            await self.jobs.store.delete([f"jobs/cancel/{id}"])

    # --- synchronously

    async def _run_late(self) -> None:
        """What can't wait for a batch any more runs now."""
        now, spawn = self._wall(), self._services.spawn
        assert spawn is not None
        for job in list(self.live.values()):
            due = job.state == "waiting" and not self.work.submittable(job, now) and job.id not in self._running
            if due and now >= self.work.not_before_s.get(job.id, 0.0):
                self._running[job.id] = spawn(self._run(job), f"deferred {job.id}")

    async def _run(self, job: Job) -> None:
        grounds = self.work.grounds
        assert grounds is not None
        try:
            async with self._room:
                if job.over:
                    return
                job.state, job.runs = "running", job.runs + 1
                await self.jobs.save(job)
                exchange = self.work.exchange(job, f".{job.runs}")
                exchange.deadline = asyncio.get_running_loop().time() + max(1.0, job.deadline_s - self._wall())
                request = self.work.request(job, exchange)
                release(None, self.work.settles.pop(job.id, []), request)
                try:
                    await grounds.join(request)
                    exchange.guards[:] = [held.Drawing(job, self.jobs.store, exchange.guards[:])]
                    response = await grounds.forward(request)
                    status, body = response.status, await response.read()
                except WeirError as error:
                    status, body = error.status, error.body()
                except asyncio.CancelledError:
                    job.nanodollars = exchange.nanodollars
                    self.work.end(exchange, Outcome.ABORTED)
                    raise
                exchange.status = status
                job.nanodollars = exchange.nanodollars
                self.work.end(exchange)
                if job.came:
                    await self.work.settle(job)
                again = status >= 500 or status in AGAIN
                if again and self._wall() < job.deadline_s - LAST_S:
                    self.work.not_before_s[job.id] = self._wall() + min(60.0, 2.0**job.runs)
                    job.state = "waiting"
                    await self.jobs.save(job)
                    return
                await self.work.finish(job, "completed" if status < 400 else "failed", status, body, "synchronous")
        except StateLost:
            if not job.over:
                job.state = "waiting"
        finally:
            self._running.pop(job.id, None)

    async def aclose(self) -> None:
        """Lets another take over at once."""
        try:
            await self.jobs.store.resign(f"jobs/{self.work.owner}", self.work.owner)
        except StateLost:
            pass
