"""The Prometheus text of what was counted. Used by the supervisor only: it imports prometheus_client.

Rules: names are those of OpenTelemetry's GenAI conventions in Prometheus' spelling where one exists, else `weir_…`;
seconds and bytes as Prometheus wants them, money in dollars (a float is good enough for a graph; the ledger is
exact). Every family is in docs/reference/metrics.md, and a test compares the two. No label holds a secret or anything
that a client could choose freely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.endpoints import all_endpoints
from proxy.ledger.facts import LedgerFacts
from proxy.metrics import (
    DURATION_S,
    TOKENS,
    TTFT_S,
    AttemptSeries,
    DeploymentSeries,
    ExchangeSeries,
    Histogram,
    Snapshot,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NANO = 1e-9
_ATTEMPT = ("gen_ai_operation_name", "gen_ai_request_model", "upstream", "error_type")


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One worker as the supervisor knows it."""

    index: int
    ready: bool
    silent_s: float
    cpu_s: float
    resident_bytes: int
    lag_s: float = 0.0
    limit: int = 0
    tasks: int = 0


@dataclass(frozen=True, slots=True)
class IssuerFacts:
    """An issuer of tokens: its public keys, how old they are (-1: never fetched), and how often fetching failed."""

    name: str
    keys: int
    age_s: float
    failures: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What the supervisor itself has to report. Times are Unix seconds, 0 for never."""

    started_at_s: float = 0.0
    workers: tuple[WorkerFacts, ...] = ()
    workers_wanted: int = 0
    restarts: int = 0
    draining: bool = False
    bypass: bool = False
    config_hash: str = ""
    config_valid: bool = True
    config_loaded_at_s: float = 0.0
    reloads: int = 0
    reload_failures: int = 0
    keys: int = 0
    keys_valid: bool = True
    keys_shared: bool | None = None
    issuers: tuple[IssuerFacts, ...] = ()
    cards: str = field(default="")
    stepped_back: tuple[tuple[str, str], ...] = ()
    step_backs: int = 0
    ledger: LedgerFacts = field(default_factory=LedgerFacts)


def operation(endpoint: str) -> str:
    """OpenTelemetry's `gen_ai.operation.name` of an endpoint; endpoints without one keep their own name."""
    return _OPERATIONS.get(endpoint, endpoint)


_OPERATIONS = {endpoint.name: endpoint.operation for endpoint in all_endpoints() if endpoint.operation}


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
    yield from _exchanges(snapshot.exchanges)
    yield from _attempts(snapshot.attempts)
    yield from _rest(snapshot)
    if facts is not None:
        yield from _supervisor(facts)


def _exchanges(series: Iterable[ExchangeSeries]) -> Iterator[Metric]:
    count = CounterMetricFamily(
        "weir_exchanges",
        "Client requests that ended, by the status that the client got (0: none) and the outcome.",
        labels=("endpoint", "gen_ai_request_model", "status", "outcome"),
    )
    duration = HistogramMetricFamily(
        "gen_ai_server_request_duration_seconds",
        "From the first byte of a client's request to the end of its answer.",
        labels=("gen_ai_operation_name", "gen_ai_request_model", "error_type"),
    )
    summed: dict[tuple[str, ...], Histogram] = {}
    for one in series:
        count.add_metric((one.endpoint, one.model, str(one.status), one.outcome), sum(one.duration_s.counts))
        error = str(one.status) if one.status >= 400 else "" if one.outcome == "complete" else one.outcome
        _sum_into(summed, (operation(one.endpoint), one.model, error), one.duration_s)
    yield count
    yield _filled(duration, summed, DURATION_S)


def _attempts(series: list[AttemptSeries]) -> Iterator[Metric]:
    count = CounterMetricFamily(
        "weir_attempts",
        "Upstream calls, by the upstream's status or the name of the fault.",
        labels=("endpoint", "gen_ai_request_model", "upstream", "status"),
    )
    for one in series:
        labels = (one.endpoint, one.model, one.upstream, str(one.status))
        count.add_metric(labels, sum(one.duration_s.counts))
    yield count
    yield _timing(
        "gen_ai_client_operation_duration_seconds",
        "Duration of upstream calls.",
        DURATION_S,
        series,
        lambda one: one.duration_s,
    )
    yield _timing(
        "gen_ai_server_time_to_first_token_seconds",
        "From sending an upstream call to the first token of its answer.",
        TTFT_S,
        series,
        lambda one: one.ttft_s,
    )
    yield from _tokens(series)
    yield from _costs(series)


def _timing(
    name: str,
    text: str,
    bounds: tuple[float, ...],
    series: Iterable[AttemptSeries],
    pick: Callable[[AttemptSeries], Histogram],
) -> Metric:
    summed: dict[tuple[str, ...], Histogram] = {}
    for one in series:
        _sum_into(summed, (operation(one.endpoint), one.model, one.upstream, _error_type(one.status)), pick(one))
    return _filled(HistogramMetricFamily(name, text, labels=_ATTEMPT), summed, bounds)


def _tokens(series: Iterable[AttemptSeries]) -> Iterator[Metric]:
    usage = HistogramMetricFamily(
        "gen_ai_client_token_usage",
        "Tokens of an upstream call; input includes cached tokens, output includes reasoning.",
        labels=("gen_ai_operation_name", "gen_ai_request_model", "upstream", "gen_ai_token_type"),
    )
    detail = CounterMetricFamily(
        "weir_tokens",
        "Tokens with a price of their own, already counted as input or output.",
        labels=("gen_ai_request_model", "upstream", "kind"),
    )
    summed: dict[tuple[str, ...], Histogram] = {}
    kinds: dict[tuple[str, ...], int] = {}
    for one in series:
        where = (operation(one.endpoint), one.model, one.upstream)
        _sum_into(summed, (*where, "input"), one.input_tokens)
        _sum_into(summed, (*where, "output"), one.output_tokens)
        for kind in ("cached", "cache_write", "reasoning"):
            labels = (one.model, one.upstream, kind)
            kinds[labels] = kinds.get(labels, 0) + getattr(one, f"{kind}_tokens")
    yield _filled(usage, summed, TOKENS)
    yield _counted(detail, kinds)


def _costs(series: Iterable[AttemptSeries]) -> Iterator[Metric]:
    cost = CounterMetricFamily(
        "weir_cost_dollars",
        "Cost of upstream calls in US dollars: observed from reported usage, or estimated.",
        labels=("gen_ai_request_model", "upstream", "known"),
    )
    unpriced = CounterMetricFamily(
        "weir_unpriced_attempts",
        "Upstream calls whose price is unknown: they are in no sum of costs.",
        labels=("gen_ai_request_model", "upstream"),
    )
    dollars: dict[tuple[str, ...], float] = {}
    unknown: dict[tuple[str, ...], int] = {}
    for one in series:
        for known, nanodollars in (("observed", one.observed_nanodollars), ("estimated", one.estimated_nanodollars)):
            labels = (one.model, one.upstream, known)
            dollars[labels] = dollars.get(labels, 0.0) + nanodollars * _NANO
        unknown[one.model, one.upstream] = unknown.get((one.model, one.upstream), 0) + one.unpriced
    yield _counted(cost, dollars)
    yield _counted(unpriced, unknown)


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


def _rest(snapshot: Snapshot) -> Iterator[Metric]:
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
    yield _counted(events, {(name,): n for name, n in snapshot.events.items()})
    decisions = CounterMetricFamily("weir_policy_decisions", "What policies did.", labels=("policy", "action"))
    yield _counted(decisions, {(policy, action): n for policy, action, n in snapshot.decisions})
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
        claimed.add_metric((policy, known), saved * _NANO)
        missed.add_metric((policy, known), lost * _NANO)
    yield from (claimed, missed)


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


def _issuers(facts: Facts) -> Iterator[Metric]:
    """Whoever vouches for clients, and other hosts that share keys."""
    shared = GaugeMetricFamily("weir_keys_shared", "1 while other hosts' changes of keys are heard; none if alone.")
    if facts.keys_shared is not None:
        shared.add_metric((), float(facts.keys_shared))
    keys = GaugeMetricFamily("weir_jwks_keys", "Public keys of an issuer that count now.", labels=("issuer",))
    age = GaugeMetricFamily(
        "weir_jwks_age_seconds", "How long ago they were fetched; none if never.", labels=("issuer",)
    )
    failures = CounterMetricFamily(
        "weir_jwks_fetch_failures", "Times that they couldn't be fetched.", labels=("issuer",)
    )
    for one in facts.issuers:
        keys.add_metric((one.name,), one.keys)
        failures.add_metric((one.name,), one.failures)
        if one.age_s >= 0:
            age.add_metric((one.name,), one.age_s)
    yield from (shared, keys, age, failures)


def _supervisor(facts: Facts) -> Iterator[Metric]:
    yield _info("weir_build", "The version that runs.", "version", __version__)
    yield _info("weir_config", "The configuration in use.", "hash", facts.config_hash)
    yield _info(
        "weir_rate_cards", "The compiled rate cards in use; empty: none, nothing can be priced.", "file", facts.cards
    )
    for name, text, value in (
        ("weir_start_time_seconds", "When the supervisor started, Unix time.", facts.started_at_s),
        ("weir_draining", "1 while it finishes what runs and accepts nothing new.", facts.draining),
        ("weir_bypass", "1 while the kill switch makes all policies step aside.", facts.bypass),
        ("weir_config_valid", "0 when the files on disk are broken and the last good ones apply.", facts.config_valid),
        ("weir_config_last_reload_success_timestamp_seconds", "When it was loaded.", facts.config_loaded_at_s),
        ("weir_keys", "Virtual keys that are not revoked.", facts.keys),
        ("weir_keys_valid", "0 when keys.json is damaged and the last good keys are in use.", facts.keys_valid),
        ("weir_workers_wanted", "How many workers there should be.", facts.workers_wanted),
        ("weir_workers_ready", "How many workers accept connections.", sum(worker.ready for worker in facts.workers)),
    ):  # fmt: skip
        yield GaugeMetricFamily(name, text, value=float(value))
    yield from _issuers(facts)
    yield CounterMetricFamily("weir_worker_restarts", "Workers that died and were replaced.", value=facts.restarts)
    yield CounterMetricFamily("weir_config_reloads", "Reloads that succeeded.", value=facts.reloads)
    yield CounterMetricFamily("weir_config_reload_failures", "Reloads that failed.", value=facts.reload_failures)
    stepped = GaugeMetricFamily(
        "weir_policy_stepped_back",
        "1 for a policy that left the band of its guardrail, until it is brought back.",
        labels=("policy", "mode"),
    )
    for labels in facts.stepped_back:
        stepped.add_metric(labels, 1)
    yield stepped
    yield CounterMetricFamily(
        "weir_policy_step_backs", "How often policies left the band of their guardrail.", value=facts.step_backs
    )
    yield from _workers(facts.workers)
    yield from _ledger(facts.ledger)


def _ledger(facts: LedgerFacts) -> Iterator[Metric]:
    for name, text, value in (
        ("weir_ledger_up", "0 while the ledger's database can't be used; requests go on.", facts.up),
        ("weir_ledger_behind_bytes", "What is in the journal and not yet in the ledger.", facts.behind_bytes),
        ("weir_ledger_behind_seconds", "Since the ledger had all of the journal; 0 where it has.", facts.behind_s),
    ):
        yield GaugeMetricFamily(name, text, value=float(value))
    for name, text, count in (
        ("weir_ledger_events", "Journal records taken into the ledger.", facts.events),
        ("weir_ledger_rows", "Rows added to the ledger.", facts.rows),
        ("weir_ledger_duplicates", "Events that the ledger had already.", facts.duplicates),
        ("weir_ledger_corrections", "Estimates that a worker's own word corrected.", facts.corrections),
        (
            "weir_ledger_resolved",
            "Attempts of dead workers that the ledger settled itself.",
            facts.resolved,
        ),
        ("weir_ledger_rejected", "Journal records that were not understood and set aside.", facts.rejected),
        ("weir_ledger_torn", "Journal segments that were cut at their last whole record.", facts.torn),
        ("weir_ledger_segments_removed", "Journal segments that were removed.", facts.removed),
        ("weir_ledger_failures", "Steps of the ledger that failed and are repeated.", facts.failures),
    ):
        yield CounterMetricFamily(name, text, value=count)


def _workers(workers: Iterable[WorkerFacts]) -> Iterator[Metric]:
    silent = GaugeMetricFamily(
        "weir_worker_silent_seconds", "Since the worker's last message; normally below 1.", labels=("worker",)
    )
    memory = GaugeMetricFamily("weir_worker_resident_memory_bytes", "Resident memory.", labels=("worker",))
    cpu = CounterMetricFamily("weir_worker_cpu_seconds", "CPU time of the running process.", labels=("worker",))
    lag = GaugeMetricFamily("weir_worker_loop_lag_seconds", "How long a turn of its loop takes.", labels=("worker",))
    limit = GaugeMetricFamily(
        "weir_worker_exchange_limit", "Requests that may run at a time under overload; 0: no limit.", labels=("worker",)
    )
    tasks = GaugeMetricFamily("weir_worker_tasks", "Tasks of its event loop.", labels=("worker",))
    for worker in workers:
        label = (str(worker.index),)
        silent.add_metric(label, worker.silent_s)
        memory.add_metric(label, worker.resident_bytes)
        cpu.add_metric(label, worker.cpu_s)
        lag.add_metric(label, worker.lag_s)
        limit.add_metric(label, worker.limit)
        tasks.add_metric(label, worker.tasks)
    yield from (silent, memory, cpu, lag, limit, tasks)


def _error_type(status: int | str) -> str:
    """OpenTelemetry's `error.type`: a fault's name or an error status; empty for success."""
    return status if isinstance(status, str) else str(status) if status >= 400 else ""


def _sum_into(sums: dict[tuple[str, ...], Histogram], labels: tuple[str, ...], more: Histogram) -> None:
    have = sums.get(labels)
    if have is None:
        sums[labels] = Histogram([*more.counts], more.sum)
        return
    have.counts = [a + b for a, b in zip(have.counts, more.counts, strict=True)]
    have.sum += more.sum


def _filled(
    family: HistogramMetricFamily, sums: dict[tuple[str, ...], Histogram], bounds: tuple[float, ...]
) -> HistogramMetricFamily:
    for labels, histogram in sums.items():
        total, buckets = 0, []
        for bound, count in zip([*map(_bound, bounds), "+Inf"], histogram.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        if total:
            family.add_metric(labels, buckets, histogram.sum)
    return family


def _bound(value: float) -> str:
    return str(float(value))


def _counted(family: CounterMetricFamily, values: Mapping[Any, float]) -> CounterMetricFamily:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _info(name: str, text: str, label: str, value: str) -> Metric:
    family = GaugeMetricFamily(f"{name}_info", text, labels=(label,))
    family.add_metric((value,), 1)
    return family
