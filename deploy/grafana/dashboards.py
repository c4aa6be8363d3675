"""Writes the dashboards: `python deploy/grafana/dashboards.py`. Grafana reads dashboards/*.json; edit here.

A panel is a title, a unit and its expressions; everything else is alike in all of them. `$instance` is the choice at
the top. Only metrics of docs/reference/metrics.md may be named: a test looks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
ON = 'instance=~"$instance"'
R = "$__rate_interval"


class Panel(NamedTuple):
    """`expressions` maps legends to PromQL."""

    title: str
    unit: str
    expressions: dict[str, str]
    kind: str = "timeseries"
    text: str = ""


def rate(metric: str, by: str = "", where: str = "", over: str = R) -> str:
    """The rate of a counter, summed."""
    among = f"{where}, {ON}" if where else ON
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{among}}}[{over}]))"


def gauge(metric: str, by: str = "", where: str = "", how: str = "sum") -> str:
    """A gauge over hosts."""
    among = f"{where}, {ON}" if where else ON
    return f"{how}{f' by ({by})' if by else ''} ({metric}{{{among}}})"


def total(metric: str) -> str:
    """What a counter gained in the range that is shown."""
    return f"sum (increase({metric}{{{ON}}}[$__range]))"


def of_all(series: str) -> str:
    """As a share of all requests."""
    return f"{series} / on () group_left () {rate('weir_exchanges_total')}"


def ratio(part: str, whole: str) -> str:
    """Of two gauges of a policy."""
    return f"{gauge(part, 'policy')} / {gauge(whole, 'policy')}"


def quantiles(metric: str, where: str = "") -> dict[str, str]:
    """The usual three of a histogram."""
    bucket = rate(f"{metric}_bucket", "le", where)
    return {f"p{n}": f"histogram_quantile({n / 100}, {bucket})" for n in (50, 95, 99)}


def quantile_by(metric: str, label: str, q: float = 0.99) -> dict[str, str]:
    """One quantile for each value of a label."""
    bucket = rate(f"{metric}_bucket", f"le, {label}")
    return {f"{{{{{label}}}}}": f"histogram_quantile({q}, {bucket})"}


SERVED = "gen_ai_server_request_duration_seconds"
CALLED = "gen_ai_client_operation_duration_seconds"
TTFT = "gen_ai_server_time_to_first_token_seconds"
TOKENS = "gen_ai_client_token_usage_sum"
COST, SAVED, LOST = "weir_cost_dollars_total", "weir_saved_dollars_total", "weir_lost_dollars_total"
FAILED, BROKEN = 'status=~"5.."', 'outcome!="complete"'
HITS, CACHED, INPUT = 'action=~"hit|semantic|stale.*"', 'kind="cached"', 'gen_ai_token_type="input"'
STEPS = 'event="budget_thresholds"'
USED = gauge("weir_budget_used_ratio", "policy, subject, limit", how="max")
NET = f"(({rate(SAVED)}) - ({rate(LOST)} or vector(0)))"

DASHBOARDS = {
    "traffic": [
        Panel("Requests", "reqps", {"{{endpoint}}": rate("weir_exchanges_total", "endpoint")}),
        Panel("Answers by status", "reqps", {"{{status}}": rate("weir_exchanges_total", "status")}),
        Panel(
            "Failed (5xx)",
            "percentunit",
            {"share": f"{rate('weir_exchanges_total', where=FAILED)} / {rate('weir_exchanges_total')}"},
        ),
        Panel(
            "Models asked for",
            "reqps",
            {"{{gen_ai_request_model}}": rate("weir_exchanges_total", "gen_ai_request_model")},
        ),
        Panel(
            "In flight",
            "short",
            {
                "requests": gauge("weir_exchanges_in_flight"),
                "streams": gauge("weir_streams"),
                "waiting": gauge("weir_exchanges_waiting"),
                "connections": gauge("weir_connections"),
            },
        ),
        Panel("Turned away", "reqps", {"{{event}}": rate("weir_events_total", "event", 'event=~".*shed.*"')}),
        Panel(
            "CPU of workers",
            "percentunit",
            {"{{instance}} {{worker}}": rate("weir_worker_cpu_seconds_total", "instance, worker")},
        ),
        Panel(
            "Memory of workers",
            "bytes",
            {"{{instance}} {{worker}}": gauge("weir_worker_resident_memory_bytes", "instance, worker")},
        ),
        Panel("Rare events", "reqps", {"{{event}}": rate("weir_events_total", "event")}),
        Panel(
            "Hosts",
            "short",
            {
                "workers ready": gauge("weir_workers_ready"),
                "workers wanted": gauge("weir_workers_wanted"),
                "in bypass": gauge("weir_bypass"),
                "files refused": f"count(weir_config_valid{{{ON}}} == 0) or vector(0)",
                "ledger behind, s": gauge("weir_ledger_behind_seconds", how="max"),
            },
        ),
    ],
    "latency": [
        Panel("Whole requests", "s", quantiles(SERVED, 'error_type=""')),
        Panel("First token, as upstreams give it", "s", quantiles(TTFT, 'error_type=""')),
        Panel("Whole requests, p99 by model", "s", quantile_by(SERVED, "gen_ai_request_model")),
        Panel("First token, p99 by upstream", "s", quantile_by(TTFT, "upstream")),
        Panel("Calls of upstreams, p99", "s", quantile_by(CALLED, "upstream")),
        Panel(
            "A turn of the workers' loops",
            "s",
            {"{{instance}} {{worker}}": gauge("weir_worker_loop_lag_seconds", "instance, worker")},
        ),
        Panel("Whole requests", "s", {"{{le}}": rate(f"{SERVED}_bucket", "le")}, "heatmap"),
    ],
    "cost": [
        Panel("USD an hour", "currencyUSD", {"now": f"{rate(COST)} * 3600"}, "stat"),
        Panel("USD in this range", "currencyUSD", {"spent": total(COST)}, "stat"),
        Panel(
            "USD an hour by model",
            "currencyUSD",
            {"{{gen_ai_request_model}}": f"{rate(COST, 'gen_ai_request_model')} * 3600"},
        ),
        Panel("USD an hour by upstream", "currencyUSD", {"{{upstream}}": f"{rate(COST, 'upstream')} * 3600"}),
        Panel("How it is known", "currencyUSD", {"{{known}}": f"{rate(COST, 'known')} * 3600"}),
        Panel(
            "Calls without a price",
            "reqps",
            {"{{gen_ai_request_model}}": rate("weir_unpriced_attempts_total", "gen_ai_request_model")},
        ),
        Panel("Tokens a second", "short", {"{{gen_ai_token_type}}": rate(TOKENS, "gen_ai_token_type")}),
        Panel("… with a price of their own", "short", {"{{kind}}": rate("weir_tokens_total", "kind")}),
        Panel(
            "USD a thousand requests",
            "currencyUSD",
            {"mean": f"1000 * {rate(COST, over='30m')} / {rate('weir_exchanges_total', over='30m')}"},
        ),
        Panel("Not yet in the ledger", "bytes", {"{{instance}}": gauge("weir_ledger_behind_bytes", "instance")}),
    ],
    "savings": [
        Panel(
            "Saved in this range",
            "currencyUSD",
            {"net": f"{total(SAVED)} - ({total(LOST)} or vector(0))"},
            "stat",
            "Before what policies spend on judges and shadow calls. `weir report --section savings` is exact and net.",
        ),
        Panel("Of what it would have cost", "percentunit", {"share": f"{NET} / ({NET} + {rate(COST)})"}, "stat"),
        Panel("Saved an hour by policy", "currencyUSD", {"{{policy}}": f"{rate(SAVED, 'policy')} * 3600"}),
        Panel("Lost an hour by policy", "currencyUSD", {"{{policy}}": f"{rate(LOST, 'policy')} * 3600"}),
        Panel("How it is known", "currencyUSD", {"{{known}}": f"{rate(SAVED, 'known')} * 3600"}),
        Panel(
            "What policies did",
            "reqps",
            {"{{policy}} {{action}}": rate("weir_policy_decisions_total", "policy, action")},
        ),
        Panel(
            "Hits of the caches",
            "percentunit",
            {"{{policy}}": of_all(rate("weir_policy_decisions_total", "policy", HITS))},
        ),
        Panel(
            "Input tokens that the provider had cached",
            "percentunit",
            {"share": f"{rate('weir_tokens_total', where=CACHED)} / {rate(TOKENS, where=INPUT)}"},
        ),
        Panel("Answers kept", "short", {"{{policy}}": gauge("weir_cache_entries", "policy")}),
        Panel("Memory of the caches", "bytes", {"{{policy}}": gauge("weir_cache_bytes", "policy")}),
    ],
    "quality": [
        Panel(
            "Answers by meaning that were wrong",
            "percentunit",
            {"{{policy}}": ratio("weir_cache_semantic_wrong", "weir_cache_semantic_audits")},
            text="Of those that were audited: the realised error that `max_error` bounds.",
        ),
        Panel("What the audits are worth", "short", {"{{policy}}": gauge("weir_cache_semantic_audits", "policy")}),
        Panel(
            "Tenants",
            "short",
            {
                "served {{policy}}": gauge("weir_cache_semantic_certified", "policy"),
                "gathering {{policy}}": gauge("weir_cache_semantic_gathering", "policy"),
                "suspended {{policy}}": gauge("weir_cache_semantic_suspended", "policy"),
            },
        ),
        Panel(
            "Threshold, mean",
            "short",
            {"{{policy}}": ratio("weir_cache_semantic_threshold", "weir_cache_semantic_certified")},
        ),
        Panel(
            "Cascades: classes of traffic",
            "short",
            {
                "small model {{policy}}": gauge("weir_cascade_certified", "policy"),
                "gathering {{policy}}": gauge("weir_cascade_gathering", "policy"),
                "can't pay {{policy}}": gauge("weir_cascade_infeasible", "policy"),
                "became worse {{policy}}": gauge("weir_cascade_reverted", "policy"),
            },
        ),
        Panel("Cascades: judged pairs", "short", {"{{policy}}": gauge("weir_cascade_pairs", "policy")}),
        Panel(
            "Stepped back by their guardrail",
            "short",
            {"{{policy}} to {{mode}}": gauge("weir_policy_stepped_back", "policy, mode", how="max")},
        ),
        Panel("Feedback", "reqps", {"{{event}}": rate("weir_events_total", "event", 'event=~"feedback_.*"')}),
        Panel("Entries compared by meaning", "short", {"{{policy}}": gauge("weir_cache_semantic_entries", "policy")}),
        Panel(
            "What was decided",
            "reqps",
            {"{{policy}} {{action}}": rate("weir_policy_decisions_total", "policy, action")},
        ),
        Panel(
            "Answers that weren't whole",
            "percentunit",
            {"{{outcome}}": of_all(rate("weir_exchanges_total", "outcome", BROKEN))},
        ),
        Panel(
            "Background work that failed",
            "reqps",
            {"{{event}}": rate("weir_events_total", "event", 'event="background_failures"')},
        ),
    ],
    "budgets": [
        Panel(
            "Used",
            "percentunit",
            {"{{policy}}: {{subject}}, {{limit}}": USED},
            "bargauge",
        ),
        Panel(
            "Nearest their limit",
            "percentunit",
            {"{{policy}}: {{subject}}, {{limit}}": f"topk(10, {USED})"},
        ),
        Panel(
            "Refused and waiting",
            "reqps",
            {
                "{{policy}} {{action}}": rate(
                    "weir_policy_decisions_total",
                    "policy, action",
                    'action=~"(would_)?refuse.*|warn|use_model|tier|shrunk"',
                )
            },
        ),
        Panel("Steps of ladders", "short", {"steps": f"sum (increase(weir_events_total{{{STEPS}, {ON}}}[1h]))"}),
        Panel("State away", "reqps", {"{{event}}": rate("weir_events_total", "event", 'event=~".*_lost"')}),
        Panel(
            "Answers 429",
            "reqps",
            {"{{gen_ai_request_model}}": rate("weir_exchanges_total", "gen_ai_request_model", 'status="429"')},
        ),
    ],
    "upstreams": [
        Panel("Calls", "reqps", {"{{upstream}}": rate("weir_attempts_total", "upstream")}),
        Panel(
            "Calls that failed",
            "reqps",
            {"{{upstream}} {{status}}": rate("weir_attempts_total", "upstream, status", 'status!~"2.."')},
        ),
        Panel(
            "Calls a request",
            "short",
            {"all": f"{rate('weir_attempts_total')} / {rate('weir_exchanges_total')}"},
            text="Retries, hedges and escalations raise it, caches lower it.",
        ),
        Panel(
            "Deployments by state",
            "short",
            {"{{deployment}} {{state}}": gauge("weir_deployment_workers", "deployment, state")},
        ),
        Panel(
            "Left alone",
            "short",
            {"{{deployment}}": gauge("weir_deployment_workers", "deployment", 'state=~"open|ejected|key_aside"')},
        ),
        Panel("Calls under way", "short", {"{{deployment}}": gauge("weir_deployment_in_flight", "deployment")}),
        Panel(
            "First token of late",
            "s",
            {"{{deployment}}": gauge("weir_deployment_ttft_seconds", "deployment", how="max")},
        ),
        Panel(
            "Room under their limits",
            "percentunit",
            {"{{deployment}}": gauge("weir_deployment_room_ratio", "deployment", how="min")},
        ),
        Panel("Connections", "short", {"open": gauge("weir_upstream_connections")}),
    ],
}


def panel(number: int, given: Panel) -> dict[str, Any]:
    """A panel as Grafana's JSON, two in a row."""
    made: dict[str, Any] = {
        "id": number + 1,
        "type": given.kind,
        "title": given.title,
        "datasource": SOURCE,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
        "fieldConfig": {"defaults": {"unit": given.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + index), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for index, (legend, expression) in enumerate(given.expressions.items())
        ],
    }
    if given.text:
        made["description"] = given.text
    if given.kind == "heatmap":
        made["targets"][0]["format"] = "heatmap"
    return made


def dashboard(name: str) -> dict[str, Any]:
    """A whole dashboard."""
    return {
        "uid": f"weir-{name}",
        "title": f"Weir / {name.capitalize()}",
        "tags": ["weir"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["weir"], "asDropdown": True, "title": "Weir", "keepTime": True}],
        "templating": {
            "list": [
                {
                    "name": "instance",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": "label_values(weir_build_info, instance)",
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                }
            ]
        },
        "panels": [panel(number, given) for number, given in enumerate(DASHBOARDS[name])],
    }


def text(name: str) -> str:
    """What stands in the file."""
    return json.dumps(dashboard(name), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (HERE / f"{name}.json").write_text(text(name), encoding="utf-8")
