"""The jobs that one worker has: what each is made of, how it ends, and what it comes to.

Rules:
1. What is here is what the Store has; nothing is done that isn't written there before.
2. An answer from a batch is journalled under the job's own id, so that doing it twice counts once. What budgets hold
   for a job (`held.py`) is settled before the job is written as over, and again if nobody knows whether it was.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Final

from policies.defer_to_batch import held
from policies.defer_to_batch.config import Config
from proxy.body import scan
from proxy.chain import Services
from proxy.deferred import Grounds, deployments, release, settled, standard_nanodollars
from proxy.endpoints import endpoint_of
from proxy.errors import WeirError
from proxy.exchange import Exchange, Request, Saving, Settle
from proxy.jobs import Job, Jobs
from proxy.response import Outcome
from proxy.upstreams.deployment import Deployment

AGAIN: Final = frozenset((408, 409, 429))
LAST_S: Final = 180.0  # before the deadline: a batch that isn't over by then is given up
_TRIES: Final = 2


class Worklist:
    """All that one worker has accepted or taken over. `told` hears of each job that is over."""

    def __init__(
        self,
        config: Config,
        services: Services,
        wall: Callable[[], float],
        told: Callable[[Job], object],
    ) -> None:
        assert services.store is not None
        self.config, self.services, self.wall, self._told = config, services, wall, told
        self.jobs = Jobs(services.store, config.keep)
        self.live: dict[str, Job] = {}
        self.grounds: Grounds | None = None
        self.settles: dict[str, list[Settle]] = {}  # of guards that only this worker can tell
        self.not_before_s: dict[str, float] = {}  # of synchronous runs that failed
        self._waiters: dict[str, list[asyncio.Future[Job]]] = {}
        self.begin_anew()

    def begin_anew(self) -> None:
        """Under another name, without any."""
        self.owner = f"{self.services.name}-{secrets.token_hex(6)}"
        self.live.clear()
        self.not_before_s.clear()

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

    def submittable(self, job: Job, now: float) -> bool:
        """Whether it may go into a batch yet."""
        return job.state == "waiting" and job.tries < _TRIES and now < self.late_at(job)

    def late_at(self, job: Job) -> float:
        """From when on it can't wait for a batch any more."""
        return job.deadline_s - self.config.margin

    # --- what it is made of

    def request(self, job: Job, exchange: Exchange) -> Request:
        """What it asks."""
        endpoint = endpoint_of("POST", job.path)
        assert endpoint is not None
        json = [(b"content-type", b"application/json")]
        return Request(exchange, endpoint, "POST", job.path.encode(), job.path, json, scan(job.body), job.model)

    def exchange(self, job: Job, run: str = "") -> Exchange:
        """Under its own id, or that of one of its runs."""
        return Exchange(
            job.identity,
            job.endpoint,
            asked=job.model,
            tags=job.tags,
            kind="batch",
            parent=job.parent,
            started_by=self.services.name,
            spawn=self.services.spawn,
            id=job.id + run,
        )

    def deployment(self, label: str, model: str) -> Deployment | None:
        """None where the configuration has none such any more."""
        assert self.grounds is not None
        try:
            found = deployments(self.grounds.dispatch, model)
        except WeirError:
            return None
        return next((one for one in found if one.label == label), None)

    # --- how it ends

    def book(self, job: Job, body: bytes) -> None:
        """The account of an answer that came in a batch."""
        assert self.grounds is not None
        deployment = self.deployment(job.deployment, job.model)
        if deployment is None:
            return
        settles = self.settles.pop(job.id, [])
        exchange = self.exchange(job)
        exchange.status = 200
        attempt = settled(self.grounds.dispatch, self.request(job, exchange), deployment, body, settles)
        job.came = held.came_to_all(job.kept, attempt)
        standard = standard_nanodollars(attempt)
        if standard is not None and attempt.nanodollars is not None and attempt.usage is not None:
            job.saved_nanodollars = standard - attempt.nanodollars
            model, tokens = attempt.served or attempt.model, attempt.usage.counts()
            exchange.save(Saving(self.services.name, job.saved_nanodollars, model, tokens, "observed"))
        job.nanodollars = exchange.nanodollars
        self.end(exchange)

    def end(self, exchange: Exchange, outcome: Outcome = Outcome.COMPLETE) -> None:
        """Nothing more comes."""
        assert self.grounds is not None
        exchange.on_end = self.grounds.on_end
        exchange.end(outcome)
        exchange.release()

    async def finish(self, job: Job, state: Any, status: int, body: bytes, how: str) -> None:
        """It is over, by an answer or without."""
        job.state, job.status, job.answer, job.how, job.ended_s = state, status, body, how, self.wall()
        await self.ended(job)

    async def settle(self, job: Job) -> None:
        """What budgets hold for it comes to what it came to."""
        await held.close(self.jobs.store, job.kept, job.came or None)
        job.kept, job.came = [], []

    async def ended(self, job: Job) -> None:
        """Writes what it came to; then all are told who wait for it."""
        if job.kept and not (job.state == "cancelled" and job.batch):  # else its batch settles it
            await self.settle(job)
        await self.jobs.save(job)
        if self.live.pop(job.id, None) is None:
            return  # said twice at once
        self.not_before_s.pop(job.id, None)
        settles = self.settles.pop(job.id, [])
        if settles:
            release(None, settles, self.request(job, self.exchange(job)))
        for waiter in self._waiters.pop(job.id, []):
            if not waiter.done():
                waiter.set_result(job)
        self.services.metrics.count(f"deferred_{job.state}")
        self._told(job)
