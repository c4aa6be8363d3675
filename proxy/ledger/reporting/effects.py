"""Why two periods differ: price against volume, and what moved most.

Rules: pure. Per model and tier at a provider, with q tokens costing c before and q', c' now:

    volume effect = c · (q' − q) / q      what the change of the amount alone would have cost, at the old unit price
    price effect  = (c' − c) − volume     the rest: the unit price moved, or the mix of input, cached and output did

Rounded once, to whole nano-dollars, so that both add up to the difference exactly. What is used for the first time, or
no more, is volume. Where a model is not billed by tokens (images, searches), attempts are the amount.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from proxy.ledger.reporting.cells import Cell, Line, Sums, cut

PRICED_BY = ("provider", "model", "tier")


class Effect(msgspec.Struct, frozen=True):
    """What changed between two periods, in nano-dollars; `volume + price == now - before`."""

    group: tuple[str, ...]
    before: int
    now: int
    volume: int
    price: int

    @property
    def change(self) -> int:
        """The whole difference."""
        return self.now - self.before


class Mover(msgspec.Struct, frozen=True):
    """A group whose cost changed."""

    group: tuple[str, ...]
    before: int
    now: int

    @property
    def change(self) -> int:
        """The difference."""
        return self.now - self.before

    @property
    def share(self) -> float | None:
        """The difference as a part of before; None where there was nothing."""
        return self.change / self.before if self.before else None


def effect(group: tuple[str, ...], before: Sums, now: Sums) -> Effect:
    """One model's volume and price effect."""
    amounts = (before.tokens, now.tokens) if before.tokens and now.tokens else (before.attempts, now.attempts)
    old, new, change = before.nanodollars, now.nanodollars, now.nanodollars - before.nanodollars
    volume = _rounded(old * (amounts[1] - amounts[0]), amounts[0]) if amounts[0] and amounts[1] else change
    return Effect(group, old, new, volume, change - volume)


def effects(before: Iterable[Cell], now: Iterable[Cell]) -> list[Effect]:
    """Every model's effects, the largest difference first."""
    olds = {line.group: line.sums for line in cut(before, PRICED_BY)}
    news = {line.group: line.sums for line in cut(now, PRICED_BY)}
    found = [effect(group, olds.get(group, Sums()), news.get(group, Sums())) for group in {**olds, **news}]
    return sorted(found, key=lambda item: (-abs(item.change), item.group))


def movers(before: Sequence[Line], now: Sequence[Line], most: int = 10) -> list[Mover]:
    """The groups whose cost changed most, either way."""
    olds = {line.group: line.sums.nanodollars for line in before}
    news = {line.group: line.sums.nanodollars for line in now}
    found = [Mover(group, olds.get(group, 0), news.get(group, 0)) for group in {**olds, **news}]
    changed = [mover for mover in found if mover.change]
    return sorted(changed, key=lambda mover: (-abs(mover.change), mover.group))[:most]


def _rounded(numerator: int, denominator: int) -> int:
    """The quotient to the nearest whole, halves up."""
    return (2 * numerator + denominator) // (2 * denominator)
