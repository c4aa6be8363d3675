"""What budgets hold for a job: holds of the Store's that no worker owns, so that a restart doesn't forget them.

Rules:
1. They are in the Store before the job is, and the job says which they are: whoever has the job can settle them.
2. Each is settled once, by what the answer came to. What a worker that died may have sent counts for all that was held.
3. A synchronous run draws on them first; what it calls besides, its guards are asked for as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from policies.budget.cost import came_to
from proxy.deferred import release
from proxy.exchange import Attempt, Guard, Settle
from proxy.jobs import Job, Kept
from proxy.state.protocol import Store

OWNER: Final = "deferred"


class NoRoomError(Exception):
    """Others have taken it between two steps."""


async def keep(
    store: Store, attempt: Attempt, settles: Sequence[Settle], id: str, until_ns: int
) -> tuple[list[Kept], list[Settle]]:
    """What outlives this worker of what guards admitted, and whom to tell besides when the job is over.

    Raises NoRoomError or StateLost; then nothing is held.
    """
    kept: list[Kept] = []
    rest: list[Settle] = []
    for at, settle in enumerate(settles):
        keeping = getattr(settle, "keep", None)
        if keeping is None:
            rest.append(settle)
            continue
        try:
            found = await keeping(f"{id}/{at}", OWNER, until_ns)
            if found is None:
                raise NoRoomError
        except BaseException:
            release(attempt, [*rest, *settles[at + 1 :]])
            await close(store, kept, None)
            raise
        kept += found
    return kept, rest


async def close(store: Store, kept: Sequence[Kept], amounts: Sequence[int] | None) -> None:
    """Settles; without amounts, nothing was used. May be said again, as after the StateLost that it raises."""
    spent: dict[str, list[int]] = {}
    for at, one in enumerate(kept):
        spent.setdefault(one.hold, []).append(0 if amounts is None else amounts[at])
    for hold, parts in spent.items():
        await store.close(hold, parts)


def came_to_all(kept: Sequence[Kept], attempt: Attempt) -> list[int]:
    """What a settled attempt counts for, part by part."""
    return [came_to(attempt, one.unit, one.part.amount, one.unobserved) for one in kept]


def in_full(kept: Sequence[Kept]) -> list[int]:
    """All that was held: for what nobody knows the end of."""
    return [one.part.amount for one in kept]


class Drawing:
    """The guard of a synchronous run. Its first call, if it is as it was admitted, needs no other."""

    def __init__(self, job: Job, store: Store, guards: Sequence[Guard]) -> None:
        self._job, self._store, self._guards = job, store, guards
        self._drawn = False

    async def __call__(self, attempt: Attempt) -> Settle | None:
        """Draws on what is held, or asks the others."""
        job = self._job
        if job.kept and not job.came and not self._drawn:
            if attempt.deployment == job.deployment and attempt.request.model == job.model:
                return self._draw(attempt)
            await close(self._store, job.kept, None)  # another model or deployment has another price
            job.kept = []
        settles: list[Settle] = []
        try:
            for guard in self._guards:
                if (settle := await guard(attempt)) is not None:
                    settles.append(settle)
        except BaseException:
            release(attempt, settles)
            raise
        return _all(settles)

    def _draw(self, attempt: Attempt) -> Settle:
        job, self._drawn = self._job, True
        attempt.holds = (*attempt.holds, *dict.fromkeys(one.hold for one in job.kept))
        for one in job.kept:
            if one.unit == "usd" and one.part.scope.hard:
                attempt.estimate_nanodollars = one.part.amount
            elif one.unit == "tok" and one.part.scope.hard:
                attempt.reserved_tokens = one.part.amount
        return self._settle

    def _settle(self, attempt: Attempt) -> None:
        amounts = came_to_all(self._job.kept, attempt)
        if any(amounts):
            self._job.came = amounts
        else:
            self._drawn = False  # nothing was billed: the next call draws on it


def _all(settles: list[Settle]) -> Settle:
    def settle(attempt: Attempt) -> None:
        for one in reversed(settles):
            one(attempt)

    return settle
