"""A report as sections: tables of typed columns, which every format writes down in its own way.

Rules: pure. A value is text, integer nano-dollars, a count, a share (0.05 is 5 %), a number, or None where there is
none; its column says which. A section's `total` is the sum of what it shows, from the ledger, not of rounded values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from proxy.ledger.reporting.anomalies import RULE
from proxy.ledger.reporting.cells import Sums
from proxy.ledger.reporting.effects import PRICED_BY
from proxy.ledger.reporting.periods import utc_text
from proxy.ledger.reporting.report import Report

Kind = Literal["text", "money", "count", "share", "number"]
Value = str | int | float | None
Row = tuple[Value, ...]


class Column(msgspec.Struct, frozen=True):
    """A column: `key` for programs, `title` for people. `wide`: left out where there is little room; `sums`: has a
    total."""

    key: str
    title: str
    kind: Kind = "text"
    wide: bool = False
    sums: bool = False


class Section(msgspec.Struct, frozen=True):
    """A table with a heading."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: list[Row]
    total: Row | None = None
    note: str = ""


def _money(key: str, title: str, *, wide: bool = False, sums: bool = True) -> Column:
    return Column(key, title, "money", wide, sums)


def _count(key: str, title: str, *, wide: bool = False, sums: bool = True) -> Column:
    return Column(key, title, "count", wide, sums)


def sections(report: Report) -> list[Section]:
    """All that the report has something to say about."""
    made = (_summary, _spend, _days, _compared, _movers, _budgets, _savings, _observed, _anomalies)
    return [section for make in made if (section := make(report)) is not None]


NAMES: Final = ("summary", "spend", "days", "compared", "movers", "budgets", "savings", "holdout", "anomalies")


def unit_cost(nanodollars: int, amount: int, per: int = 1) -> int | None:
    """What `per` of something cost on average, in nano-dollars, rounded half up; None of nothing."""
    return None if not amount else (2 * nanodollars * per + amount) // (2 * amount)


# --- what was spent

_SUMMARY: Final = (
    Column("item", "Item"),
    Column("amount", "USD", "money"),
    Column("count", "Count", "count"),
    Column("remark", "Remark"),
)


def _summary(report: Report) -> Section:
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


_TITLES: Final = {
    "gl_account": "GL account",
    "provider_project": "Provider project",
    "policy": "Started by",
    "asked": "Model asked",
    "served": "Model served",
    "known": "Cost",
}


def title_of(dimension: str) -> str:
    """`cost_centre` as `Cost centre`, `tag:env` as `env`."""
    if dimension.startswith("tag:"):
        return dimension[4:]
    return _TITLES.get(dimension, dimension.replace("_", " ").capitalize())


def _groups(by: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(dimension, title_of(dimension)) for dimension in by)


_SPENT: Final = (
    _money("cost", "USD"),
    Column("share", "Share", "share"),
    _money("observed", "Observed", wide=True),
    _money("estimated", "Estimated", wide=True),
    _money("unknown", "Unknown", wide=True),
    _count("unpriced", "Unpriced"),
    _count("exchanges", "Exchanges", wide=True),
    _count("attempts", "Attempts"),
    _count("input_tokens", "Input tokens"),
    _count("cached_tokens", "Cached tokens", wide=True),
    _count("output_tokens", "Output tokens"),
    _count("reasoning_tokens", "Reasoning tokens", wide=True),
    Column("per_attempt", "USD per attempt", "money", wide=True),
    Column("per_1k_tokens", "USD per 1,000 tokens", "money", wide=True),
)
_BEFORE: Final = (_money("before", "USD before"), _money("change", "Change"), Column("growth", "Change %", "share"))


def _spend(report: Report) -> Section:
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
    columns = (*_groups(report.asked.by), *spent, *(_BEFORE if compared else ()))
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


def _days(report: Report) -> Section:
    rows: list[Row] = []
    so_far = 0
    for day, amount in report.days.items():
        so_far += amount
        rows.append((day.isoformat(), _WEEKDAYS[day.weekday()], amount, so_far))
    columns = (
        Column("day", "Day"),
        Column("weekday", "Weekday"),
        _money("cost", "USD"),
        _money("so_far", "So far", sums=False),
    )
    return Section("days", "Spend by day", columns, rows, ("Total", "", so_far, None))


# --- why, and what stands out


def _compared(report: Report) -> Section | None:
    if report.before is None:
        return None
    rows: list[Row] = [
        (*item.group, item.before, item.now, item.change, item.volume, item.price) for item in report.effects
    ]
    sums = [sum(effect) for effect in zip(*(row[3:] for row in rows), strict=True)] or [0] * 5
    amounts = (_money(key, title) for key, title in _EFFECTS)
    previous = report.asked.period.previous
    return Section(
        "compared",
        f"Price and volume, against {previous.name}",
        (*_groups(PRICED_BY), *amounts),
        rows,
        ("Total", "", "", *sums),
        "volume: more or less was used, at the price before; price: a token cost more or less, or the mix changed",
    )


_EFFECTS: Final = (
    ("before", "USD before"),
    ("now", "USD now"),
    ("change", "Change"),
    ("volume", "Volume effect"),
    ("price", "Price effect"),
)


def _movers(report: Report) -> Section | None:
    if report.before is None or not report.movers:
        return None
    rows: list[Row] = [(*mover.group, mover.before, mover.now, mover.change, mover.share) for mover in report.movers]
    columns = (
        *_groups(report.asked.by),
        _money("before", "USD before", sums=False),
        _money("now", "USD now", sums=False),
        _money("change", "Change", sums=False),
        Column("growth", "Change %", "share"),
    )
    return Section("movers", f"What moved most, against {report.asked.period.previous.name}", columns, rows)


def _budgets(report: Report) -> Section | None:
    if not report.budgets:
        return None
    rows: list[Row] = []
    for actual in report.budgets:
        amounts: Row = (actual.limit, actual.spent, actual.left)
        none: Row = (None, None, None)
        amounts = (*amounts, *none) if actual.unit == "usd" else (*none, *amounts)
        unit = {"usd": "USD", "tok": "tokens", "req": "requests"}[actual.unit]
        rows.append((actual.budget, actual.subject, unit, *amounts, actual.share))
    columns: tuple[Column, ...] = (
        Column("budget", "Budget"),
        Column("subject", "Of"),
        Column("unit", "Unit"),
        _money("limit", "Budget USD", sums=False),
        _money("spent", "Actual USD", sums=False),
        _money("left", "Left USD", sums=False),
        _count("limit_count", "Budget", sums=False),
        _count("spent_count", "Actual", sums=False),
        _count("left_count", "Left", sums=False),
        Column("share", "Used", "share"),
    )
    if all(row[2] == "USD" for row in rows):
        keep = [index for index, column in enumerate(columns) if not column.key.endswith("_count")]
        columns, rows = tuple(columns[i] for i in keep), [tuple(row[i] for i in keep) for row in rows]
    note = f"the limits' windows that fit into {len(report.days)} days"
    return Section("budgets", "Budget against actual", columns, rows, note=note)


def _savings(report: Report) -> Section | None:
    if not report.claims:
        return None
    rows: list[Row] = [
        (
            claim.policy,
            claim.savings,
            claim.gross,
            claim.modelled,
            claim.observed,
            claim.overhead,
            claim.net,
            claim.unpriced,
        )
        for claim in report.claims
    ]
    columns = (
        Column("policy", "Policy"),
        _count("savings", "Savings"),
        _money("gross", "Saved USD"),
        _money("modelled", "modelled", wide=True),
        _money("observed", "observed", wide=True),
        _money("overhead", "Overhead"),
        _money("net", "Net USD"),
        _count("unpriced", "Unpriced overhead", wide=True),
    )
    total = ("Total", *_sums(rows, columns))
    note = "against what each would have cost without the policy, less what the policy spent itself"
    return Section("savings", "Savings by policy", columns, rows, total, note)


def _observed(report: Report) -> Section | None:
    if not report.observed:
        return None
    rows: list[Row] = [
        (
            item.policy,
            item.treated,
            item.held_out,
            round(item.mean_treated),
            round(item.mean_held_out),
            item.overhead,
            item.net,
            item.low,
            item.high,
            "keys" if item.by_key else "exchanges",
        )
        for item in report.observed
    ]
    columns = (
        Column("policy", "Policy"),
        _count("treated", "Treated", sums=False),
        _count("held_out", "Held out", sums=False),
        _money("mean_treated", "Mean treated", sums=False),
        _money("mean_held_out", "Mean held out", sums=False),
        _money("overhead", "Overhead", sums=False),
        _money("net", "Net USD saved", sums=False),
        _money("low", "Low (95 %)", sums=False),
        _money("high", "High (95 %)", sums=False),
        Column("units", "Drawn by"),
    )
    note = "mean cost of an exchange held out, less that of one treated, times those treated, less overhead"
    return Section("holdout", "Savings observed against the control group", columns, rows, note=note)


def _anomalies(report: Report) -> Section | None:
    if not report.anomalies:
        return None
    rows: list[Row] = [
        (item.day.isoformat(), *item.group, item.nanodollars, item.usual, round(item.deviations, 1))
        for item in report.anomalies
    ]
    columns = (
        Column("day", "Day"),
        *_groups(report.asked.by),
        _money("cost", "USD", sums=False),
        _money("usual", "Usual", sums=False),
        Column("deviations", "Deviations", "number"),
    )
    return Section("anomalies", "Anomalies", columns, rows, note=RULE)


def _sums(rows: Sequence[Row], columns: Sequence[Column]) -> Row:
    """The sums of all columns but the first, where they have one."""
    return tuple(
        sum(int(row[index] or 0) for row in rows) if column.sums else None for index, column in enumerate(columns)
    )[1:]
