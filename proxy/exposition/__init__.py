"""The Prometheus text of what was counted. Used by the supervisor only: it imports prometheus_client.

Rules: names are those of OpenTelemetry's GenAI conventions in Prometheus' spelling where one exists, else `weir_…`;
seconds and bytes as Prometheus wants them, money in dollars (a float is good enough for a graph; the ledger is
exact). Every family is in docs/reference/metrics.md, and a test compares the two. No label holds a secret or anything
that a client could choose freely.

What lives here: `calls.py` requests and upstream calls, `standing.py` how workers and policies stand, `supervised.py`
the supervisor's own facts (`facts.py`); `series.py` makes families of sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from proxy.exposition.calls import attempts, exchanges
from proxy.exposition.facts import Facts, IssuerFacts, WorkerFacts
from proxy.exposition.standing import standing
from proxy.exposition.supervised import supervisor
from proxy.metrics import Snapshot

__all__ = ["CONTENT_TYPE", "Facts", "IssuerFacts", "WorkerFacts", "exposition", "families"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(snapshot: Snapshot, facts: Facts | None = None) -> bytes:
    """The text of `/metrics`: the workers' sum and, if given, the supervisor's own facts."""

    class Families(Collector):
        def collect(self) -> Iterable[Metric]:
            return families(snapshot, facts)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families())
    return generate_latest(registry)


def families(snapshot: Snapshot, facts: Facts | None = None) -> Iterator[Metric]:
    """All metrics in their order."""
    yield from exchanges(snapshot.exchanges)
    yield from attempts(snapshot.attempts)
    yield from standing(snapshot)
    if facts is not None:
        yield from supervisor(facts)
