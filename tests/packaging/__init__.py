"""Tests of what the project is built, run and shipped with."""
