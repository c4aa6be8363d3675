"""Tests of the command `weir`, run as people run it."""
