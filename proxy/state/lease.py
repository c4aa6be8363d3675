"""A lease: a hold drawn ahead, from which one worker reserves and settles without asking anybody.

Rules (all pure: no I/O, the clock comes as a value):
1. For every hard scope, reserved + spent <= capacity after every take. Capacity is what the Store granted; it only
   falls, by giving back what is free.
2. What is told to the Store is absolute: held = capacity - spent (never negative), spent in all. So held + spent never
   rises by telling, unless more was used than was reserved, which is the truth.
3. Each ticket is settled once; a second time changes nothing.
4. Soft scopes have no capacity: they are counted, and never refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.state.protocol import Part, Scope


class Ticket:
    """One reservation. `hold` is the id of the hold in the Store that it draws on."""

    __slots__ = ("_lease", "amounts", "hold")

    def __init__(self, lease: Lease, amounts: Sequence[int]) -> None:
        self._lease: Lease | None = lease
        self.amounts = amounts
        self.hold = lease.id

    def settle(self, spent: Sequence[int]) -> None:
        """What it came to, part by part; may be more than was reserved. Only the first call counts."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.settle(self.amounts, spent)

    def release(self) -> None:
        """Nothing was used."""
        self.settle([0] * len(self.amounts))

    @property
    def settled(self) -> bool:
        """Whether it was settled or released."""
        return self._lease is None

    def __repr__(self) -> str:
        return f"<Ticket of {self.hold} {self.amounts}{' settled' if self.settled else ''}>"


class Lease:
    """One hold of this worker. `exact` ones carry a single ticket and end with it."""

    __slots__ = (
        "_changed",
        "_hard",
        "capacity",
        "exact",
        "id",
        "known",
        "low",
        "reserved",
        "retired",
        "scopes",
        "spent",
        "tickets",
        "told_s",
        "told_spent",
        "until_s",
        "used_s",
    )

    def __init__(
        self,
        id: str,
        scopes: tuple[Scope, ...],
        capacity: Sequence[int],
        until_s: float,
        now_s: float,
        changed: Callable[[Lease, Sequence[int]], object],
        *,
        exact: bool = False,
        known: bool = True,
    ) -> None:
        self.id = id
        self.scopes = scopes
        self.capacity = list(capacity)
        self.reserved = [0] * len(scopes)
        self.spent = [0] * len(scopes)
        self.told_spent = [0] * len(scopes)
        self.tickets = 0
        self.until_s = until_s  # by this worker's clock: after it nothing more is taken
        self.told_s = now_s
        self.used_s = now_s
        self.exact = exact
        self.known = known  # to the Store; a soft one needn't be, before there is something to tell
        self.low = False  # more than half of some hard scope was taken at once
        self.retired = False  # another has taken its place
        self._hard = tuple([index for index, scope in enumerate(scopes) if scope.hard])
        self._changed = changed

    def take(self, amounts: Sequence[int], now_s: float) -> Ticket | None:
        """A ticket, if all hard parts fit."""
        if self._hard and now_s >= self.until_s:
            return None
        capacity, reserved, spent = self.capacity, self.reserved, self.spent
        for index in self._hard:
            after, most = reserved[index] + spent[index] + amounts[index], capacity[index]
            if 2 * after > most:
                self.low = True
                if after > most:
                    return None
        for index, amount in enumerate(amounts):
            reserved[index] += amount
        self.tickets += 1
        self.used_s = now_s
        return Ticket(self, amounts)

    def settle(self, amounts: Sequence[int], spent: Sequence[int]) -> None:
        """Called by its tickets."""
        self.tickets -= 1
        for index, amount in enumerate(amounts):
            self.reserved[index] -= amount
            self.spent[index] += spent[index]
        self._changed(self, spent)

    def free(self, index: int) -> int:
        """What is neither reserved nor spent of a hard scope."""
        return self.capacity[index] - self.reserved[index] - self.spent[index]

    @property
    def spare(self) -> bool:
        """Whether there is anything to give back."""
        return any(self.free(index) > 0 for index in self._hard)

    def give_back(self) -> bool:
        """Keeps only what is reserved. True if that changed anything; the Store must be told then."""
        given = False
        for index in self._hard:
            if self.free(index) > 0:
                self.capacity[index] = self.reserved[index] + self.spent[index]
                given = True
        return given

    def held(self) -> list[int]:
        """What it holds, to be told; soft scopes hold nothing."""
        return [
            max(0, c - s) if scope.hard else 0
            for scope, c, s in zip(self.scopes, self.capacity, self.spent, strict=True)
        ]

    def told(self, spent: Sequence[int], now_s: float, until_s: float) -> list[int]:
        """The Store knows this much now; the difference to what it knew before."""
        spent = [max(new, old) for new, old in zip(spent, self.told_spent, strict=True)]  # answers may change places
        news = [new - old for new, old in zip(spent, self.told_spent, strict=True)]
        self.told_spent = spent
        self.told_s, self.until_s, self.known = now_s, until_s, True
        return news

    @property
    def dirty(self) -> bool:
        """Whether there is spending that the Store wasn't told of."""
        return self.spent != self.told_spent

    def parts(self) -> tuple[Part, ...]:
        """Its scopes with their capacities."""
        return tuple([Part(scope, amount) for scope, amount in zip(self.scopes, self.capacity, strict=True)])

    def __repr__(self) -> str:
        kind = "exact" if self.exact else "retired" if self.retired else "open"
        return f"<Lease {self.id} {kind} {self.capacity} reserved={self.reserved} spent={self.spent}>"
