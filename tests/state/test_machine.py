"""Workers that reserve, wait, settle, release, give up, crash and expire, over each backend, in any order.

Always: settled + held <= limit for every hard scope. Soon after each step (what is told reaches everybody in a moment):
the Store holds and has spent exactly what is counted here beside, the oldest who waits doesn't fit, places that nobody
has any more are gone, and nobody overtook
anybody of the same scopes. At the end nothing is left. `WEIR_LONG=1` runs for minutes; `WEIR_SEED` repeats a run.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from proxy.state.protocol import Granted, Hold, Part, Refused, Scope, Store
from tests.state.asking import HOUR_NS, eventually
from tests.state.backends import BACKENDS, Backend
from tests.state.servers import Server

T = TypeVar("T")
_machines = itertools.count()  # not random numbers: those are the same in each run of the machine
LONG = bool(os.environ.get("WEIR_LONG"))
SOON_S = 20.0
TEAMS, ORG, TAG = (Scope("team:a", 20), Scope("team:b", 15)), Scope("org", 30), Scope("tag", 5, hard=False)
SCOPES = (*TEAMS, ORG, TAG)
TUPLES = ((TEAMS[0],), (TEAMS[0], ORG), (TEAMS[1], ORG), (ORG,), (TEAMS[0], TEAMS[1], TAG))
WORKERS = 2

workers = st.integers(0, WORKERS - 1)
tuples = st.sampled_from(TUPLES)
amounts = st.lists(st.integers(0, 12), min_size=3, max_size=3)
choices = st.integers(0, 10**6)


class Known:
    """A hold as it is counted here."""

    def __init__(self, asked: Hold) -> None:
        self.asked = asked
        self.scopes = [part.scope for part in asked.parts]
        self.held = [part.amount for part in asked.parts]
        self.spent = [0] * len(asked.parts)


class Waiting:
    """Somebody who waits; younger ones have higher numbers."""

    def __init__(self, number: int, worker: int, asked: Hold, task: asyncio.Task[Granted | Refused]) -> None:
        self.number = number
        self.worker = worker
        self.asked = asked
        self.task = task


class Workers(RuleBasedStateMachine):
    """`backend` is made anew for each run of the machine."""

    make: ClassVar[Callable[[], Backend]]
    crashes: ClassVar[bool]

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.numbers = 0
        self.open: dict[str, Known] = {}
        self.waiting: list[Waiting] = []
        self.let_in: list[tuple[int, tuple[Part, ...]]] = []
        self.total = dict.fromkeys((scope.key for scope in SCOPES), 0)
        self.closed: list[tuple[str, Hold]] = []
        self.dead: list[str] = []
        self.boots = [0] * WORKERS
        self.run(self._connect())

    async def _connect(self) -> None:
        self.backend = await type(self).make().__aenter__()
        self.stores: list[Store] = [await self.backend.connect() for _ in range(WORKERS)]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def within() -> T:
            async with asyncio.timeout(2 * SOON_S):
                return await work

        return self.loop.run_until_complete(within())

    def owner(self, worker: int) -> str:
        return f"host/{worker}/{self.boots[worker]}/"

    def hold(self, worker: int, scopes: tuple[Scope, ...], given: list[int], late: bool = False) -> Hold:
        self.numbers += 1
        until_ns = time.time_ns() + (-HOUR_NS // 60 if late else HOUR_NS)
        parts = tuple(Part(scope, amount) for scope, amount in zip(scopes, given, strict=False))
        return Hold(f"hold {self.numbers}", self.owner(worker), until_ns, parts)

    def pick(self, choice: int) -> Known:
        return list(self.open.values())[choice % len(self.open)]

    # --- what is counted here

    def held(self, scope: Scope) -> int:
        pairs = (pair for known in self.open.values() for pair in zip(known.scopes, known.held, strict=True))
        return sum(amount for of, amount in pairs if of.key == scope.key)

    def fits(self, asked: Hold) -> bool:
        return all(
            not part.scope.hard or self.total[part.scope.key] + self.held(part.scope) + part.amount <= part.scope.limit
            for part in asked.parts
        )

    def spend(self, known: Known, spent: list[int]) -> None:
        for index, scope in enumerate(known.scopes):
            self.total[scope.key] += max(0, spent[index] - known.spent[index])
            known.spent[index] = max(spent[index], known.spent[index])

    def answered(self, asked: Hold, answer: Granted | Refused) -> None:
        if isinstance(answer, Granted):
            self.open[asked.id] = Known(asked)
            return
        part = asked.parts[answer.part]
        never = self.total[part.scope.key] + part.amount > part.scope.limit
        assert part.scope.hard
        assert (answer.why == "spent") == never, (asked, answer)

    # --- what must be so

    def calm(self) -> None:
        """Waits until what was told has reached everybody; meanwhile and then no limit is passed."""
        self.run(self._calm())

    async def _calm(self) -> None:
        ends_s = self.loop.time() + SOON_S
        while True:
            levels = await self.stores[0].levels(SCOPES)
            for scope, level in zip(SCOPES, levels, strict=True):
                assert not scope.hard or level.spent + level.held <= scope.limit, (scope, level)
            self._collect()
            counted = [(self.total[scope.key], self.held(scope)) for scope in SCOPES]
            left = not self.waiting and any(level.waiting for level in levels)  # a place that nobody has any more
            if counted == [(level.spent, level.held) for level in levels] and not left and not self._should_enter():
                break
            assert self.loop.time() < ends_s, (levels, counted, [one.asked for one in self.waiting])
            await asyncio.sleep(0.001)
        for one in self.waiting:
            for number, parts in self.let_in:
                same = [part.scope for part in parts] == [part.scope for part in one.asked.parts]
                assert not (same and number > one.number), f"{number} overtook {one.number}"

    def _should_enter(self) -> bool:
        return bool(self.waiting) and self.fits(min(self.waiting, key=lambda one: one.number).asked)

    def _collect(self) -> None:
        for one in [one for one in self.waiting if one.task.done()]:
            self.waiting.remove(one)
            self.answered(one.asked, one.task.result())
            if isinstance(one.task.result(), Granted):
                self.let_in.append((one.number, one.asked.parts))

    # --- what workers do

    @rule(worker=workers, scopes=tuples, given=amounts, late=st.booleans())
    def reserve(self, worker: int, scopes: tuple[Scope, ...], given: list[int], late: bool) -> None:
        asked = self.hold(worker, scopes, given, late)
        fits, alone = self.fits(asked), not self.waiting
        answer = self.run(self.stores[worker].reserve(asked))
        assert fits or isinstance(answer, Refused)
        assert isinstance(answer, Granted) or not (fits and alone)
        self.answered(asked, answer)
        self.calm()

    @rule(worker=workers, scopes=tuples, given=amounts, wait_s=st.sampled_from((0.005, 3600.0, 3600.0, 3600.0)))
    def wait(self, worker: int, scopes: tuple[Scope, ...], given: list[int], wait_s: float) -> None:
        asked = self.hold(worker, scopes, given)
        if wait_s < 1:
            if self.fits(asked) and not self.waiting:
                wait_s = SOON_S  # it is let in at once: whether that takes a moment longer must not change the run
            self.answered(asked, self.run(self.stores[worker].reserve(asked, wait_s)))
        else:
            self.run(self._queue(worker, asked, wait_s))
        self.calm()

    async def _queue(self, worker: int, asked: Hold, wait_s: float) -> None:
        task = self.loop.create_task(self.stores[worker].reserve(asked, wait_s))
        self.waiting.append(Waiting(self.numbers, worker, asked, task))
        await asyncio.sleep(0)
        await self.stores[worker].levels(SCOPES)  # after it, on the same connection

    @precondition(lambda self: self.open)
    @rule(worker=workers, choice=choices, share=st.sampled_from((0, 0.5, 1)))
    def settle(self, worker: int, choice: int, share: float) -> None:
        """With all, a part or nothing (a release) of what it held; by any worker."""
        known = self.pick(choice)
        spent = [already + int(share * held) for already, held in zip(known.spent, known.held, strict=True)]
        assert self.run(self.stores[worker].close(known.asked.id, spent))
        self.spend(known, spent)
        del self.open[known.asked.id]
        self.closed.append((known.asked.id, known.asked))
        self.calm()

    @precondition(lambda self: self.open)
    @rule(worker=workers, choice=choices, less=amounts, share=st.sampled_from((0, 0.5, 1)))
    def adjust(self, worker: int, choice: int, less: list[int], share: float) -> None:
        known = self.pick(choice)
        more = [int(share * min(by, held)) for by, held in zip(less, known.held, strict=False)]
        spent = [already + by for already, by in zip(known.spent, more, strict=True)]
        held = [max(0, had - by) for had, by in zip(known.held, less, strict=False)]
        self.run(self.stores[worker].adjust(known.asked.id, held, spent, known.asked.until_ns))
        known.held = held
        self.spend(known, spent)
        self.calm()

    @precondition(lambda self: self.open or self.closed)
    @rule(worker=workers, choice=choices)
    def again(self, worker: int, choice: int) -> None:
        """What is said twice changes nothing."""
        if self.open:
            known = self.pick(choice)
            assert isinstance(self.run(self.stores[worker].reserve(known.asked)), Granted)
        if self.closed:
            id, asked = self.closed[choice % len(self.closed)]
            scopes = [part.scope for part in asked.parts]
            assert not self.run(self.stores[worker].close(id, [9] * len(scopes), scopes))
            assert isinstance(self.run(self.stores[worker].reserve(asked)), Refused)
        self.calm()

    @precondition(lambda self: self.waiting)
    @rule(choice=choices)
    def give_up(self, choice: int) -> None:
        one = self.waiting.pop(choice % len(self.waiting))
        self.run(self._gone([one]))
        if not one.task.cancelled():
            self.answered(one.asked, one.task.result())
        self.calm()

    async def _gone(self, waiting: list[Waiting]) -> None:
        for one in waiting:
            one.task.cancel()
        await asyncio.gather(*[one.task for one in waiting], return_exceptions=True)

    @precondition(lambda self: self.crashes and not self.dead)
    @rule(worker=workers)
    def crash(self, worker: int) -> None:
        """A worker ends without a word: its places go, its holds stay."""
        mine = [one for one in self.waiting if one.worker == worker]
        self.waiting = [one for one in self.waiting if one.worker != worker]
        self.run(self.backend.crash(self.stores[worker]))
        self.run(self._gone(mine))
        self.dead.append(self.owner(worker))
        self.boots[worker] += 1
        self.stores[worker] = self.run(self.backend.connect())
        self.calm()

    @precondition(lambda self: self.dead)
    @rule(worker=workers)
    def recover(self, worker: int) -> None:
        """What a dead worker held is found by its name, and settled by its journal."""
        owner = self.dead.pop()
        found = self.run(self.stores[worker].standing(owner))
        lost = {id: known for id, known in self.open.items() if known.asked.owner == owner}
        assert {one.id: [part.amount for part in one.parts] for one in found} == {i: k.held for i, k in lost.items()}
        for id, known in lost.items():
            assert self.run(self.stores[worker].close(id, known.spent))
            del self.open[id]
        self.calm()

    @rule(worker=workers)
    def expire(self, worker: int) -> None:
        """Holds past their time are listed, and nothing else happens to them."""
        found = self.run(self.stores[worker].standing(overdue_ns=0))
        late = {id: known.spent for id, known in self.open.items() if known.asked.until_ns < time.time_ns()}
        assert {one.id: list(one.spent) for one in found} == late
        self.calm()

    async def _nobody_waits(self) -> bool:
        return not any(level.waiting for level in await self.stores[1].levels(SCOPES))

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.run(self._gone(self.waiting))
            self.waiting.clear()
            for id, known in list(self.open.items()):
                assert self.run(self.stores[0].close(id, known.spent))
                del self.open[id]
            self.calm()
            assert self.run(self.stores[0].standing()) == []
            self.run(eventually(self._nobody_waits))
        finally:
            self.run(self.backend.stack.aclose())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("name", BACKENDS)
def test_settled_and_held_never_pass_the_limit(
    name: str, tmp_path_factory: pytest.TempPathFactory, server_of: Callable[[str], Server]
) -> None:
    """The machine, over a backend."""
    if name in ("redis", "valkey"):
        server_of(name)  # or it is skipped
    number = int(os.environ.get("WEIR_SEED") or random.randrange(2**32))
    print(f"WEIR_SEED={number} repeats this run")

    def home() -> Path:
        return tmp_path_factory.mktemp("machine")

    class Machine(Workers):
        make = lambda: BACKENDS[name](home(), server_of, f"machine-{next(_machines)}")  # noqa: E731
        crashes = name != "memory"

    run_state_machine_as_test(
        seeded(number)(Machine),
        settings=settings(
            max_examples=200 if LONG else 20,
            stateful_step_count=60 if LONG else 30,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
