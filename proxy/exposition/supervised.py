"""The supervisor's own facts: the version, the files, keys and issuers, processes, the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy import __version__
from proxy.exposition.facts import Facts, WorkerFacts
from proxy.exposition.series import info
from proxy.ledger.facts import LedgerFacts


def supervisor(facts: Facts) -> Iterator[Metric]:
    """All of it."""
    yield info("weir_build", "The version that runs.", "version", __version__)
    yield info("weir_config", "The configuration in use.", "hash", facts.config_hash)
    yield info(
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


def _ledger(facts: LedgerFacts) -> Iterator[Metric]:
    for name, text, value in (
        ("weir_ledger_up", "0 while the ledger's database can't be used; requests go on.", facts.up),
        ("weir_ledger_behind_bytes", "What is in the journal and not yet in the ledger.", facts.behind_bytes),
        ("weir_ledger_behind_seconds", "Since the ledger had all of the journal; 0 where it has.", facts.behind_s),
        ("weir_ledger_month_waits", "1 while a month is due to be closed, and waits; the log says why.", facts.waiting),
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
        ("weir_ledger_months_closed", "Months that this host closed by itself.", facts.closed),
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
