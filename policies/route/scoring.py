"""How likely the larger of two models does better, by what was learnt of other answers, before one was generated.

Rules: a score is fitted by `cascade` from judged pairs; without one, or where it can't be read, nobody knows (None).
"""

from __future__ import annotations

from proxy.chain import Services
from proxy.exchange import Request


class Scores:
    """The score that a policy goes by."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def benefit(self, request: Request) -> float | None:
        """P(the large model is right and the small one wrong)."""
        return None

    def close(self) -> None:
        """Stops following it."""
