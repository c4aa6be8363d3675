"""How workers, deployments and policies stand: what runs now, what they hold, what was decided and saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy.exposition.series import NANO, counted
from proxy.metrics import DeploymentSeries, Snapshot

# What policies have now, summed over the workers.
_LEVELS = {
    "cache_entries": "Answers in the memory of the workers; each has its own.",
    "cache_bytes": "What they take there.",
    "cache_semantic_entries": "Entries whose meaning is compared, in the memory of the workers; each has all.",
    "cache_semantic_gathering": "Tenants whose error can't be bounded yet, in each worker: nothing is served.",
    "cache_semantic_certified": "Tenants who are served by meaning, in each worker.",
    "cache_semantic_suspended": "Tenants whose hits were too often wrong, in each worker: nothing is served.",
    "cache_semantic_threshold": "The sum of the certified tenants' thresholds, in each worker.",
    "cache_semantic_audits": "What recent audits are worth, as audits of equal weight, in each worker.",
    "cache_semantic_wrong": "How many of these found the answer wrong.",
    "cascade_pairs": "Judged pairs of answers, in each worker.",
    "cascade_gathering": "Classes of traffic for which nothing is proven yet, in each worker.",
    "cascade_certified": "Classes in which the small model answers, in each worker.",
    "cascade_infeasible": "Classes in which the small model can't pay, in each worker: the large one answers.",
    "cascade_reverted": "Classes in which the small model became worse, in each worker: the large one answers.",
}


def standing(snapshot: Snapshot) -> Iterator[Metric]:
    """All of it, summed over the workers."""
    gauges = snapshot.gauges
    for name, text, value in (
        ("weir_exchanges_in_flight", "Client requests that run now.", gauges.exchanges),
        ("weir_connections", "Client connections open now.", gauges.connections),
        ("weir_streams", "Streamed answers that run now.", gauges.streams),
        ("weir_body_bytes_in_flight", "Bytes of bodies held in memory now.", gauges.bytes_in_flight),
        ("weir_upstream_connections", "Connections to upstreams open now.", gauges.upstream_connections),
        ("weir_exchanges_waiting", "Client requests that wait for room.", gauges.exchanges_waiting),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    events = CounterMetricFamily("weir_events", "Rare events of the workers, by name.", labels=("event",))
    yield counted(events, {(name,): n for name, n in snapshot.events.items()})
    decisions = CounterMetricFamily("weir_policy_decisions", "What policies did.", labels=("policy", "action"))
    yield counted(decisions, {(policy, action): n for policy, action, n in snapshot.decisions})
    yield from _savings(snapshot.savings)
    shares = GaugeMetricFamily(
        "weir_budget_used_ratio", "How much of a budget's limit is used.", labels=("policy", "subject", "limit")
    )
    for policy, subject, limit, used in snapshot.shares:
        shares.add_metric((policy, subject, limit), used)
    yield shares
    yield from _deployments(snapshot.deployments)
    for name, text in _LEVELS.items():
        family = GaugeMetricFamily(f"weir_{name}", text, labels=("policy",))
        for policy, level, amount in snapshot.levels:
            if level == name:
                family.add_metric((policy,), amount)
        yield family


def _deployments(series: Iterable[DeploymentSeries]) -> Iterator[Metric]:
    """How deployments stand, those of models with several."""
    labels = ("gen_ai_request_model", "deployment")
    workers = GaugeMetricFamily(
        "weir_deployment_workers", "Workers that see a deployment so.", labels=(*labels, "state")
    )
    in_flight = GaugeMetricFamily("weir_deployment_in_flight", "Calls that it has now.", labels=labels)
    ttft = GaugeMetricFamily(
        "weir_deployment_ttft_seconds", "Its time to the first token, as calls are balanced by it.", labels=labels
    )
    room = GaugeMetricFamily(
        "weir_deployment_room_ratio", "What is left of its nearest limit, as its answers tell.", labels=labels
    )
    for one in series:
        where = (one.model, one.deployment)
        for state, count in one.states.items():
            workers.add_metric((*where, state), count)
        in_flight.add_metric(where, one.in_flight)
        ttft.add_metric(where, one.ttft_s)
        room.add_metric(where, one.room)
    yield from (workers, in_flight, ttft, room)


def _savings(savings: Iterable[tuple[str, str, int, int]]) -> Iterator[Metric]:
    """Two counters, since a counter must not fall."""
    labels = ("policy", "known")
    claimed = CounterMetricFamily(
        "weir_saved_dollars", "US dollars that policies claim, before what they spend themselves.", labels=labels
    )
    missed = CounterMetricFamily(
        "weir_lost_dollars", "US dollars by which what policies did cost more than what it stood in for.", labels=labels
    )
    for policy, known, saved, lost in savings:
        claimed.add_metric((policy, known), saved * NANO)
        missed.add_metric((policy, known), lost * NANO)
    yield from (claimed, missed)
