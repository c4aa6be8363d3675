"""Jobs on their way: gathered, submitted as batches, polled, finished; run synchronously where time is short.

Each worker sees to the jobs that it accepted; when one is gone, another takes its jobs over (`_adopt`), by a duty that
only one can have. What is here is what the Store has; nothing is done that isn't written there before.

Rules:
1. A job is in at most one batch that isn't over. Before a batch is created its id is kept; whether the provider has it
   is looked up by that id where nobody heard the answer. So nothing is submitted twice.
2. `margin` before the first deadline of a batch it is cancelled; what it has answered counts, the rest runs
   synchronously, or goes into the next batch if it has time.
3. What a batch failed to answer (500, 429) is tried in one more batch, then synchronously.
4. Money: an answer from a batch is journalled under the job's own id, so that doing it twice counts once. What budgets
   hold for a job (`held.py`) is settled before the job is written as over, and again if nobody knows whether it was.
5. What can't be written is written later: an answer that is here isn't asked for again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Final

from policies.defer_to_batch import held
from policies.defer_to_batch.config import Config
from policies.defer_to_batch.provider import Line, Provider, Standing, line_of
from proxy.body import scan
from proxy.chain import Services
from proxy.deferred import Grounds, deployments, release, settled, standard_nanodollars
from proxy.endpoints import endpoint_of
from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Request, Saving, Settle
from proxy.jobs import Batch, Job, Jobs
from proxy.response import Outcome
from proxy.state.protocol import StateLost
from proxy.upstreams.deployment import Deployment

ALIVE_S: Final = 30.0
SWEEP_S: Final = 3600.0  # what is held for jobs that never were is let go after that
_AGAIN: Final = frozenset((408, 409, 429))
_LAST_S: Final = 180.0  # before the deadline: a batch that isn't over by then is given up
_TRIES: Final = 2
Key = tuple[str, str, str, int]  # deployment, path, model, and about how long they have


class Engine:
    """All that one worker has accepted or taken over."""

    def __init__(
        self,
        config: Config,
        services: Services,
        wall: Callable[[], float],
        told: Callable[[Job], object],
    ) -> None:
        assert services.store is not None
        self.jobs = Jobs(services.store, config.keep)
        self.owner = f"{services.name}-{secrets.token_hex(6)}"
        self.live: dict[str, Job] = {}
        self.batches: dict[str, Batch] = {}
        self.grounds: Grounds | None = None
        self._config, self._services, self._wall, self._told = config, services, wall, told
        self._settles: dict[str, list[Settle]] = {}  # of guards that only this worker can tell
        self._never: list[Job] = []  # which may be in the Store though their requests were answered otherwise
        self._swept_s = 0.0
        self._missed = False  # whether jobs may be ours in the Store, and not here
        self._waiters: dict[str, list[asyncio.Future[Job]]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(config.at_once)
        self._polled_s: dict[str, float] = {}
        self._not_before_s: dict[str, float] = {}  # of synchronous runs that failed
        self._adopted_s = 0.0
        self._held_s = 0.0  # when the Store last said that what is here is this worker's

    def __repr__(self) -> str:
        return f"<Engine {self.owner}: {len(self.live)} jobs, {len(self.batches)} batches>"

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
        self._settles[job.id] = rest
        self.live[job.id] = job

    async def wait(self, job: Job, until_s: float) -> Job | None:
        """The job once it is over; None where that takes longer than until this time of the loop."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Job] = loop.create_future()
        self._waiters.setdefault(job.id, []).append(waiter)
        try:
            async with asyncio.timeout_at(until_s):
                return await waiter
        except TimeoutError:
            return None
        finally:
            waiters = self._waiters.get(job.id, [])
            if waiter in waiters:
                waiters.remove(waiter)

    # --- the course of things

    async def step(self) -> None:
        """Does what is due. What fails because something is away is due again."""
        for part in (
            self._adopt,
            self._tidy,
            self._heed_cancels,
            self._submit_due,
            self._look_at_batches,
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

    async def _adopt(self) -> None:
        """Says that this worker is there, and takes over from those that aren't."""
        now = self._wall()
        if now - self._adopted_s < ALIVE_S / 3:
            return
        self._adopted_s = now
        store = self.jobs.store
        if not await store.claim(f"jobs/{self.owner}", self.owner, ALIVE_S):
            self._lose()
            await store.claim(f"jobs/{self.owner}", self.owner, ALIVE_S)
        self._held_s = now
        for owner in await self.jobs.owners():
            if owner == self.owner and not self._missed:
                continue
            if owner != self.owner and not await store.claim(f"jobs/{owner}", self.owner, ALIVE_S):
                continue
            self._missed = True
            if owner != self.owner:
                await self.jobs.take_over(owner, self.owner)
        if self._missed:
            await self._take_in(*await self.jobs.of(self.owner))
            self._missed = False

    def _lose(self) -> None:
        """Another has taken over what is here, since this worker couldn't be heard: it begins anew."""
        self._services.log("warning", "jobs_lost", jobs=len(self.live), batches=len(self.batches))
        for running in self._running.values():
            running.cancel()
        for job in self.live.values():
            if settles := self._settles.pop(job.id, []):
                release(None, settles, self._request(job, self._exchange(job)))
        self.live.clear()
        self.batches.clear()
        self._not_before_s.clear()
        self.owner = f"{self._services.name}-{secrets.token_hex(6)}"

    async def _take_in(self, jobs: list[Job], batches: list[Batch]) -> None:
        """Jobs and batches that are this worker's by what the Store says, and weren't here."""
        jobs = [job for job in jobs if job.id not in self.live]
        for batch in batches:
            self.batches.setdefault(batch.id, batch)
        for job in jobs:
            if job.state == "running":  # and it may have been billed
                await held.close(self.jobs.store, job.kept, held.in_full(job.kept))
                job.kept = []
            if job.state == "running" or (job.state == "submitted" and job.batch not in self.batches):
                job.state = "waiting"  # nobody has its answer
                await self.jobs.save(job)
            self.live[job.id] = job
        self._services.log("info", "jobs_taken_over", jobs=len(jobs), batches=len(batches))

    async def _tidy(self) -> None:
        """Says again what the Store may not have heard; lets go of what is held for jobs that never were."""
        for job in [job for job in self.live.values() if job.over]:
            await self._ended(job)
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
            if found is None or found.over:
                await self.jobs.store.close(hold.id, [0] * len(hold.parts))

    async def _heed_cancels(self) -> None:
        if not self.live:
            return
        for id in await self.jobs.cancelled():
            job = self.live.get(id)
            if job is not None:
                await self._finish(job, "cancelled", 0, b"", "")
                await self.jobs.store.delete([f"jobs/cancel/{id}"])

    # --- submitting

    def _submittable(self, job: Job, now: float) -> bool:
        return job.state == "waiting" and job.tries < _TRIES and now < self._late_at(job)

    def _late_at(self, job: Job) -> float:
        return job.deadline_s - self._config.margin

    async def _submit_due(self) -> None:
        now, groups = self._wall(), dict[Key, list[Job]]()
        for job in self.live.values():
            if self._submittable(job, now):
                hours = int(
                    (job.deadline_s - now) // 3600
                ).bit_length()  # so that the urgent don't end the others' batch
                groups.setdefault((job.deployment, job.path, job.model, hours), []).append(job)
        for key, waiting in groups.items():
            waiting.sort(key=lambda job: job.accepted_s)
            size = sum(len(job.body) for job in waiting)
            full = len(waiting) >= self._config.max_requests or size >= self._config.max_size
            if full or now - waiting[0].accepted_s >= self._config.gather:
                for chunk in _chunks(waiting, self._config.max_requests, self._config.max_size):
                    await self._submit(key, chunk, now)

    async def _submit(self, key: Key, jobs: list[Job], now: float) -> None:
        deployment, path, model, _ = key
        deadline_s = min(job.deadline_s for job in jobs)
        id = f"wb_{secrets.token_hex(12)}"
        batch = Batch(id, deployment, path, model, [job.id for job in jobs], deadline_s, self.owner, now)
        await self.jobs.save_batch(batch)
        self.batches[batch.id] = batch
        for job in jobs:
            job.state, job.batch, job.tries = "submitted", batch.id, job.tries + 1
            await self.jobs.save(job)
        await self._create(batch)

    async def _create(self, batch: Batch, late: bool = False) -> None:
        """Makes the batch at the provider, unless that has it. What fails leaves it to be made at the next look."""
        provider = self._provider(batch)
        if provider is None:
            await self._give_back(batch)
            return
        if batch.tried and (found := await provider.find(batch.id, batch.made_s)) is not None:
            batch.provider_id = found.id
        elif not late:
            jobs = [job for id in batch.jobs if (job := self.live.get(id)) is not None and job.batch == batch.id]
            if not jobs:
                await self._give_back(batch)
                return
            if not batch.file_id:
                lines = [line_of(job.id, batch.path, self._wire_body(job, batch)) for job in jobs]
                batch.file_id = await provider.upload(lines)
            batch.tried = True
            await self.jobs.save_batch(batch)
            batch.provider_id = (await provider.create(batch.file_id, batch.path, batch.id)).id
            self._services.metrics.count("batches_submitted")
        await self.jobs.save_batch(batch)

    def _wire_body(self, job: Job, batch: Batch) -> bytes:
        deployment = self._deployment(batch.deployment, batch.model)
        if deployment is None or deployment.model in (None, job.model):
            return job.body
        return scan(job.body).using({"model": deployment.model}).raw

    # --- looking

    async def _look_at_batches(self) -> None:
        now = self._wall()
        for batch in list(self.batches.values()):
            late = now >= batch.deadline_s - self._config.margin
            if late or now - self._polled_s.get(batch.id, 0.0) >= self._config.poll:
                self._polled_s[batch.id] = now
                try:
                    await self._look(batch, now, late)
                except WeirError as error:
                    self._services.metrics.count("deferred_upstream_failed")
                    self._services.log("warning", "batch_failed", batch=batch.id, code=error.code or error.type)
                    if now >= batch.deadline_s - _LAST_S:
                        await self._give_back(batch)

    async def _look(self, batch: Batch, now: float, late: bool) -> None:
        provider = self._provider(batch)
        if provider is None:
            await self._give_back(batch)
            return
        if not batch.provider_id:
            await self._create(batch, late)
            if late and not batch.provider_id:
                await self._give_back(batch)
            return
        if late and not batch.cancelling:
            batch.cancelling = True
            await self.jobs.save_batch(batch)
            standing = await provider.cancel(batch.provider_id)
        else:
            standing = await provider.stands(batch.provider_id)
        if standing.over:
            await self._over(batch, await provider.results(standing), standing)
        elif now >= batch.deadline_s - _LAST_S:
            await self._give_back(batch)

    async def _over(self, batch: Batch, lines: list[Line], standing: Standing) -> None:
        """The batch is over: what it answered is the jobs' answers, the rest waits again."""
        for line in lines:
            job = self.live.get(line.custom_id)
            if job is None or job.batch != batch.id:
                continue
            if job.over:
                continue  # and to be written yet
            if 200 <= line.status < 300:
                self._book(job, line.body)
                await self._finish(job, "completed", line.status, line.body, "batch")
            elif 400 <= line.status < 500 and line.status not in _AGAIN:
                await self._finish(job, "failed", line.status, line.body, "batch")
        self._services.metrics.count(f"batches_{standing.status}")
        await self._give_back(batch)

    async def _give_back(self, batch: Batch) -> None:
        """The batch is over for us: what has no answer waits again."""
        for id in batch.jobs:
            job = self.live.get(id)
            if job is not None and job.batch == batch.id and job.state == "submitted":
                job.state, job.batch = "waiting", ""
                await self.jobs.save(job)
        await self.jobs.forget_batch(batch)
        self.batches.pop(batch.id, None)
        self._polled_s.pop(batch.id, None)

    # --- money

    def _request(self, job: Job, exchange: Exchange) -> Request:
        endpoint = endpoint_of("POST", job.path)
        assert endpoint is not None
        json = [(b"content-type", b"application/json")]
        return Request(exchange, endpoint, "POST", job.path.encode(), job.path, json, scan(job.body), job.model)

    def _exchange(self, job: Job, run: str = "") -> Exchange:
        return Exchange(
            job.identity,
            job.endpoint,
            asked=job.model,
            tags=job.tags,
            kind="batch",
            parent=job.parent,
            started_by=self._services.name,
            spawn=self._services.spawn,
            id=job.id + run,
        )

    def _book(self, job: Job, body: bytes) -> None:
        """The account of an answer that came in a batch."""
        assert self.grounds is not None
        deployment = self._deployment(job.deployment, job.model)
        if deployment is None:
            return
        settles = self._settles.pop(job.id, [])
        exchange = self._exchange(job)
        exchange.status = 200
        attempt = settled(self.grounds.dispatch, self._request(job, exchange), deployment, body, settles)
        job.came = held.came_to_all(job.kept, attempt)
        standard = standard_nanodollars(attempt)
        if standard is not None and attempt.nanodollars is not None and attempt.usage is not None:
            job.saved_nanodollars = standard - attempt.nanodollars
            model, tokens = attempt.served or attempt.model, attempt.usage.counts()
            exchange.save(Saving(self._services.name, job.saved_nanodollars, model, tokens, "observed"))
        job.nanodollars = exchange.nanodollars
        self._end(exchange)

    def _end(self, exchange: Exchange) -> None:
        assert self.grounds is not None
        exchange.on_end = self.grounds.on_end
        exchange.end(Outcome.COMPLETE)
        exchange.release()

    # --- synchronously

    async def _run_late(self) -> None:
        """What can't wait for a batch any more runs now."""
        now, spawn = self._wall(), self._services.spawn
        assert spawn is not None
        for job in list(self.live.values()):
            due = job.state == "waiting" and not self._submittable(job, now) and job.id not in self._running
            if due and now >= self._not_before_s.get(job.id, 0.0):
                self._running[job.id] = spawn(self._run(job), f"deferred {job.id}")

    async def _run(self, job: Job) -> None:
        grounds = self.grounds
        assert grounds is not None
        try:
            async with self._room:
                if job.over:
                    return
                job.state, job.runs = "running", job.runs + 1
                await self.jobs.save(job)
                exchange = self._exchange(job, f".{job.runs}")
                exchange.deadline = asyncio.get_running_loop().time() + max(1.0, job.deadline_s - self._wall())
                request = self._request(job, exchange)
                release(None, self._settles.pop(job.id, []), request)
                try:
                    await grounds.join(request)
                    exchange.guards[:] = [held.Drawing(job, self.jobs.store, exchange.guards[:])]
                    response = await grounds.forward(request)
                    status, body = response.status, await response.read()
                except WeirError as error:
                    status, body = error.status, error.body()
                exchange.status = status
                job.nanodollars = exchange.nanodollars
                self._end(exchange)
                if job.came:
                    await self._settle(job)
                again = status >= 500 or status in _AGAIN
                if again and self._wall() < job.deadline_s - _LAST_S:
                    self._not_before_s[job.id] = self._wall() + min(60.0, 2.0**job.runs)
                    job.state = "waiting"
                    await self.jobs.save(job)
                    return
                await self._finish(job, "completed" if status < 400 else "failed", status, body, "synchronous")
        except StateLost:
            if not job.over:
                job.state = "waiting"
        finally:
            self._running.pop(job.id, None)

    # --- ends

    async def _finish(self, job: Job, state: Any, status: int, body: bytes, how: str) -> None:
        job.state, job.status, job.answer, job.how, job.ended_s = state, status, body, how, self._wall()
        await self._ended(job)

    async def _settle(self, job: Job) -> None:
        """What budgets hold for it comes to what it came to."""
        await held.close(self.jobs.store, job.kept, job.came or None)
        job.kept, job.came = [], []

    async def _ended(self, job: Job) -> None:
        """Writes what it came to; then all are told who wait for it."""
        if job.kept:
            await self._settle(job)
        await self.jobs.save(job)
        if self.live.pop(job.id, None) is None:
            return  # said twice at once
        self._not_before_s.pop(job.id, None)
        settles = self._settles.pop(job.id, [])
        if settles:
            release(None, settles, self._request(job, self._exchange(job)))
        for waiter in self._waiters.pop(job.id, []):
            if not waiter.done():
                waiter.set_result(job)
        self._services.metrics.count(f"deferred_{job.state}")
        self._told(job)

    async def aclose(self) -> None:
        """Lets another take over at once."""
        try:
            await self.jobs.store.resign(f"jobs/{self.owner}", self.owner)
        except StateLost:
            pass

    # --- where

    def _deployment(self, label: str, model: str) -> Deployment | None:
        assert self.grounds is not None
        try:
            found = deployments(self.grounds.dispatch, model)
        except WeirError:
            return None
        return next((one for one in found if one.label == label), None)

    def _provider(self, batch: Batch) -> Provider | None:
        """None where the configuration has no such deployment any more."""
        assert self.grounds is not None
        found = self._deployment(batch.deployment, batch.model)
        return None if found is None else Provider(self.grounds.dispatch, found, batch.model)


def _chunks(jobs: list[Job], most: int, bytes: int) -> list[list[Job]]:
    """In the order given, none with more requests or bytes than may be."""
    chunks: list[list[Job]] = [[]]
    size = 0
    for job in jobs:
        if chunks[-1] and (len(chunks[-1]) >= most or size + len(job.body) > bytes):
            chunks.append([])
            size = 0
        chunks[-1].append(job)
        size += len(job.body)
    return chunks
