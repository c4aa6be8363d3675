"""Tests of what bodies mean."""
