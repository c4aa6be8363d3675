"""The numbers of budgets, ledger and reports: `python -m bench.money`.

Rules:
1. Everything is the real thing: `weir serve` with its workers and its state process, or a real Redis; the provider is
   the simulator in a process of its own.
2. What was spent is what the simulator's invoice says, priced by the table in `prices`, which knows nothing of Weir's.
3. Each request shows a key of its own, so the invoice and the ledger can be compared request by request.
4. A part yields rows: the target, what was seen, the verdict.
"""
