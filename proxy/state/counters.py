"""What one scope has spent and holds, now.

Rules:
1. `spent` of a calendar window only grows. Of a rolling one, what was spent within its span counts, kept by sixtieths:
   the sixtieth in which the span began counts whole, so that no true window is ever overspent.
2. `held` is the sum over the open holds; who opens and closes them (`proxy.state.book`) keeps it so.
3. `waiting` are those whom this scope itself keeps waiting, `passing` those who belong here too but wait for another
   scope; both by age. The rules of the queues are in `proxy.state.book`.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import TYPE_CHECKING, Final

from proxy.state.protocol import Level, Scope

if TYPE_CHECKING:
    from proxy.state.book import Waiter

SLICES: Final = 60
KEPT_NS: Final = 3600 * 10**9  # after the end of its window: what settles late is still counted where it belongs


class Counter:
    """The state of one scope key."""

    __slots__ = ("_spent", "ends_ns", "held", "holds", "key", "passing", "slices", "span_ns", "waiting")

    def __init__(self, key: str, ends_ns: int, span_ns: int) -> None:
        self.key = key
        self.ends_ns = ends_ns
        self.span_ns = span_ns
        self.held = 0
        self.holds = 0  # open holds that name it
        self.slices: deque[list[int]] = deque()  # of a rolling window: [number of the sixtieth, amount]
        self.waiting: list[Waiter] = []
        self.passing: list[Waiter] = []
        self._spent = 0

    def __repr__(self) -> str:
        return f"<Counter {self.key} spent {self._spent} held {self.held} waiting {len(self.waiting)}>"

    def spent(self, now_ns: int) -> int:
        """What counts against the limit now."""
        if self.span_ns and self.slices:
            oldest = now_ns // self._slice_ns - SLICES
            while self.slices and self.slices[0][0] < oldest:
                self._spent -= self.slices.popleft()[1]
        return self._spent

    def spend(self, amount: int, now_ns: int) -> None:
        """Counts an amount."""
        self._spent += amount
        if self.span_ns:
            number = now_ns // self._slice_ns
            if self.slices and self.slices[-1][0] >= number:  # a clock that was set back doesn't split a slice
                self.slices[-1][1] += amount
            else:
                self.slices.append([number, amount])

    def level(self, now_ns: int) -> Level:
        """How full it is."""
        return Level(self.spent(now_ns), self.held, bool(self.waiting))

    def fits_in_ns(self, amount: int, limit: int, now_ns: int) -> int:
        """How long until this much fits beside what is spent, if nothing more is; 0 if that can't be known."""
        if not self.span_ns:
            return max(0, self.ends_ns - now_ns) if amount <= limit else 0
        excess = self.spent(now_ns) + amount - limit
        for number, spent in self.slices:
            excess -= spent
            if excess <= 0:
                return max(1, (number + SLICES + 1) * self._slice_ns - now_ns)
        return 0

    def blocks(self, ticket: int, ask: int, limit: int, spent: int) -> bool:
        """Whether somebody with this ticket has to wait here."""
        if self.waiting and self.waiting[0].ticket < ticket:
            return True
        room = limit - spent - self.held - ask
        if self.passing and self.passing[0].ticket < ticket:
            room -= self.passing[0].ask_of(self)
        return room < 0

    def idle(self, now_ns: int) -> bool:
        """Whether nothing would be lost by forgetting it."""
        if self.holds or self.waiting or self.passing:
            return False
        return not self.spent(now_ns) or 0 < self.ends_ns < now_ns - KEPT_NS

    def take_over(self, spent: int, slices: list[list[int]]) -> None:
        """Goes on from what was kept."""
        self._spent, self.slices = spent, deque(slices)

    def kept(self) -> tuple[int, int, int, list[list[int]]]:
        """What `Counters.restore` needs."""
        return self.ends_ns, self.span_ns, self._spent, list(self.slices)

    @property
    def _slice_ns(self) -> int:
        return max(1, self.span_ns // SLICES)


class Counters(dict[str, Counter]):
    """All counters, by key."""

    def of(self, scope: Scope) -> Counter:
        """The counter of a scope; made where there is none."""
        counter = self.get(scope.key)
        if counter is None:
            counter = self[scope.key] = Counter(scope.key, scope.ends_ns, scope.span_ns)
        return counter

    def restore(self, key: str, ends_ns: int, span_ns: int, spent: int, slices: list[list[int]]) -> None:
        """Takes over a counter that was kept."""
        counter = self.setdefault(key, Counter(key, ends_ns, span_ns))
        counter.take_over(spent, slices)

    def forget(self, now_ns: int) -> list[str]:
        """Drops those that say nothing any more; their keys."""
        idle = [key for key, counter in self.items() if counter.idle(now_ns)]
        for key in idle:
            del self[key]
        return idle


def enqueue(queue: list[Waiter], waiter: Waiter) -> None:
    """Puts a waiter where its age says."""
    if not queue or queue[-1].ticket < waiter.ticket:
        queue.append(waiter)
    else:
        insort(queue, waiter, key=_age)


def _age(waiter: Waiter) -> int:
    return waiter.ticket
