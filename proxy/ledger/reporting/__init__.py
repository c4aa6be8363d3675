"""What the ledger says, for people in finance: cuts, comparisons, forecasts, savings, and the files that carry them.

Rules: the roll-ups are read once (`source`), as cells: sums by day and by all that a cost belongs to. Everything else
is a pure function of cells, so that a cut, a comparison and an export of one period can't disagree. Money is integer
nano-dollars up to the last step of writing; the sum of the lines of any cut is the sum of the ledger. What has no known
price is counted, never taken for 0. Nothing here asks for the time or writes it down: a closed month's report is the
same bytes each time.
"""
