"""The ledger: what was used and what it cost, for good. `tables` says what a row means."""
