"""Counts the exchanges of a policy that has a guardrail: those that it applies to, and its control group.

Rules: exists only where an entry has a guardrail. Only adds to totals, in the worker's own counters; the supervisor
judges them (`proxy.rollout.guardrail`).
"""

from __future__ import annotations

import time
from functools import partial

from proxy.config import PolicyEntry
from proxy.exchange import Attempt, Exchange, Settle
from proxy.metrics import Metrics
from proxy.rollout.guardrail import Tally


class Watched:
    """What is counted of one version of one policy."""

    def __init__(self, entry: PolicyEntry, metrics: Metrics) -> None:
        assert entry.guardrail is not None
        self._costs = entry.guardrail.counts_spend
        self._treated = metrics.arm(entry.name, entry.fingerprint, "treated")
        self._control = metrics.arm(entry.name, entry.fingerprint, "control")

    def treated(self, exchange: Exchange) -> None:
        """The policy is applied to this one."""
        self._count(exchange, self._treated)

    def control(self, exchange: Exchange) -> None:
        """It is withheld from this one."""
        self._count(exchange, self._control)

    def _count(self, exchange: Exchange, tally: Tally) -> None:
        exchange.defer(partial(_ended, tally))
        if self._costs:  # a guard, since background exchanges inherit it
            exchange.guard(partial(_guard, tally))


def _ended(tally: Tally, exchange: Exchange) -> None:
    tally.exchange((time.perf_counter_ns() - exchange.started_ns) / 1e9, exchange.status >= 400 or not exchange.status)


async def _guard(tally: Tally, attempt: Attempt) -> Settle:
    return partial(_settled, tally)


def _settled(tally: Tally, attempt: Attempt) -> None:
    if attempt.settled:
        tally.attempt(attempt.nanodollars or 0)
