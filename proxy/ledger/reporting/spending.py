"""What was spent: a report's summary, its lines by whatever it is cut by, and its days. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from proxy.ledger.reporting.cells import Sums
from proxy.ledger.reporting.periods import utc_text
from proxy.ledger.reporting.report import Report
from proxy.ledger.reporting.section import Column, Row, Section, count, groups, money, title_of


def unit_cost(nanodollars: int, amount: int, per: int = 1) -> int | None:
    """What `per` of something cost on average, in nano-dollars, rounded half up; None of nothing."""
    return None if not amount else (2 * nanodollars * per + amount) // (2 * amount)


_SUMMARY: Final = (
    Column("item", "Item"),
    Column("amount", "USD", "money"),
    Column("count", "Count", "count"),
    Column("remark", "Remark"),
)


def summary(report: Report) -> Section:
    """The sums, and what they are made of."""
    rows = [*_spent(report.sums), *_unattributed(report), *_accrued(report), *_units(report), *_ahead(report)]
    asked = report.asked
    where = f" where {asked.where}" if asked.where.wanted else ""
    note = f"{asked.period.first} to {asked.period.last}, {asked.period.zone.key}{where}; {_state(report)}"
    return Section("summary", f"Report {asked.period.name}", _SUMMARY, rows, note=note)


def _state(report: Report) -> str:
    if report.closing is None:
        return "not closed"
    return f"closed {utc_text(report.closing.closed_s)}, roll-ups {report.closing.rolled[:16]}"


def _spent(sums: Sums) -> Iterable[Row]:
    yield "Spend", sums.nanodollars, sums.attempts, "attempts"
    yield "  observed", sums.observed, None, "usage told by the provider"
    yield "  estimated", sums.estimated, None, "usage not told, or absurd"
    yield "  unknown", sums.unknown, None, "may have been billed: counted as reserved"
    yield "  unpriced", None, sums.unpriced, "attempts without a known price, in no sum"


def _unattributed(report: Report) -> Iterable[Row]:
    yield "Untagged", report.untagged.nanodollars, report.untagged.attempts, "no team, no project, no tag"


def _accrued(report: Report) -> Iterable[Row]:
    accrued = report.accrued
    if accrued is not None:
        yield "Accrued, open", accrued.open_estimate, accrued.open_attempts, "sent in the period, not settled: estimate"
        if report.closing is None:
            yield "Accrued, settled since", accrued.settled, accrued.settled_attempts, "sent in it, settled after it"
        yield "Carried over", accrued.carried, accrued.carried_attempts, "settled in the period, sent before it"


def _units(report: Report) -> Iterable[Row]:
    sums = report.sums
    if sums.exchanges:
        yield "Per exchange", unit_cost(sums.nanodollars, sums.exchanges), sums.exchanges, "exchanges"
    yield "Per attempt", unit_cost(sums.nanodollars, sums.attempts), sums.attempts, "attempts"
    yield "Per 1,000 tokens", unit_cost(sums.nanodollars, sums.tokens, 1000), sums.tokens, "tokens in and out"
    if report.asked.users:
        name = f"values of the tag {report.asked.users}"
        yield f"Per {report.asked.users}", unit_cost(sums.nanodollars, report.users), report.users, name


def _ahead(report: Report) -> Iterable[Row]:
    ahead = report.forecast
    if ahead is not None:
        sure = f"{round(100 * ahead.confidence)} %"
        yield "Forecast to the end", ahead.expected, ahead.days_seen, f"{ahead.method}, from so many days"
        yield "  low", ahead.low, None, f"{sure} interval"
        yield "  high", ahead.high, None, f"{sure} interval"


_SPENT: Final = (
    money("cost", "USD"),
    Column("share", "Share", "share"),
    money("observed", "Observed", wide=True),
    money("estimated", "Estimated", wide=True),
    money("unknown", "Unknown", wide=True),
    count("unpriced", "Unpriced"),
    count("exchanges", "Exchanges", wide=True),
    count("attempts", "Attempts"),
    count("input_tokens", "Input tokens"),
    count("cached_tokens", "Cached tokens", wide=True),
    count("output_tokens", "Output tokens"),
    count("reasoning_tokens", "Reasoning tokens", wide=True),
    Column("per_attempt", "USD per attempt", "money", wide=True),
    Column("per_1k_tokens", "USD per 1,000 tokens", "money", wide=True),
)
_BEFORE: Final = (money("before", "USD before"), money("change", "Change"), Column("growth", "Change %", "share"))


def spend(report: Report) -> Section:
    """By whatever the report is cut by."""
    whole = report.sums.nanodollars
    old = {line.group: line.sums.nanodollars for line in report.lines_before}
    gone = [group for group in old if group not in {line.group for line in report.lines}]
    lines = [(line.group, line.sums) for line in report.lines] + [(group, Sums()) for group in gone]
    compared = report.before is not None
    rows = [
        (*group, *_numbers(sums, whole), *(_change(sums, old.get(group, 0)) if compared else ()))
        for group, sums in lines
    ]
    before = report.before.nanodollars if report.before is not None else 0
    end = _change(report.sums, before) if compared else ()
    labels = ("Total", *("" for _ in report.asked.by[1:])) if report.asked.by else ()
    spent = tuple(_crowded(column) if compared else column for column in _SPENT)
    columns = (*groups(report.asked.by), *spent, *(_BEFORE if compared else ()))
    by = ", ".join(map(title_of, report.asked.by)).lower()
    return Section("spend", f"Spend by {by}", columns, rows, (*labels, *_numbers(report.sums, whole), *end))


def _crowded(column: Column) -> Column:
    """Tokens make room for the comparison."""
    return msgspec.structs.replace(column, wide=True) if column.key.endswith("_tokens") else column


def _numbers(sums: Sums, whole: int) -> Row:
    return (
        sums.nanodollars,
        sums.nanodollars / whole if whole else None,
        sums.observed,
        sums.estimated,
        sums.unknown,
        sums.unpriced,
        sums.exchanges,
        sums.attempts,
        sums.input_tokens,
        sums.cached_tokens,
        sums.output_tokens,
        sums.reasoning_tokens,
        unit_cost(sums.nanodollars, sums.attempts),
        unit_cost(sums.nanodollars, sums.tokens, 1000),
    )


def _change(sums: Sums, before: int) -> Row:
    change = sums.nanodollars - before
    return before, change, change / before if before else None


_WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def days(report: Report) -> Section:
    """Day by day."""
    rows: list[Row] = []
    so_far = 0
    for day, amount in report.days.items():
        so_far += amount
        rows.append((day.isoformat(), _WEEKDAYS[day.weekday()], amount, so_far))
    columns = (
        Column("day", "Day"),
        Column("weekday", "Weekday"),
        money("cost", "USD"),
        money("so_far", "So far", sums=False),
    )
    return Section("days", "Spend by day", columns, rows, ("Total", "", so_far, None))
