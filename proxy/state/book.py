"""The book of holds: who holds how much of which scope, and who waits.

Pure: no I/O, no clock (`now_ns` is handed in), no callbacks: who was kept waiting and now has an answer is in
`answered`, to be fetched after each call.

Rules:
1. For every hard scope spent + held <= limit after every grant, by the limit that the caller named.
2. A hold that doesn't fit beside what is *spent* is refused at once; one that doesn't fit beside what is *held* waits.
3. Nobody overtakes: a hold waits also where it would fit, if somebody older waits for one of its scopes.
4. Waiting *for* a scope means that this scope keeps one waiting. Somebody who waits for another scope only (a team's
   that is full) doesn't stand in the way of others here (in the organisation's), except that the oldest of those keeps
   room for itself: so it can't be starved by those who pass.
   The oldest of all who wait is therefore kept waiting by nothing but open holds, and nobody by anybody younger:
   queues can't deadlock.
5. Each change that may let somebody in looks at the oldest of its scope, and stops at the first who has to stay.
6. A hold closes once. Its id is remembered for an hour; within it nothing that is said of it has an effect.
7. Time lets in, too: `tick` looks again at rolling windows, and ends waits for a window that is over (`held`, with
   `retry_ns` 1: ask again, for the next window).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from proxy.state.changes import Changes
from proxy.state.counters import Counter, Counters, enqueue
from proxy.state.protocol import Granted, Hold, Level, Part, Refused, Scope, Standing

REMEMBERED_NS: Final = 3600 * 10**9
MOST_REMEMBERED: Final = 500_000  # closed ids: some 100 MB; beyond, the oldest are forgotten early
MOST_FORGOTTEN: Final = 2_000  # in one go
MOST: Final = 2**53  # of one part, in its unit; so that sums stay within 64 bits, and Lua's numbers exact


class Need:
    """What one hard scope must have room for."""

    __slots__ = ("ask", "counter", "limit", "part", "queue")

    def __init__(self, counter: Counter, limit: int, ask: int, part: int) -> None:
        self.counter = counter
        self.limit = limit
        self.ask = ask
        self.part = part
        self.queue: list[Waiter] | None = None  # of the counter, in which its waiter stands


class Waiter:
    """Somebody who waits: the ticket for a hold. `answer` is set when the wait is over."""

    __slots__ = ("answer", "counters", "hold", "needs", "ticket")

    def __init__(self, ticket: int, hold: Hold, counters: list[Counter], needs: list[Need]) -> None:
        self.ticket = ticket
        self.hold = hold
        self.counters = counters
        self.needs = needs
        self.answer: Granted | Refused | None = None

    def __repr__(self) -> str:
        return f"<Waiter {self.ticket} {self.hold.id}>"

    def ask_of(self, counter: Counter) -> int:
        """How much it wants of a counter."""
        return next((need.ask for need in self.needs if need.counter is counter), 0)


class Open:
    """A hold that stands."""

    __slots__ = ("counters", "held", "owner", "scopes", "spent", "until_ns")

    def __init__(
        self, owner: str, until_ns: int, scopes: list[Scope], counters: list[Counter], held: list[int], spent: list[int]
    ) -> None:
        self.owner = owner
        self.until_ns = until_ns
        self.scopes = scopes
        self.counters = counters
        self.held = held
        self.spent = spent

    def standing(self, id: str) -> Standing:
        """As the protocol shows it."""
        parts = tuple(map(Part, self.scopes, self.held))
        return Standing(id, self.owner, self.until_ns, parts, tuple(self.spent))


class Book:
    """All holds of all scopes."""

    def __init__(self, changes: Changes) -> None:
        self.counters = Counters()
        self.holds: dict[str, Open] = {}
        self.closed: dict[str, int] = {}  # id: when, oldest first
        self.answered: list[Waiter] = []
        self._changes = changes
        self._tickets = 0
        self._waiters: dict[int, Waiter] = {}

    def __repr__(self) -> str:
        return f"<Book {len(self.holds)} holds, {len(self._waiters)} waiting>"

    # --- what callers ask

    def reserve(self, hold: Hold, now_ns: int, may_wait: bool = True) -> Granted | Refused | Waiter:
        """All parts, none, or a place in the queue."""
        if hold.id in self.holds:
            return Granted(self.levels([part.scope for part in hold.parts], now_ns))
        if hold.id in self.closed:
            return Refused(0, "held", self.levels([part.scope for part in hold.parts], now_ns))
        of = self.counters.of
        counters = [of(part.scope) for part in hold.parts]
        waiter = Waiter(self._tickets + 1, hold, counters, _needs(hold.parts, counters))
        refused, blocked = self._verdict(waiter, now_ns)
        if refused is not None:
            return refused
        if not blocked:
            return self._grant(waiter, now_ns)
        if not may_wait:
            return self._refusal(waiter, blocked[0], "held", now_ns)
        self._tickets = waiter.ticket
        self._waiters[waiter.ticket] = waiter
        self._place(waiter, blocked)
        return waiter

    def adjust(
        self, id: str, held: Sequence[int], spent: Sequence[int], until_ns: int, scopes: Sequence[Scope], now_ns: int
    ) -> tuple[Level, ...]:
        """Held can fall, spent can rise."""
        hold = self.holds.get(id)
        if hold is None:
            if id in self.closed or not scopes:
                return self.levels(scopes, now_ns)
            hold = self._made(id, until_ns, scopes, held, spent)
        else:
            _check(hold.scopes, held, spent)
        hold.until_ns = until_ns
        for index, counter in enumerate(hold.counters):
            self._set(hold, index, counter, min(held[index], hold.held[index]), spent[index], now_ns)
        self._changes.holds.add(id)
        self._review(hold.counters, now_ns)
        return tuple([counter.level(now_ns) for counter in hold.counters])

    def close(self, id: str, spent: Sequence[int], scopes: Sequence[Scope], now_ns: int) -> bool:
        """Ends a hold; no `spent` leaves what was said last."""
        if id in self.closed:
            return False
        hold = self.holds.get(id)
        if hold is None:
            if not scopes:  # nobody can say what it was; but it can't be made any more
                self._remember(id, now_ns)
                return False
            hold = self._made(id, 0, scopes, spent)
        elif spent:
            _check(hold.scopes, spent)
        self._remember(id, now_ns)
        self._shut(id, hold, spent, now_ns)
        return True

    def levels(self, scopes: Iterable[Scope], now_ns: int) -> tuple[Level, ...]:
        """How full scopes are; asking makes none."""
        found = [self.counters.get(scope.key) for scope in scopes]
        return tuple([Level(0, 0) if counter is None else counter.level(now_ns) for counter in found])

    def standing(self, owner: str, overdue_ns: int | None, now_ns: int) -> list[Standing]:
        """Open holds, by owner and by how long they are over their time."""
        return [
            hold.standing(id)
            for id, hold in self.holds.items()
            if hold.owner.startswith(owner) and (overdue_ns is None or hold.until_ns + overdue_ns < now_ns)
        ]

    # --- waiting

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiters)

    def give_up(self, waiter: Waiter, now_ns: int) -> Granted | Refused:
        """The wait has taken as long as it may: what the answer is."""
        if waiter.answer is not None:
            return waiter.answer
        refused, blocked = self._verdict(waiter, now_ns)
        queued = self._remove(waiter)  # first: the levels that it is told are without it
        waiter.answer = self._refusal(waiter, refused.part if refused else (blocked or [0])[0], _why(refused), now_ns)
        self._review(queued, now_ns)
        return waiter.answer

    def cancel(self, waiter: Waiter, now_ns: int) -> None:
        """Nobody wants the answer any more: a hold that it got meanwhile is taken back."""
        if waiter.answer is None:
            waiter.answer = self._refusal(waiter, 0, "held", now_ns)
            self._leave(waiter, now_ns)
        elif isinstance(waiter.answer, Granted):
            self.withdraw(waiter.hold.id, now_ns)

    def withdraw(self, id: str, now_ns: int) -> None:
        """Undoes a grant that nobody heard of, as if it had never been asked for: it isn't remembered as closed."""
        hold = self.holds.get(id)
        if hold is None or any(hold.spent):
            return
        self._shut(id, hold, (), now_ns)

    def tick(self, now_ns: int) -> None:
        """Looks at what time alone may have changed."""
        for waiter in list(self._waiters.values()):
            if waiter.answer is None and any(0 < need.counter.ends_ns <= now_ns for need in waiter.needs):
                queued = self._remove(waiter)
                refused = self._refusal(waiter, 0, "held", now_ns)
                waiter.answer = Refused(refused.part, "held", refused.levels, retry_ns=1)
                self.answered.append(waiter)
                self._review(queued, now_ns)
        rolling = {need.counter for waiter in self._waiters.values() for need in waiter.needs if need.counter.span_ns}
        self._review(rolling, now_ns)

    def forget(self, now_ns: int) -> None:
        """Drops holds that hold nothing and were left behind, and counters that say nothing any more."""
        over_ns = now_ns - REMEMBERED_NS
        for id in [id for id, hold in self.holds.items() if hold.until_ns < over_ns and not any(hold.held)]:
            self.close(id, (), (), now_ns)
        self._changes.counters.update(self.counters.forget(now_ns))

    def forget_closed(self, now_ns: int) -> None:
        """Drops ids that were remembered for long enough, some at a time."""
        over, closed = len(self.closed) - MOST_REMEMBERED, self.closed
        old = list(itertools.islice(closed.items(), MOST_FORGOTTEN))
        for index, (id, at_ns) in enumerate(old):
            if index >= over and at_ns >= now_ns - REMEMBERED_NS:
                break
            del closed[id]
            self._changes.closed.pop(id, None)
            self._changes.forgotten.append(id)

    def restore(self, id: str, standing: Standing) -> None:
        """Takes over a hold that was kept; its counters' spent parts come by `Counter.restore`."""
        scopes = [part.scope for part in standing.parts]
        self._open(id, standing.owner, standing.until_ns, scopes, [part.amount for part in standing.parts])
        self.holds[id].spent = list(standing.spent)

    # --- inside

    def _verdict(self, waiter: Waiter, now_ns: int) -> tuple[Refused | None, list[int]]:
        """A refusal, or the parts that have to wait; neither means that it fits."""
        blocked: list[int] = []
        for need in waiter.needs:
            counter = need.counter
            spent = counter.spent(now_ns)
            if spent + need.ask > need.limit:
                return self._refusal(waiter, need.part, "spent", now_ns), blocked
            if counter.blocks(waiter.ticket, need.ask, need.limit, spent):
                blocked.append(need.part)
        return None, blocked

    def _refusal(self, waiter: Waiter, part: int, why: Literal["spent", "held"], now_ns: int) -> Refused:
        levels, scope = tuple([counter.level(now_ns) for counter in waiter.counters]), waiter.hold.parts[part].scope
        retry_ns = 0
        if why == "spent":
            retry_ns = waiter.counters[part].fits_in_ns(waiter.hold.parts[part].amount, scope.limit, now_ns)
        return Refused(part, why, levels, retry_ns)

    def _grant(self, waiter: Waiter, now_ns: int) -> Granted:
        hold = waiter.hold
        if hold.id not in self.holds:  # the same id may have waited twice
            scopes = [part.scope for part in hold.parts]
            self._open(hold.id, hold.owner, hold.until_ns, scopes, [part.amount for part in hold.parts])
            self._changes.holds.add(hold.id)
        return Granted(tuple([counter.level(now_ns) for counter in waiter.counters]))

    def _open(self, id: str, owner: str, until_ns: int, scopes: list[Scope], held: list[int]) -> None:
        counters = [self.counters.of(scope) for scope in scopes]
        for counter, amount in zip(counters, held, strict=True):
            counter.held += amount
            counter.holds += 1
        self.holds[id] = Open(owner, until_ns, scopes, counters, held, [0] * len(held))

    def _shut(self, id: str, hold: Open, spent: Sequence[int], now_ns: int) -> None:
        for index, counter in enumerate(hold.counters):
            self._set(hold, index, counter, 0, spent[index] if spent else 0, now_ns)
            counter.holds -= 1
        del self.holds[id]
        self._changes.holds.add(id)
        self._review(hold.counters, now_ns)

    def _remember(self, id: str, now_ns: int) -> None:
        self.closed[id] = self._changes.closed[id] = now_ns

    def _made(self, id: str, until_ns: int, scopes: Sequence[Scope], *amounts: Sequence[int]) -> Open:
        """A hold that isn't known, holding nothing."""
        _check(scopes, *amounts)
        self._open(id, "", until_ns, list(scopes), [0] * len(scopes))
        return self.holds[id]

    def _set(self, hold: Open, index: int, counter: Counter, held: int, spent: int, now_ns: int) -> None:
        counter.held += held - hold.held[index]
        hold.held[index] = held
        more = spent - hold.spent[index]
        if more > 0:
            counter.spend(more, now_ns)
            hold.spent[index] = spent
            self._changes.counters.add(counter.key)

    # --- queues

    def _place(self, waiter: Waiter, blocked: list[int]) -> None:
        """Has it wait for the parts in `blocked`, and pass in the others."""
        for need in waiter.needs:
            queue = need.counter.waiting if need.part in blocked else need.counter.passing
            if need.queue is queue:
                continue
            if need.queue is not None:
                need.queue.remove(waiter)
            enqueue(queue, waiter)
            need.queue = queue

    def _review(self, counters: Iterable[Counter], now_ns: int) -> None:
        """Lets in whom these counters kept waiting, oldest first, and whom that lets in in turn."""
        if not self._waiters:
            return
        pending = [counter for counter in counters if counter.waiting]
        while pending:
            counter = pending.pop()
            while counter.waiting:
                waiter = counter.waiting[0]
                refused, blocked = self._verdict(waiter, now_ns)
                if refused is not None or not blocked:
                    pending += self._remove(waiter)
                    waiter.answer = (
                        self._refusal(waiter, refused.part, _why(refused), now_ns)
                        if refused is not None
                        else self._grant(waiter, now_ns)
                    )
                    self.answered.append(waiter)
                    continue
                before = [need for need in waiter.needs if need.queue is need.counter.waiting]
                self._place(waiter, blocked)
                pending += [need.counter for need in before if need.queue is need.counter.passing]
                if counter.waiting[:1] == [waiter]:
                    break

    def _leave(self, waiter: Waiter, now_ns: int) -> None:
        self._review(self._remove(waiter), now_ns)

    def _remove(self, waiter: Waiter) -> list[Counter]:
        """Takes it out of all queues; where somebody may get in by that."""
        self._waiters.pop(waiter.ticket, None)
        for need in waiter.needs:
            if need.queue is not None:
                need.queue.remove(waiter)
                need.queue = None
        return [need.counter for need in waiter.needs if need.counter.waiting]


def _needs(parts: Sequence[Part], counters: Sequence[Counter]) -> list[Need]:
    """What the hard scopes must have room for: parts of the same scope together."""
    needs: list[Need] = []
    for index, (part, counter) in enumerate(zip(parts, counters, strict=True)):
        if not 0 <= part.amount <= MOST:
            raise ValueError(f"a hold of {part.amount} of {part.scope.key}")
        if not part.scope.hard:
            continue
        same = next((need for need in needs if need.counter is counter), None)
        if same is None:
            needs.append(Need(counter, part.scope.limit, part.amount, index))
        else:
            same.ask += part.amount
            same.limit = min(same.limit, part.scope.limit)
    return needs


def _why(refused: Refused | None) -> Literal["spent", "held"]:
    return "held" if refused is None else refused.why


def _check(scopes: Sequence[Scope], *amounts: Sequence[int]) -> None:
    for given in amounts:
        if len(given) != len(scopes):
            raise ValueError(f"{len(given)} amounts for a hold of {len(scopes)} parts")
        if any(not 0 <= amount <= MOST for amount in given):
            raise ValueError(f"amounts of {given}")
