"""Batches on their way: gathered, submitted, polled, taken apart again.

Rules:
1. A job is in at most one batch that isn't over. Before a batch is created its id is kept; whether the provider has it
   is looked up by that id where nobody heard the answer. So nothing is submitted twice.
2. `margin` before the first deadline of a batch it is cancelled; what it has answered counts, the rest waits again.
3. What a batch failed to answer (500, 429) waits again, too.
4. A job that is cancelled stays in its batch, and what is held for it stays held: what the batch answers of it is
   billed, and booked. A batch of which no job is left is cancelled.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from policies.defer_to_batch.provider import Line, Provider, Standing, line_of
from policies.defer_to_batch.worklist import AGAIN, LAST_S, Worklist
from proxy.body import scan
from proxy.errors import WeirError
from proxy.jobs import Batch, Job

_LOOKS: Final = 16  # at a time

Key = tuple[str, str, str, int]  # deployment, path, model, and about how long they have


class Batching:
    """The batches of one worker's jobs; `live` are those that aren't over."""

    def __init__(self, work: Worklist) -> None:
        self.live: dict[str, Batch] = {}
        self._work = work
        self._polled_s: dict[str, float] = {}

    # --- submitting

    async def submit_due(self) -> None:
        """What has waited long enough, or is enough for a batch."""
        now, groups = self._work.wall(), dict[Key, list[Job]]()
        for job in self._work.live.values():
            if self._work.submittable(job, now):
                hours = int(
                    (job.deadline_s - now) // 3600
                ).bit_length()  # so that the urgent don't end the others' batch
                groups.setdefault((job.deployment, job.path, job.model, hours), []).append(job)
        for key, waiting in groups.items():
            waiting.sort(key=lambda job: job.accepted_s)
            size = sum(len(job.body) for job in waiting)
            full = len(waiting) >= self._work.config.max_requests or size >= self._work.config.max_size
            if full or now - waiting[0].accepted_s >= self._work.config.gather:
                for chunk in _chunks(waiting, self._work.config.max_requests, self._work.config.max_size):
                    await self._submit(key, chunk, now)

    async def _submit(self, key: Key, jobs: list[Job], now: float) -> None:
        deployment, path, model, _ = key
        deadline_s = min(job.deadline_s for job in jobs)
        id = f"wb_{secrets.token_hex(12)}"
        batch = Batch(id, deployment, path, model, [job.id for job in jobs], deadline_s, self._work.owner, now)
        await self._work.jobs.save_batch(batch)
        self.live[batch.id] = batch
        for job in jobs:
            job.state, job.batch, job.tries = "submitted", batch.id, job.tries + 1
            await self._work.jobs.save(job)
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
            jobs = self._jobs_of(batch)
            if not jobs:
                await self._give_back(batch)
                return
            if not batch.file_id:
                lines = [line_of(job.id, batch.path, self._wire_body(job, batch)) for job in jobs]
                batch.file_id = await provider.upload(lines)
            batch.tried = True
            await self._work.jobs.save_batch(batch)
            batch.provider_id = (await provider.create(batch.file_id, batch.path, batch.id)).id
            self._work.services.metrics.count("batches_submitted")
        await self._work.jobs.save_batch(batch)

    def _wire_body(self, job: Job, batch: Batch) -> bytes:
        deployment = self._work.deployment(batch.deployment, batch.model)
        if deployment is None or deployment.model in (None, job.model):
            return job.body
        return scan(job.body).using({"model": deployment.model}).raw

    # --- looking

    async def look(self) -> None:
        """Asks how those stand that it is time to ask about; many at once, so that none waits for another's answer."""
        room = asyncio.Semaphore(_LOOKS)
        looks = [self._look(batch, room) for batch in list(self.live.values())]
        failed = [error for error in await asyncio.gather(*looks, return_exceptions=True) if error is not None]
        if failed:
            raise failed[0]

    async def _look(self, batch: Batch, room: asyncio.Semaphore) -> None:
        async with room:
            await self._look_if_due(batch)

    async def _look_if_due(self, batch: Batch) -> None:
        now = self._work.wall()
        late = now >= batch.deadline_s - self._work.config.margin
        unwanted = bool(batch.dropped) and not batch.cancelling and not self._jobs_of(batch)
        if not (late or unwanted or now - self._polled_s.get(batch.id, 0.0) >= self._work.config.poll):
            return
        self._polled_s[batch.id] = now
        try:
            await self._look_at(batch, now, late or unwanted)
        except WeirError as error:
            self._work.services.metrics.count("deferred_upstream_failed")
            self._work.services.log("warning", "batch_failed", batch=batch.id, code=error.code or error.type)
            if self._work.wall() >= batch.deadline_s - LAST_S:
                await self._give_back(batch)

    async def _look_at(self, batch: Batch, now: float, late: bool) -> None:
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
            await self._work.jobs.save_batch(batch)
            standing = await provider.cancel(batch.provider_id)
        else:
            standing = await provider.stands(batch.provider_id)
        if standing.over:
            await self._over(batch, await provider.results(standing), standing)
        elif now >= batch.deadline_s - LAST_S:
            await self._give_back(batch)

    async def _over(self, batch: Batch, lines: list[Line], standing: Standing) -> None:
        """The batch is over: what it answered is the jobs' answers, the rest waits again."""
        for line in lines:
            if line.custom_id in batch.dropped:
                await self._billed(line)
                continue
            job = self._work.live.get(line.custom_id)
            if job is None or job.batch != batch.id:
                continue
            if job.over:
                continue  # and to be written yet
            if 200 <= line.status < 300:
                self._work.book(job, line.body)
                await self._work.finish(job, "completed", line.status, line.body, "batch")
            elif 400 <= line.status < 500 and line.status not in AGAIN:
                await self._work.finish(job, "failed", line.status, line.body, "batch")
        self._work.services.metrics.count(f"batches_{standing.status}")
        await self._give_back(batch)

    async def _give_back(self, batch: Batch) -> None:
        """The batch is over for us: what has no answer waits again."""
        for id in batch.jobs:
            job = self._work.live.get(id)
            if job is not None and job.batch == batch.id and job.state == "submitted":
                job.state, job.batch = "waiting", ""
                await self._work.jobs.save(job)
        for id in batch.dropped:
            dropped = await self._work.jobs.load(id)
            if dropped is not None and dropped.kept:  # nothing came of it
                await self._work.settle(dropped)
                await self._work.jobs.save(dropped)
        await self._work.jobs.forget_batch(batch)
        self.live.pop(batch.id, None)
        self._polled_s.pop(batch.id, None)

    async def drop(self, job: Job) -> bool:
        """The job is about to be cancelled. Whether a batch may answer it all the same."""
        batch = self.live.get(job.batch)
        if batch is None:
            return False
        if job.id not in batch.dropped:
            batch.dropped.append(job.id)
        await self._work.jobs.save_batch(batch)
        return True

    async def _billed(self, line: Line) -> None:
        """A batch has answered a job that was cancelled: nobody gets the answer, but it costs."""
        job = await self._work.jobs.load(line.custom_id)
        if job is None or not 200 <= line.status < 300:
            return
        self._work.book(job, line.body)
        await self._work.settle(job)
        await self._work.jobs.save(job)

    def _jobs_of(self, batch: Batch) -> list[Job]:
        """Those that wait for it."""
        return [job for id in batch.jobs if (job := self._work.live.get(id)) is not None and job.batch == batch.id]

    def _provider(self, batch: Batch) -> Provider | None:
        """None where the configuration has no such deployment any more."""
        assert self._work.grounds is not None
        found = self._work.deployment(batch.deployment, batch.model)
        return None if found is None else Provider(self._work.grounds.dispatch, found, batch.model)


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
