"""A forecast to the end of a period, with an interval.

The method, which the report names: days have a level and a weekday's factor. History is up to 56 complete days before
now. With at least 14 days, the factor of a weekday is its mean over the mean of all days, drawn towards 1 by the weight
of 2/7 of a day (so that one odd Sunday isn't the rule); with fewer, all are 1.
Dividing by them leaves the level: its mean over the last 28 days, and its standard deviation s about that mean. What
is left of the period is the sum of its factors F times the level; its standard error is

    s · √(ΣF² + F²/n)        n: the days that the level was taken from

(the days' own scatter, and that of the level), and the interval is ± Student's t with n − 1 degrees of freedom, never
below what is spent. What is left of today is the unexpired share of a day. Fewer than 5 complete days: no forecast.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from statistics import fmean, stdev

import msgspec

from proxy.ledger.reporting.periods import Period, midnight_s
from proxy.ledger.reporting.statistic import t_quantile

METHOD = "weekday-seasonal level of the last 28 days; interval by Student's t"
HISTORY_DAYS, LEVEL_DAYS, FEWEST_DAYS, SEASONAL_DAYS = 56, 28, 5, 14
CONFIDENCE = 0.9
_DRAW = 2 / 7


class Forecast(msgspec.Struct, frozen=True):
    """What a period will have cost at its end, in nano-dollars; with `confidence` between `low` and `high`."""

    spent: int
    expected: int
    low: int
    high: int
    confidence: float
    days_seen: int
    method: str = METHOD


def forecast(
    daily: Mapping[date, int], period: Period, now_s: float, began: date | None = None, confidence: float = CONFIDENCE
) -> Forecast | None:
    """From nano-dollars by day, those before the period included. `began`: the first day with any record, else that of
    `daily`. None where there is nothing to go by; a period that is over is what it cost."""
    spent = sum(amount for day, amount in daily.items() if period.first <= day <= period.last)
    if now_s >= period.end_s:
        return Forecast(spent, spent, spent, spent, confidence, 0)
    today, gone = _today(period, now_s)
    began = began or min(daily, default=today)
    history = [today - timedelta(days=n) for n in range(1, HISTORY_DAYS + 1)]
    seen = [day for day in history if day >= began]
    if len(seen) < FEWEST_DAYS:
        return None
    factors = _factors(daily, seen)
    levels = [daily.get(day, 0) / factors[day.weekday()] for day in seen[:LEVEL_DAYS]]
    shares = _left(period, today, gone, factors)
    return _sum(spent, levels, shares, confidence, len(seen))


def _today(period: Period, now_s: float) -> tuple[date, float]:
    """The day that it is, and how much of it is over; before the period, the day before it."""
    if now_s < period.start_s:
        return period.first - timedelta(days=1), 1.0
    for day in reversed(period.days):
        start = midnight_s(day, period.zone)
        if start <= now_s:
            return day, (now_s - start) / (midnight_s(day + timedelta(days=1), period.zone) - start)
    raise AssertionError("a period begins with its first day")


def _factors(daily: Mapping[date, int], seen: list[date]) -> list[float]:
    mean = fmean(daily.get(day, 0) for day in seen)
    if len(seen) < SEASONAL_DAYS or mean <= 0:
        return [1.0] * 7
    factors = []
    for weekday in range(7):
        own = [daily.get(day, 0) / mean for day in seen if day.weekday() == weekday]
        factors.append((sum(own) + _DRAW) / (len(own) + _DRAW))
    return factors


def _left(period: Period, today: date, gone: float, factors: list[float]) -> list[float]:
    """The factors of the days that are still to come, and that of what is left of today."""
    left = [factors[day.weekday()] for day in period.days if day > today]
    return [factors[today.weekday()] * (1 - gone), *left] if gone < 1 else left


def _sum(spent: int, levels: list[float], shares: list[float], confidence: float, days: int) -> Forecast:
    level, whole = fmean(levels), sum(shares)
    error = stdev(levels) * (sum(share**2 for share in shares) + whole**2 / len(levels)) ** 0.5
    width = t_quantile((1 + confidence) / 2, len(levels) - 1) * error
    expected = spent + round(level * whole)
    return Forecast(spent, expected, max(spent, round(expected - width)), round(expected + width), confidence, days)
