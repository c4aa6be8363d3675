"""Who pays what of a shared call. Pure.

Rules:
1. The cost is shared by those who are still there when it is known, in equal parts that add up to it exactly.
2. Who has left pays nothing, as long as somebody stays; the last one to leave pays what was used until then.
3. Each saved what its own call would have cost, less its share.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.exchange import Attempt, Saving


def equal_parts(amount: int, count: int) -> list[int]:
    """`count` integers that add up to `amount` and differ by one at most, the larger first."""
    part, rest = divmod(amount, count)
    return [part + (number < rest) for number in range(count)]


def cost_of(attempts: Sequence[Attempt]) -> int | None:
    """What attempts cost together; None where one's price isn't known."""
    total = 0
    for attempt in attempts:
        if attempt.nanodollars is None:
            return None
        total += attempt.nanodollars
    return total


def saving(policy: str, cost: int, share: int, attempts: Sequence[Attempt]) -> Saving:
    """What one exchange saved: it would have made the same call, for the whole cost."""
    last = attempts[-1]
    tokens = last.usage.counts() if last.usage is not None else {}
    return Saving(policy, cost - share, last.served or last.model, tokens)
