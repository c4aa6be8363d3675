"""Mirrors the tree of the program; `tests/real` runs real clients and real servers."""
