"""Counters of the workers and their sum."""

from __future__ import annotations

from dataclasses import dataclass

import orjson
import pytest

from proxy.metrics import LARGEST, MAX_SERIES, QUICK_S, SEEN_MODELS, Metrics, merge, retire


@dataclass
class Usage:
    input_tokens: int = 1000
    output_tokens: int = 50
    cached_tokens: int = 200
    cache_write_tokens: int = 0
    reasoning_tokens: int = 7


def settle(metrics: Metrics, *, usage: Usage | None = None, cost: int | None = 5) -> None:
    metrics.attempt("chat.completions", "gpt-5", "openai", 200, 0.05, 0.5, usage or Usage(), cost, "observed")


def test_an_exchange_lands_in_its_bucket() -> None:
    """A duration equal to a boundary counts in that boundary's bucket (`le` is inclusive)."""
    metrics = Metrics()
    metrics.exchange("chat.completions", "gpt-5", 200, "complete", 0.02)
    metrics.exchange("chat.completions", "gpt-5", 200, "complete", 1e9)
    (series,) = merge([metrics.snapshot()]).exchanges
    assert series.duration_s.counts[1] == 1
    assert series.duration_s.counts[-1] == 1
    assert series.duration_s.sum == pytest.approx(1e9)


def test_snapshots_of_workers_add_up() -> None:
    """Counters, histograms, events, decisions and gauges of two workers are summed; labels are not."""
    workers = [Metrics(["gpt-5"]), Metrics(["gpt-5"])]
    for metrics in workers:
        settle(metrics)
        metrics.count("connections_shed", 2)
        metrics.decision("allow", "refused")
        metrics.gauges.connections = 3
    whole = merge(orjson.loads(orjson.dumps(metrics.snapshot())) for metrics in workers)
    (series,) = whole.attempts
    assert (series.status, series.upstream) == (200, "openai")
    assert series.input_tokens.sum == 2000
    assert sum(series.ttft_s.counts) == 2
    assert (series.cached_tokens, series.reasoning_tokens, series.observed_nanodollars) == (400, 14, 10)
    assert whole.events == {"connections_shed": 4}
    assert whole.decisions == [("allow", "refused", 2)]
    assert whole.gauges.connections == 6


def test_a_fault_is_counted_without_usage() -> None:
    """An attempt that got no answer has a fault's name as status, no TTFT, no tokens, and an unpriced cost."""
    metrics = Metrics()
    metrics.attempt("chat.completions", "m", "openai", "connect_timeout", None, 5.0, None, None, "unpriced")
    (series,) = merge([metrics.snapshot()]).attempts
    assert series.status == "connect_timeout"
    assert sum(series.ttft_s.counts) == sum(series.input_tokens.counts) == 0
    assert series.unpriced == 1


def test_random_model_names_share_one_label() -> None:
    """Names of the configuration keep their label; of others the first hundred do, the rest are `other`."""
    metrics = Metrics(["known"])
    labels = {metrics.model_label(f"model-{n}") for n in range(1000)}
    assert len(labels) == SEEN_MODELS + 1
    assert "other" in labels
    assert metrics.model_label("known") == "known"
    metrics.adopt(["late"])
    assert metrics.model_label("late") == "late"


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", 'a\x00"'])
def test_odd_model_names_are_other(name: str) -> None:
    """A long or unprintable name never becomes a label."""
    assert Metrics().model_label(name) == "other"


def test_repeats_count_as_one_by_one() -> None:
    """What is counted apart stands in the tables whenever they are looked at, once, in the buckets of its durations."""
    apart, singly = Metrics(), Metrics()
    repeats = apart.repeats(("chat.completions", "m", 200, "complete"), [("cache", "hit")], [("cache", "observed", 7)])
    for took_s in (0.001, 0.5, 0.002, QUICK_S, 0.004):
        if not repeats.n:
            apart.repeated(repeats)
        repeats.n += 1
        repeats.seconds += took_s
        if took_s >= QUICK_S:
            repeats.slow.append(took_s)
        singly.exchange("chat.completions", "m", 200, "complete", took_s)
        singly.decision("cache", "hit")
        singly.saving("cache", "observed", 7)
        if took_s == 0.002:
            apart.snapshot()
    for _ in range(2):
        one, other = apart.snapshot(), singly.snapshot()
        (told,), (wanted,) = one["exchanges"], other["exchanges"]
        assert told["duration_s"]["counts"] == wanted["duration_s"]["counts"]
        assert told["duration_s"]["sum"] == pytest.approx(wanted["duration_s"]["sum"])
        assert (one["decisions"], one["savings"]) == (other["decisions"], other["savings"])


def test_label_sets_are_bounded() -> None:
    """An upstream that answers every number as status can't grow the table without end."""
    metrics = Metrics()
    for status in range(MAX_SERIES + 500):
        metrics.exchange("chat.completions", "m", status, "failed", 0.1)
    series = merge([metrics.snapshot()]).exchanges
    assert len(series) == MAX_SERIES + 1
    assert sum(sum(one.duration_s.counts) for one in series) == MAX_SERIES + 500


def test_absurd_usage_saturates() -> None:
    """Sums beyond 64 bits would not fit into JSON; they stop at the largest number instead."""
    metrics = Metrics()
    for _ in range(3):
        settle(metrics, usage=Usage(input_tokens=2**62, cached_tokens=2**62), cost=2**62)
    snapshot = orjson.loads(orjson.dumps(metrics.snapshot()))
    (series,) = merge([snapshot, snapshot]).attempts
    assert series.cached_tokens == series.observed_nanodollars == LARGEST


def test_a_dead_worker_leaves_its_counters_but_not_its_gauges() -> None:
    """Totals never go back when a worker is replaced; what it held open is gone with it."""
    dead, alive = Metrics(), Metrics()
    settle(dead)
    dead.gauges.connections = 4
    alive.gauges.connections = 1
    whole = merge([retire(dead.snapshot()), alive.snapshot()])
    assert whole.gauges.connections == 1
    assert whole.attempts[0].observed_nanodollars == 5
