"""Which sections a report has: what was spent (`spending`), then why and what stands out (`findings`)."""

from __future__ import annotations

from typing import Final

from proxy.ledger.reporting.findings import anomalies, budgets, compared, movers, observed, savings
from proxy.ledger.reporting.report import Report
from proxy.ledger.reporting.section import Section
from proxy.ledger.reporting.spending import days, spend, summary


def sections(report: Report) -> list[Section]:
    """All that the report has something to say about."""
    made = (summary, spend, days, compared, movers, budgets, savings, observed, anomalies)
    return [section for make in made if (section := make(report)) is not None]


NAMES: Final = ("summary", "spend", "days", "compared", "movers", "budgets", "savings", "holdout", "anomalies")
