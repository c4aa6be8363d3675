"""Workers over one Store, with crashes, lost answers and waits: settled + reserved <= limit, always; nothing leaks."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.state.lease import Ticket
from proxy.state.protocol import Part, Scope, StateLost
from proxy.state.purse import TTL_S, Purse
from tests.state.test_purse import Clock, Losing

ORG = Scope("usd:org=acme:2026", 4000)
TEAMS = (Scope("usd:team=a:2026", 3000), Scope("usd:team=b:2026", 2500))
TOKENS = Scope("tok:team=a:2026", 100, hard=False)
TUPLES = ((TEAMS[0], ORG), (TEAMS[1], ORG), (ORG,), (TEAMS[0], TOKENS))
WORKERS = 3


class Workers(RuleBasedStateMachine):
    """What is reserved and settled is counted here beside, in plain dictionaries."""

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.store = Losing(self.clock)
        self.boots = [0] * WORKERS
        self.purses = [self._purse(worker) for worker in range(WORKERS)]
        self.open: list[tuple[int, Ticket, tuple[Part, ...]]] = []
        self.spent: dict[str, int] = {}

    def _purse(self, worker: int) -> Purse:
        self.boots[worker] += 1
        owner = f"host/{worker}/{self.boots[worker]}"
        return Purse(self.store, owner, WORKERS, clock=self.clock, now_ns=self.clock.ns, automatic=False)

    def run(self, work: Any) -> Any:
        async def whole() -> Any:
            result = await work
            for _ in range(30):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(whole())

    @rule(worker=st.integers(0, WORKERS - 1), scopes=st.sampled_from(TUPLES), amount=st.integers(0, 900))
    def reserve(self, worker: int, scopes: tuple[Scope, ...], amount: int) -> None:
        parts = tuple(Part(scope, amount) for scope in scopes)
        try:
            answer = self.run(self.purses[worker].reserve(parts))
        except StateLost:
            return
        if isinstance(answer, Ticket):
            self.open.append((worker, answer, parts))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.integers(0, 100))
    def settle(self, data: st.DataObject, share: int) -> None:
        index = data.draw(st.integers(0, len(self.open) - 1))
        _, ticket, parts = self.open.pop(index)

        async def settle() -> None:
            spent = [part.amount * share // 100 for part in parts]
            for part, amount in zip(parts, spent, strict=True):
                self.spent[part.scope.key] = self.spent.get(part.scope.key, 0) + amount
            ticket.settle(spent)

        self.run(settle())

    @rule(worker=st.integers(0, WORKERS - 1))
    def tell(self, worker: int) -> None:
        self.run(self.purses[worker].tell())

    @rule(s=st.sampled_from([0.1, 0.3, 1.5]))
    def later(self, s: float) -> None:
        self.clock.s += s

    @rule(how=st.sampled_from(["", "", "before", "after"]))
    def lose(self, how: str) -> None:
        self.store.lost = how

    @rule(worker=st.integers(0, WORKERS - 1))
    def crash(self, worker: int) -> None:
        """The worker dies; its holds are closed by what its journal says: settled, and all of what is not."""
        lost, self.store.lost = self.store.lost, ""
        for purse in self.purses[worker : worker + 1]:
            for task in purse._tasks:
                task.cancel()
            journal: dict[str, dict[str, int]] = {}
            for owner, ticket, parts in [one for one in self.open if one[0] == worker]:
                self.open.remove((owner, ticket, parts))
                for part in parts:
                    key = part.scope.key
                    journal.setdefault(ticket.hold, {}).setdefault(key, 0)
                    journal[ticket.hold][key] += part.amount
                    self.spent[key] = self.spent.get(key, 0) + part.amount
            for id, lease in purse._open.items():
                for scope, amount in zip(lease.scopes, lease.spent, strict=True):
                    journal.setdefault(id, {}).setdefault(scope.key, 0)
                    journal[id][scope.key] += amount
            known = {id: lease.scopes for id, lease in purse._open.items()}
            for standing in self.run(self.store.standing(purse.owner)):
                known.setdefault(standing.id, tuple(part.scope for part in standing.parts))
            for id, scopes in known.items():
                self.run(self.store.close(id, [journal.get(id, {}).get(scope.key, 0) for scope in scopes], scopes))
        self.purses[worker] = self._purse(worker)
        self.store.lost = lost

    @invariant()
    def never_overspent(self) -> None:
        if not hasattr(self, "open"):
            return
        for scope in (ORG, *TEAMS):
            reserved = sum(part.amount for _, _, parts in self.open for part in parts if part.scope is scope)
            assert self.spent.get(scope.key, 0) + reserved <= scope.limit

    def teardown(self) -> None:
        if not hasattr(self, "open"):
            return
        self.store.lost = ""
        while self.open:
            _, ticket, parts = self.open.pop()
            for part in parts:
                self.spent[part.scope.key] = self.spent.get(part.scope.key, 0) + part.amount

            async def settle(ticket: Ticket = ticket, parts: tuple[Part, ...] = parts) -> None:
                ticket.settle([part.amount for part in parts])

            self.run(settle())
        for _ in range(3):
            self.clock.s += TTL_S
            for purse in self.purses:
                self.run(purse.tell())
        scopes = (ORG, *TEAMS, TOKENS)
        for scope, level in zip(scopes, self.run(self.store.levels(scopes)), strict=True):
            assert (level.spent, level.held) == (self.spent.get(scope.key, 0), 0), scope.key
        assert self.run(self.store.standing()) == []
        for purse in self.purses:
            self.run(purse.aclose())
        self.loop.close()


Workers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, print_blob=True)
TestWorkers = Workers.TestCase
TestWorkers.__doc__ = "The machine above, by hypothesis; a failure prints how to repeat it."
