"""What an operator may ask of jobs: which there are, what one is, to cancel some. Called in the supervisor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.errors import WeirError
from proxy.jobs import JOB, MOST, OPEN, Job, Jobs, told
from proxy.operating import Operating, no_such_operation


async def operate(operation: str, arguments: Mapping[str, Any], here: Operating) -> Mapping[str, Any]:
    """`list` {open, limit}, `show` {job}, `cancel` {jobs}."""
    if here.store is None:
        raise WeirError(409, "The workers share no state, so their jobs can't be seen.", code="no_state")
    jobs = Jobs(here.store)
    if operation == "list":
        return await _list(jobs, bool(arguments.get("open")), int(arguments.get("limit", 100)))
    if operation == "show":
        job = await _found(jobs, str(arguments.get("job", "")))
        answer = orjson.loads(job.answer) if job.answer else None
        return {**_line(job), "status_code": job.status or None, "answer": answer}
    if operation == "cancel":
        wanted = [await _found(jobs, str(id)) for id in arguments.get("jobs") or ()]
        going = [job for job in wanted if not job.over]
        for job in going:
            await jobs.cancel(job.id)
        return {"cancelling": len(going)}
    raise no_such_operation("defer_to_batch", operation)


async def _found(jobs: Jobs, id: str) -> Job:
    job = await jobs.load(id)
    if job is None:
        raise WeirError(404, "There is no such job, or no longer.", code="job_not_found")
    return job


async def _list(jobs: Jobs, only_open: bool, limit: int) -> Mapping[str, Any]:
    """The latest first: ids begin with the time, so that no others need be read."""
    keys = await jobs.store.keys(OPEN if only_open else JOB, MOST)
    shown: list[Job] = []
    for id in sorted((key.rpartition("/")[2] for key in keys), reverse=True):
        job = await jobs.load(id)
        if job is None or (only_open and job.over):
            continue
        if len(shown) == max(1, limit):
            return {"jobs": [_line(job) for job in shown], "more": True}
        shown.append(job)
    return {"jobs": [_line(job) for job in shown], "more": False}


def _line(job: Job) -> dict[str, Any]:
    return {**told(job, answer=False), "tenant": job.identity.tenant, "team": job.identity.team, "batch": job.batch}
