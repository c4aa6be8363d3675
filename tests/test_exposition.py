"""The Prometheus text, read back by Prometheus' own parser."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from proxy.exposition import Facts, WorkerFacts, exposition
from proxy.metrics import Metrics, Snapshot, merge

REFERENCE = Path(__file__).parent.parent / "docs" / "reference" / "metrics.md"


@dataclass
class Usage:
    input_tokens: int = 1000
    output_tokens: int = 50
    cached_tokens: int = 200
    cache_write_tokens: int = 3
    reasoning_tokens: int = 7


def full() -> Snapshot:
    metrics = Metrics(["gpt-5"])
    metrics.exchange("chat.completions", "gpt-5", 200, "complete", 0.3)
    metrics.exchange("chat.completions", "gpt-5", 502, "failed", 0.1)
    metrics.attempt("chat.completions", "gpt-5", "openai", 200, 0.05, 0.3, Usage(), 1_500_000_000, "observed")
    metrics.attempt("chat.completions", "gpt-5", "openai", 200, 0.05, 0.3, None, 500_000_000, "estimated")
    metrics.attempt("chat.completions", "gpt-5", "openai", "connect_timeout", None, 5.0, None, None, "unpriced")
    metrics.count("connections_shed")
    metrics.decision("allow", "refused")
    metrics.saving("cache", "observed", 2_000_000_000)
    metrics.saving("cache", "observed", -500_000_000)
    metrics.gauges.streams = 4
    return merge([metrics.snapshot()])


def samples(text: bytes) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in parsed(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(text: bytes, name: str, **labels: str) -> float:
    matching = [number for having, number in samples(text)[name] if labels.items() <= having.items()]
    assert len(matching) == 1, f"{len(matching)} samples of {name} with {labels}"
    return matching[0]


def test_counts_and_costs() -> None:
    """Exchanges by status, attempts by fault, dollars by how they are known, tokens that are priced apart."""
    text = exposition(full())
    assert value(text, "weir_exchanges_total", status="200", outcome="complete") == 1
    assert value(text, "weir_attempts_total", status="connect_timeout") == 1
    assert value(text, "weir_cost_dollars_total", known="observed") == pytest.approx(1.5)
    assert value(text, "weir_cost_dollars_total", known="estimated") == pytest.approx(0.5)
    assert value(text, "weir_unpriced_attempts_total", upstream="openai") == 1
    assert value(text, "weir_tokens_total", kind="cached") == 200
    assert value(text, "weir_events_total", event="connections_shed") == 1
    assert value(text, "weir_policy_decisions_total", policy="allow", action="refused") == 1
    assert value(text, "weir_saved_dollars_total", policy="cache", known="observed") == pytest.approx(2)
    assert value(text, "weir_lost_dollars_total", policy="cache", known="observed") == pytest.approx(0.5)
    assert value(text, "weir_streams") == 4


def test_histograms_follow_opentelemetry() -> None:
    """Names, label names and cumulative buckets."""
    text = exposition(full())
    labels = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "gpt-5"}
    assert value(text, "gen_ai_client_token_usage_sum", gen_ai_token_type="input", **labels) == 1000
    assert value(text, "gen_ai_client_token_usage_bucket", gen_ai_token_type="output", le="64.0", **labels) == 1
    duration = "gen_ai_client_operation_duration_seconds"
    assert value(text, f"{duration}_count", error_type="", **labels) == 2
    assert value(text, f"{duration}_count", error_type="connect_timeout", **labels) == 1
    assert value(text, "gen_ai_server_time_to_first_token_seconds_bucket", le="0.04", **labels) == 0
    assert value(text, "gen_ai_server_time_to_first_token_seconds_bucket", le="0.06", **labels) == 2
    assert value(text, "gen_ai_server_request_duration_seconds_count", error_type="502", **labels) == 1


def test_nothing_counted_is_valid_text() -> None:
    """Before the first request every scalar is there, and the text parses."""
    assert value(exposition(Snapshot(), Facts()), "weir_exchanges_in_flight") == 0


def test_labels_are_escaped() -> None:
    """A model's name can't break out of its label."""
    metrics = Metrics(['a"} 1\nx{y="'])
    metrics.exchange("chat.completions", 'a"} 1\nx{y="', 200, "complete", 0.1)
    text = exposition(merge([metrics.snapshot()]))
    assert value(text, "weir_exchanges_total", gen_ai_request_model='a"} 1\nx{y="') == 1


def test_every_metric_is_documented_and_nothing_else() -> None:
    """docs/reference/metrics.md names exactly the families that are exposed."""
    facts = Facts(workers=(WorkerFacts(0, True, 0.1, 1.0, 1000),), config_hash="h", cards="cards.bin")
    exposed = {family.name for family in parsed(exposition(full(), facts).decode())}
    documented = set(re.findall(r"^\| `((?:weir|gen_ai)_[a-z_]+)`", REFERENCE.read_text(), re.MULTILINE))
    assert exposed == {name.removesuffix("_total") for name in documented}


def test_every_event_is_documented() -> None:
    """Each literal given to `Metrics.count` in the program stands in the reference."""
    root = REFERENCE.parent.parent.parent
    sources = [path.read_text() for folder in ("proxy", "policies") for path in (root / folder).rglob("*.py")]
    counted = {name for text in sources for name in re.findall(r"metrics\.count\(\s*\"([a-z_]+)\"", text)}
    assert counted <= set(re.findall(r"`([a-z_]+)`", REFERENCE.read_text()))
