"""What the ledger says, for people in finance: cuts, comparisons, forecasts, savings, and the files that carry them.

Rules: the roll-ups are read once (`source`), as cells: sums by day and by all that a cost belongs to. Everything else
is a pure function of cells, so that a cut, a comparison and an export of one period can't disagree. Money is integer
nano-dollars up to the last step of writing; the sum of the lines of any cut is the sum of the ledger. What has no known
price is counted, never taken for 0. Nothing here asks for the time or writes it down: a closed month's report is the
same bytes each time.

What lives here: `source.py` reads the ledger into the cells of `cells.py`; `report.py` makes a report of them, with
`forecast.py`, `effects.py` (price and volume), `savings.py`, `treated.py` (a policy against its control group),
`budgets.py`, `anomalies.py`, over the time of `periods.py`, by the numbers of `statistic.py`. A report is told in
sections (`section.py`): `spending.py` what was spent, `findings.py` why and what stands out, `sections.py` in which
order. They are written down by `terminal.py`, `plain.py` (CSV and JSON), `workbook.py` (XLSX), `page.py` (HTML),
`paper.py` (PDF), in the amounts of `amounts.py`; `focus.py` and `focus_rules.py` write FOCUS; `kept.py` keeps what a
closed month's report needs.
"""
