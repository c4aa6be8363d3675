"""Days that cost unlike those before them.

The rule, which the report names: a group's day is compared with the same weekdays of the eight weeks before it, or,
with fewer than four of those, with the 28 days before it. It is an anomaly if it lies more than 3.5 robust standard
deviations (1.4826 × median absolute deviation, at least a tenth of the median) from their median, and by more than
0.10 USD and 20 %. Today isn't judged: it isn't over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from statistics import median

import msgspec

from proxy.ledger.reporting.cells import Cell, by_day, grouped
from proxy.ledger.reporting.statistic import spread

RULE = "over 3.5 robust deviations from the same weekdays of 8 weeks (else 28 days), and over 0.10 USD and 20 %"
DEVIATIONS, LEAST_NANODOLLARS, LEAST_SHARE = 3.5, 100_000_000, 0.2
WEEKS, FEWEST, DAYS = 8, 4, 28


class Anomaly(msgspec.Struct, frozen=True):
    """A day of a group that was `deviations` away from what was `usual`."""

    day: date
    group: tuple[str, ...]
    nanodollars: int
    usual: int
    deviations: float


def anomalies(
    cells: Iterable[Cell], by: Sequence[str], first: date, last: date, began: date | None = None
) -> list[Anomaly]:
    """Those of the days from `first` to `last`; `cells` must reach back before them, to `began` at most."""
    groups = grouped(cells, by)
    start = began or min((cell.day for own in groups.values() for cell in own), default=first)
    found = []
    for group, own in groups.items():
        daily = by_day(own)
        for n in range((last - first).days + 1):
            if anomaly := _judge(group, daily, first + timedelta(days=n), start):
                found.append(anomaly)
    return sorted(found, key=lambda item: (-abs(item.nanodollars - item.usual), item.day, item.group))


def _judge(group: tuple[str, ...], daily: Mapping[date, int], day: date, began: date) -> Anomaly | None:
    usual = _history(daily, day, began)
    if len(usual) < FEWEST:
        return None
    middle, amount = median(usual), daily.get(day, 0)
    away = abs(amount - middle)
    if away <= LEAST_NANODOLLARS or away <= LEAST_SHARE * middle:
        return None
    deviation = max(spread(usual), 0.1 * middle, 1.0)
    return Anomaly(day, group, amount, round(middle), away / deviation) if away > DEVIATIONS * deviation else None


def _history(daily: Mapping[date, int], day: date, began: date) -> list[int]:
    weekdays = [day - timedelta(days=7 * n) for n in range(1, WEEKS + 1)]
    own = [daily.get(earlier, 0) for earlier in weekdays if earlier >= began]
    if len(own) >= FEWEST:
        return own
    days = [day - timedelta(days=n) for n in range(1, DAYS + 1)]
    return [daily.get(earlier, 0) for earlier in days if earlier >= began]
