"""Requests that are answered later: what is kept of them, and what their clients are told. Pure but for the Store.

Rules:
1. A job is in the Store before anybody is told of it, and until `ttl_s` after it ended.
2. `jobs/open/OWNER/ID` stands as long as a job isn't over: whoever takes over from an owner finds its jobs there.
3. A job belongs to its tenant: nobody else is told that it exists.
4. The Store's values are bounded, answers aren't (embeddings of many inputs): a large one is kept in pieces, before
   the job that says how many.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
import orjson

from proxy.exchange import Identity
from proxy.state.protocol import Part, Store

JOB: Final = "jobs/job/"
OPEN: Final = "jobs/open/"
BATCH: Final = "jobs/batch/"
CANCEL: Final = "jobs/cancel/"
ANSWER: Final = "jobs/answer/"
PIECE_BYTES: Final = 3 * 2**20
KEPT_S: Final = 48 * 3600.0
MOST: Final = 200_000

State = Literal["waiting", "submitted", "running", "completed", "failed", "cancelled"]
OVER: Final = frozenset(("completed", "failed", "cancelled"))


class Kept(msgspec.Struct, frozen=True):
    """A part of what a budget holds for a job, as a hold of the Store's that no worker owns; and how it is settled:
    in which unit, and at what where usage wasn't observed."""

    hold: str
    part: Part
    unit: Literal["usd", "tok", "req"]
    unobserved: Literal["worst", "estimate"]


class Job(msgspec.Struct):
    """One request. Times are Unix seconds; `body` and `answer` are JSON as sent and received."""

    id: str
    identity: Identity
    tags: dict[str, str]
    endpoint: str
    path: str
    model: str
    body: bytes
    deployment: str
    accepted_s: float
    deadline_s: float
    owner: str
    parent: str  # the exchange that it was accepted in
    state: State = "waiting"
    batch: str = ""
    tries: int = 0  # batches that it was in
    runs: int = 0  # times that it was sent by itself
    how: str = ""  # batch or synchronous, once it is over
    status: int = 0
    answer: bytes = b""
    nanodollars: int | None = 0
    saved_nanodollars: int = 0
    ended_s: float = 0.0
    kept: list[Kept] = []  # what budgets hold for it, until that is settled
    pieces: int = 0  # of its answer, where that is kept by itself
    came: list[int] = []  # what it came to, part by part, once that is known

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.state}>"  # never its content

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in OVER


class Batch(msgspec.Struct):
    """Jobs that were sent together. `provider_id` is empty until the provider is known to have it."""

    id: str
    deployment: str
    path: str
    model: str
    jobs: list[str]
    deadline_s: float
    owner: str
    made_s: float
    file_id: str = ""
    provider_id: str = ""
    tried: bool = False  # it may be at the provider though nobody knows
    cancelling: bool = False
    dropped: list[str] = []  # of its jobs, those that were cancelled: what it answers of them is billed all the same


_encode: Final = msgspec.msgpack.Encoder().encode
_job: Final = msgspec.msgpack.Decoder(Job).decode
_batch: Final = msgspec.msgpack.Decoder(Batch).decode


class Jobs:
    """Jobs and batches in the Store. Every call may raise `StateLost`."""

    def __init__(self, store: Store, kept_s: float = KEPT_S) -> None:
        self.store = store
        self._kept_s = kept_s

    async def save(self, job: Job) -> None:
        """Keeps a job as it is. Raises ValueError for a request that is too large."""
        if len(job.body) > PIECE_BYTES:
            raise ValueError(f"a request of {len(job.body)} bytes; {PIECE_BYTES} are the most")
        ttl_s = self._kept_s + max(0.0, job.deadline_s - job.accepted_s)
        kept, answer = job, job.answer
        if len(job.body) + len(answer) > PIECE_BYTES:
            starts = range(0, len(answer), PIECE_BYTES)
            for number, start in enumerate(starts):
                await self.store.put(f"{ANSWER}{job.id}/{number}", answer[start : start + PIECE_BYTES], ttl_s)
            kept = msgspec.structs.replace(job, answer=b"", pieces=len(starts))
        mark = f"{OPEN}{job.owner}/{job.id}"
        if job.state == "waiting":  # first: a mark without a job is tidied up, a job without a mark would be nobody's
            await self.store.put(mark, b"", self._kept_s + job.deadline_s - job.accepted_s)
        await self.store.put(JOB + job.id, _encode(kept), ttl_s)
        if job.over:
            await self.store.delete([mark])

    async def forget(self, job: Job) -> None:
        """It never was."""
        await self.store.delete([JOB + job.id, f"{OPEN}{job.owner}/{job.id}"])

    async def load(self, id: str) -> Job | None:
        """A job; None where it is forgotten, or was never."""
        data = await self.store.get(JOB + id)
        if data is None:
            return None
        job = _job(data)
        for number in range(job.pieces):
            piece = await self.store.get(f"{ANSWER}{id}/{number}")
            if piece is None:
                return None
            job.answer += piece
        job.pieces = 0
        return job

    async def save_batch(self, batch: Batch) -> None:
        """Keeps a batch."""
        await self.store.put(BATCH + batch.owner + "/" + batch.id, _encode(batch), self._kept_s + 86_400)

    async def forget_batch(self, batch: Batch) -> None:
        """It is over."""
        await self.store.delete([BATCH + batch.owner + "/" + batch.id])

    async def of(self, owner: str) -> tuple[list[Job], list[Batch]]:
        """What an owner hasn't finished."""
        jobs, ended = [], []
        for mark in await self.store.keys(f"{OPEN}{owner}/", MOST):
            job = await self.load(mark.rpartition("/")[2])
            if job is None or job.over:
                ended.append(mark)  # its owner died between the two
            else:
                jobs.append(job)
        if ended:
            await self.store.delete(ended)
        batches = [await self.store.get(key) for key in await self.store.keys(f"{BATCH}{owner}/", MOST)]
        return jobs, [_batch(one) for one in batches if one]

    async def take_over(self, owner: str, by: str) -> tuple[list[Job], list[Batch]]:
        """What an owner that is gone hasn't finished now belongs to another."""
        jobs, batches = await self.of(owner)
        for batch in batches:
            old = BATCH + batch.owner + "/" + batch.id
            batch.owner = by
            await self.save_batch(batch)
            await self.store.delete([old])
        for job in jobs:
            mark = f"{OPEN}{job.owner}/{job.id}"
            job.owner = by
            await self.store.put(f"{OPEN}{by}/{job.id}", b"", self._kept_s + job.deadline_s - job.accepted_s)
            await self.save(job)
            await self.store.delete([mark])
        return jobs, batches

    async def owners(self) -> set[str]:
        """Everybody who hasn't finished something."""
        keys = await self.store.keys(OPEN, MOST)
        return {key[len(OPEN) :].rpartition("/")[0] for key in keys}

    async def cancel(self, id: str) -> None:
        """Asks its owner to end a job."""
        await self.store.put(CANCEL + id, b"", 3600.0)

    async def cancelled(self) -> list[str]:
        """Jobs that somebody wants ended."""
        return [key[len(CANCEL) :] for key in await self.store.keys(CANCEL, 1000)]


def told(job: Job, *, answer: bool = True) -> dict[str, Any]:
    """A job as its client sees it; for orjson, which takes the answer as it is."""
    shown: dict[str, Any] = {
        "id": job.id,
        "object": "weir.job",
        "status": job.state,
        "endpoint": job.path,
        "model": job.model,
        "created_at": int(job.accepted_s),
        "deadline_at": int(job.deadline_s),
        "ended_at": int(job.ended_s) or None,
        "how": job.how or None,
        "cost_nanodollars": job.nanodollars if job.over else None,
        "saved_nanodollars": job.saved_nanodollars if job.over else None,
    }
    if answer and job.over:
        body = orjson.Fragment(job.answer) if job.answer else None
        shown["response"] = {"status_code": job.status, "body": body} if job.status else None
    return shown
