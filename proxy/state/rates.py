"""Rate limits by GCRA, the generic cell rate algorithm (ITU-T I.371): one number a key, and no double burst.

The number is the time at which the rate will be whole again. Taking moves it on by cost x period / limit, rounded up
to the nanosecond; a cost is allowed if it stays within `burst` of now. A cost above the burst never fits: `retry_ns`
is 0 then. Pure: the time is handed in.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.state.changes import Changes
from proxy.state.protocol import Rate, Taken


class Gcra:
    """All rates, by key."""

    def __init__(self, changes: Changes) -> None:
        self.whole_at: dict[str, int] = {}  # key: when all of it is back
        self._changes = changes

    def take(self, rates: Sequence[Rate], now_ns: int) -> tuple[Taken, ...]:
        """Takes from all, or from none."""
        before = {rate.key: max(self.whole_at.get(rate.key, 0), now_ns) for rate in rates}
        after, taken = dict(before), []
        for rate in rates:
            said, after[rate.key] = _taken(rate, after[rate.key], now_ns)
            taken.append(said)
        if all(said.allowed for said in taken):
            self._set(after, now_ns)
            return tuple(taken)
        return tuple(
            said if not said.allowed else _level(rate, before[rate.key], now_ns)
            for rate, said in zip(rates, taken, strict=True)
        )

    def give(self, rates: Sequence[Rate], now_ns: int) -> None:
        """Puts back, or takes whatever the limit says."""
        after = {rate.key: max(self.whole_at.get(rate.key, 0), now_ns) for rate in rates}
        for rate in rates:
            after[rate.key] -= _ns(rate, rate.cost)
        self._set(after, now_ns)

    def forget(self, now_ns: int) -> None:
        """Drops what is whole."""
        for key in [key for key, at_ns in self.whole_at.items() if at_ns <= now_ns]:
            del self.whole_at[key]
            self._changes.rates.add(key)

    def _set(self, after: dict[str, int], now_ns: int) -> None:
        for key, at_ns in after.items():
            if at_ns > now_ns:
                self.whole_at[key] = at_ns
            else:
                self.whole_at.pop(key, None)
            self._changes.rates.add(key)


def _ns(rate: Rate, cost: int) -> int:
    """How far a cost moves the rate; a limit of 0 is never whole again."""
    return -(-cost * rate.period_ns // rate.limit) if rate.limit > 0 else cost * rate.period_ns


def _burst(rate: Rate) -> int:
    return rate.limit if rate.burst is None else rate.burst


def _taken(rate: Rate, whole_at: int, now_ns: int) -> tuple[Taken, int]:
    after, most_ns = whole_at + _ns(rate, rate.cost), _ns(rate, _burst(rate))
    if after - now_ns <= most_ns:
        return _level(rate, after, now_ns), after
    level = _level(rate, whole_at, now_ns)
    retry_ns = after - most_ns - now_ns if rate.cost <= _burst(rate) else 0
    return Taken(False, level.remaining, level.reset_ns, retry_ns), whole_at


def _level(rate: Rate, whole_at: int, now_ns: int) -> Taken:
    free_ns = _ns(rate, _burst(rate)) - (whole_at - now_ns)
    remaining = max(0, free_ns * rate.limit // rate.period_ns) if rate.limit > 0 else 0
    return Taken(True, remaining, whole_at - now_ns)
