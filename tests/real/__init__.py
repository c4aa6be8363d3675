"""Weir between clients and servers that are not ours: nothing here is imported by Weir, and nothing here imports it."""
