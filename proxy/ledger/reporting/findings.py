"""Why, and what stands out: a report's comparisons, budgets, savings and anomalies. Pure.

Rule: a section that would have nothing to say is None.
"""

from __future__ import annotations

from typing import Final

from proxy.ledger.reporting.anomalies import RULE
from proxy.ledger.reporting.effects import PRICED_BY
from proxy.ledger.reporting.report import Report
from proxy.ledger.reporting.section import Column, Row, Section, count, groups, money, sums_of


def compared(report: Report) -> Section | None:
    """How much of a change is price, how much volume."""
    if report.before is None:
        return None
    rows: list[Row] = [
        (*item.group, item.before, item.now, item.change, item.volume, item.price) for item in report.effects
    ]
    sums = [sum(effect) for effect in zip(*(row[3:] for row in rows), strict=True)] or [0] * 5
    amounts = (money(key, title) for key, title in _EFFECTS)
    previous = report.asked.period.previous
    return Section(
        "compared",
        f"Price and volume, against {previous.name}",
        (*groups(PRICED_BY), *amounts),
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


def movers(report: Report) -> Section | None:
    """What changed most, whichever way."""
    if report.before is None or not report.movers:
        return None
    rows: list[Row] = [(*mover.group, mover.before, mover.now, mover.change, mover.share) for mover in report.movers]
    columns = (
        *groups(report.asked.by),
        money("before", "USD before", sums=False),
        money("now", "USD now", sums=False),
        money("change", "Change", sums=False),
        Column("growth", "Change %", "share"),
    )
    return Section("movers", f"What moved most, against {report.asked.period.previous.name}", columns, rows)


def budgets(report: Report) -> Section | None:
    """What each budget had, and what was spent of it."""
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
        money("limit", "Budget USD", sums=False),
        money("spent", "Actual USD", sums=False),
        money("left", "Left USD", sums=False),
        count("limit_count", "Budget", sums=False),
        count("spent_count", "Actual", sums=False),
        count("left_count", "Left", sums=False),
        Column("share", "Used", "share"),
    )
    if all(row[2] == "USD" for row in rows):
        keep = [index for index, column in enumerate(columns) if not column.key.endswith("_count")]
        columns, rows = tuple(columns[i] for i in keep), [tuple(row[i] for i in keep) for row in rows]
    note = f"the limits' windows that fit into {len(report.days)} days"
    return Section("budgets", "Budget against actual", columns, rows, note=note)


def savings(report: Report) -> Section | None:
    """What policies say that they saved."""
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
        count("savings", "Savings"),
        money("gross", "Saved USD"),
        money("modelled", "modelled", wide=True),
        money("observed", "observed", wide=True),
        money("overhead", "Overhead"),
        money("net", "Net USD"),
        count("unpriced", "Unpriced overhead", wide=True),
    )
    total = ("Total", *sums_of(rows, columns))
    note = "against what each would have cost without the policy, less what the policy spent itself"
    return Section("savings", "Savings by policy", columns, rows, total, note)


def observed(report: Report) -> Section | None:
    """What a control group says that policies saved."""
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
        count("treated", "Treated", sums=False),
        count("held_out", "Held out", sums=False),
        money("mean_treated", "Mean treated", sums=False),
        money("mean_held_out", "Mean held out", sums=False),
        money("overhead", "Overhead", sums=False),
        money("net", "Net USD saved", sums=False),
        money("low", "Low (95 %)", sums=False),
        money("high", "High (95 %)", sums=False),
        Column("units", "Drawn by"),
    )
    note = "mean cost of an exchange held out, less that of one treated, times those treated, less overhead"
    return Section("holdout", "Savings observed against the control group", columns, rows, note=note)


def anomalies(report: Report) -> Section | None:
    """Days that stand out."""
    if not report.anomalies:
        return None
    rows: list[Row] = [
        (item.day.isoformat(), *item.group, item.nanodollars, item.usual, round(item.deviations, 1))
        for item in report.anomalies
    ]
    columns = (
        Column("day", "Day"),
        *groups(report.asked.by),
        money("cost", "USD", sums=False),
        money("usual", "Usual", sums=False),
        Column("deviations", "Deviations", "number"),
    )
    return Section("anomalies", "Anomalies", columns, rows, note=RULE)
