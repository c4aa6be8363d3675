"""A report: everything that is told of one period, as numbers. `sections` and the formats write it down.

Rules: `report` reads the ledger once, within one snapshot; the rest is a pure function of what was read. The report of
a closed month depends on that month and those before it, and on nothing else: not on the time.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import msgspec

from proxy.ledger.reporting.anomalies import Anomaly, anomalies
from proxy.ledger.reporting.budgets import Actual, Budget, actuals
from proxy.ledger.reporting.cells import Cell, Line, Sums, Where, by_day, cut, distinct, total, within
from proxy.ledger.reporting.effects import Effect, Mover, effects, movers
from proxy.ledger.reporting.forecast import HISTORY_DAYS, Forecast, forecast
from proxy.ledger.reporting.kept import kept
from proxy.ledger.reporting.periods import Period, offset_at
from proxy.ledger.reporting.savings import Claim, claims, observed
from proxy.ledger.reporting.savings import Effect as Observed
from proxy.ledger.reporting.source import Accrued, Closing, Source

BY = ("team",)


class Asked(msgspec.Struct, frozen=True):
    """What is to be reported. `users` names a tag whose values are counted, for the cost of each; `now_s`: the time."""

    period: Period
    now_s: float
    by: tuple[str, ...] = BY
    where: Where = Where()
    compare: bool = False
    users: str | None = None
    budgets: tuple[Budget, ...] = ()


class Report(msgspec.Struct, frozen=True):
    """What is told. Everything that needs a period before is empty without one."""

    asked: Asked
    closing: Closing | None
    sums: Sums
    lines: list[Line]
    days: dict[date, int]
    untagged: Sums
    users: int
    accrued: Accrued | None
    before: Sums | None
    lines_before: list[Line]
    effects: list[Effect]
    movers: list[Mover]
    budgets: list[Actual]
    forecast: Forecast | None
    claims: list[Claim]
    observed: list[Observed]
    anomalies: list[Anomaly]
    cells: list[Cell]


def report(source: Source, asked: Asked) -> Report:
    """The report that is asked for."""
    period, where = asked.period, asked.where
    earlier = period.before(max(HISTORY_DAYS, (period.first - period.previous.first).days))
    history = where.select(source.cells(earlier))
    cells = where.select(source.cells(period))
    closing = source.closing(period.name) if period.whole_month else None
    if closing is not None and closing.zone != period.zone.key:
        closing = None
    before = within(history, period.previous.first, period.previous.last) if asked.compare else []
    lines, lines_before = cut(cells, asked.by), cut(before, asked.by)
    began = _began(source, period)
    daily = by_day(cells)
    arms = [arm for arm in source.arms(period) if where.holds(arm.belonging)]
    saved = [item for item in source.savings(period) if where.holds(item.belonging)]
    return Report(
        asked=asked,
        closing=closing,
        sums=total(cells),
        lines=lines,
        days={day: daily.get(day, 0) for day in period.days},
        untagged=total(cell for cell in cells if cell.belonging.untagged),
        users=distinct(cells, asked.users) if asked.users else 0,
        accrued=None if where.wanted else source.accrued(period, closing),
        before=total(before) if asked.compare else None,
        lines_before=lines_before,
        effects=effects(before, cells) if asked.compare else [],
        movers=movers(lines_before, lines) if asked.compare else [],
        budgets=actuals(asked.budgets if closing is None else kept(source.connection, period.name), cells, period),
        forecast=_forecast(cells, history, asked, began, closing),
        claims=claims(saved, cells),
        observed=observed(arms, cells),
        anomalies=anomalies([*history, *cells], asked.by, period.first, _last(asked), began),
        cells=cells,
    )


def _forecast(
    cells: list[Cell], history: list[Cell], asked: Asked, began: date | None, closing: Closing | None
) -> Forecast | None:
    """For a period that isn't over."""
    if closing is not None or asked.now_s >= asked.period.end_s:
        return None
    return forecast(by_day([*history, *cells]), asked.period, asked.now_s, began)


def _last(asked: Asked) -> date:
    """The last day of the period that is over."""
    today = _local(asked.now_s, asked.period)
    return min(asked.period.last, today - timedelta(days=1))


def _began(source: Source, period: Period) -> date | None:
    began_s = source.began_s()
    return None if began_s is None else _local(began_s, period)


def _local(moment_s: float, period: Period) -> date:
    return datetime.fromtimestamp(moment_s + offset_at(moment_s, period.zone), UTC).date()
