"""Ledger against the provider's own cost export: where they differ, by how much, and probably why.

Rules: `export` reads the provider's files, `books` puts them beside the ledger by UTC day, the provider's project and
model, `causes` explains what differs; all but reading is pure. Every nano-dollar of the difference is in one finding,
so findings add up to it. A cause is a probable one: the ledger and the export are all that is looked at.
"""
