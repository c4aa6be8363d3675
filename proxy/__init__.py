"""Weir's mechanism: what moves a request down and an answer up. It names no policy; policies import it."""

__version__ = "0.1.0"
