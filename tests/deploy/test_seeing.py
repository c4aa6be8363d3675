"""Dashboards, alerts and runbooks name only what exists; promtool and Prometheus take them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from proxy.cli.app import run
from proxy.simulator.ports import free_port
from proxy.tracing.parent import span_of
from tests.cli.test_docs import COMMANDS, options
from tests.deploy.conftest import Demo, process, until
from tests.deploy.files import DEPLOY, ROOT, program, ran, said
from tests.patience import PATIENCE_S

PROMETHEUS = "on Debian: apt-get install prometheus"
ALERTS = DEPLOY / "prometheus/alerts.yml"
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
RUNBOOKS = ROOT / "docs/runbooks"


def _documented() -> set[str]:
    """Every series of the reference, with the parts of histograms; another test holds it to the program."""
    rows = re.findall(r"(?m)^\| `((?:weir|gen_ai)_[a-z_]+)` \| (\w+)", (ROOT / "docs/reference/metrics.md").read_text())
    parts = ("_bucket", "_sum", "_count")
    return {name + part for name, kind in rows for part in (parts if kind == "histogram" else ("",))}


def _named(expression: str) -> set[str]:
    """The metrics of an expression: what stands in quotes or after `by` is a label."""
    bare = re.sub(r"\"[^\"]*\"|(?:by|without|on) \([^)]*\)|[a-z_]+(?=[!=]~?)", "", expression)
    return set(re.findall(r"\b(?:weir|gen_ai)_[a-z_]+", bare))


def _dashboards() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", DEPLOY / "grafana/dashboards.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = module
    spec.loader.exec_module(module)
    return module


def _expressions() -> dict[str, str]:
    """Every expression of the dashboards, by dashboard and panel."""
    found = {}
    for file in sorted((DEPLOY / "grafana/dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                found[f"{file.stem}/{panel['title']}/{target['legendFormat']}"] = target["expr"]
    return found


def test_dashboards_are_what_their_source_says() -> None:
    """The files that Grafana reads were written by the program beside them; none is missing, none is left over."""
    source = _dashboards()
    assert set(source.DASHBOARDS) == {"traffic", "latency", "cost", "savings", "quality", "budgets", "upstreams"}
    kept = {file.stem: file.read_text() for file in (DEPLOY / "grafana/dashboards").glob("*.json")}
    assert kept == {name: source.text(name) for name in source.DASHBOARDS}


def test_every_metric_that_is_named_exists() -> None:
    """Dashboards, alerts and runbooks ask for nothing that Weir doesn't tell."""
    known = _documented()
    for where, expression in _expressions().items():
        named = _named(expression)
        assert named and named <= known, f"{where}: {named - known}"
    for rule in RULES:
        named = _named(rule["expr"])
        assert named <= known and (named or "up{" in rule["expr"]), rule["alert"]
    for page in RUNBOOKS.glob("*.md"):
        named = _named("\n".join(re.findall(r"(?m)^    .*$|`[^`]*`", page.read_text())))
        families = {name for name in named if any(one.startswith(name) for one in known)}
        assert named == families, f"{page.name}: {named - families}"


def test_every_alert_has_its_runbook() -> None:
    """A page each, named by the alert, with its four parts; and no other."""
    assert len(RULES) >= 10
    assert {rule["annotations"]["runbook"] for rule in RULES} == {
        f"docs/runbooks/{page.name}" for page in RUNBOOKS.glob("Weir*.md")
    }
    index = (RUNBOOKS / "README.md").read_text()
    for rule in RULES:
        text = (RUNBOOKS / f"{rule['alert']}.md").read_text()
        assert text.startswith(f"# {rule['alert']}\n\n") and len(text) > 500
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            "## Look",
            "## Do",
            "## It is over when",
        ]
        assert f"| [{rule['alert']}]({rule['alert']}.md) | {rule['labels']['severity']} |" in index


def test_runbooks_name_commands_that_exist() -> None:
    """Each `weir …` of a runbook is a command with those options."""
    asked = 0
    for page in RUNBOOKS.glob("*.md"):
        for words in re.findall(r"(?m)(?:^    |; |`)weir ([a-z][^`\n#;(]*)", page.read_text()):
            name = next(
                (n for n in sorted(COMMANDS, key=len, reverse=True) if f"weir {words} ".startswith(n + " ")), None
            )
            assert name is not None, f"{page.name}: weir {words}"
            assert set(re.findall(r"(?<!\S)--?[a-z-]+", words)) <= options(COMMANDS[name]), f"{page.name}: weir {words}"
            asked += 1
    assert asked > 20


def test_promtool_takes_rules_and_their_tests() -> None:
    """Each alert comes by the series that should set it off, with its words, and stays away by such that shouldn't."""
    promtool = program("promtool", PROMETHEUS)
    tests = sorted((DEPLOY / "prometheus/tests").glob("*.yml"))
    assert f"{len(RULES)} rules found" in said(promtool, "check", "rules", ALERTS)
    assert "SUCCESS" in said(promtool, "test", "rules", *tests)
    tried = [test["name"] for file in tests for test in yaml.safe_load(file.read_text())["tests"]]
    assert sorted(tried) == sorted(f"{rule['alert']} {how}" for rule in RULES for how in ("comes", "stays away"))
    ran(promtool, "check", "config", "--syntax-only", DEPLOY / "prometheus/prometheus.yml")


def test_a_real_prometheus_scrapes_a_real_weir(demo: Demo, tmp_path: Path) -> None:
    """Every rule is healthy, every panel's expression is answered, and a damaged key file sets off its alert."""
    prometheus = program("prometheus", PROMETHEUS)
    (tmp_path / "alerts.yml").write_text(re.sub(r"for: \w+", "for: 0s", ALERTS.read_text()))
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "200ms"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [{"job_name": "weir", "static_configs": [{"targets": [demo.ops]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with _prometheus(prometheus, tmp_path) as api:  # it takes 5 s before it scrapes, as long as Weir to start
        for _ in range(3):
            demo.ask()
        until(lambda: _query(api, "sum(weir_exchanges_total{status='200'}) >= 3"), "the requests are counted")
        for where, expression in _expressions().items():
            asked = expression.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$instance", ".*")
            assert _query(api, asked) is not None, where
        until(lambda: _query(api, "sum(weir_cost_dollars_total)"), "costs are there: a scrape that fails hides them")
        rules = until(lambda: _evaluated(api), "rules are evaluated")
        assert {rule["name"]: rule["health"] for rule in rules} == {rule["alert"]: "ok" for rule in RULES}
        keys = demo.home / "keys.json"
        before = keys.read_bytes() if keys.exists() else None
        keys.write_text("{")
        try:
            until(lambda: _query(api, "ALERTS{alertname='WeirConfigBroken', alertstate='firing'}"), "the alert comes")
        finally:
            keys.unlink() if before is None else keys.write_bytes(before)


def test_a_request_is_seen_where_traces_are(demo: Demo) -> None:
    """The exchange in its client's trace, its call beneath it, with the attributes of the conventions."""
    name = "opentelemetry.proto.collector.trace.v1.trace_service_pb2"
    service: Any = pytest.importorskip(name, reason="no OpenTelemetry here (pip install weir-proxy[otel])")
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    exchange = demo.ask(traceparent=f"00-{trace}-{parent}-01")
    received = demo.received

    def spans() -> list[Any]:
        parts = [service.ExportTraceServiceRequest.FromString(body) for _, _, body in received.requests]
        scopes = [scope for part in parts for one in part.resource_spans for scope in one.scope_spans]
        found = [span for scope in scopes for span in scope.spans]
        return [span for span in found if span.trace_id.hex() == trace]

    with received.arrived:
        assert received.arrived.wait_for(lambda: len(spans()) == 2, PATIENCE_S)
    whole, call = spans()
    assert (whole.parent_span_id.hex(), whole.span_id.hex()) == (parent, span_of(exchange))
    assert (whole.name, whole.kind, call.kind) == ("chat gpt-4o-mini", 2, 3)  # SERVER, CLIENT
    assert call.parent_span_id == whole.span_id
    assert whole.start_time_unix_nano <= call.start_time_unix_nano < call.end_time_unix_nano
    told = {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in call.attributes}
    assert told["gen_ai.operation.name"] == "chat" and told["gen_ai.usage.output_tokens"] > 0
    assert told["weir.exchange"] == exchange and told["weir.cost_usd"] > 0
    path, tenant, body = received.requests[-1]
    assert (path, tenant) == ("/v1/traces", "acme") and b"weir-test" in body


def test_top_shows_the_real_one(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    """The home directory is all that it needs to know."""
    demo.ask()
    assert run(["top", "--once", "--interval", "0.1", "--home", str(demo.home)]) == 0
    shown = capsys.readouterr().out
    assert "1 of 1 workers" in shown and re.search(r"(?m)^demo +\d", shown)


@contextlib.contextmanager
def _prometheus(binary: str, directory: Path) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    flags = (f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/tsdb")
    with process(binary, *flags, f"--web.listen-address={address}", cwd=directory):
        until(
            lambda: urllib.request.urlopen(f"http://{address}/-/ready", timeout=2).status == 200, "Prometheus is ready"
        )
        yield f"http://{address}/api/v1"


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def _query(api: str, expression: str) -> list[Any]:
    """The result; an expression that Prometheus doesn't take fails."""
    answer = _get(f"{api}/query?{urllib.parse.urlencode({'query': expression})}")
    assert answer["status"] == "success", expression
    result: list[Any] = answer["data"]["result"]
    return result


def _evaluated(api: str) -> list[Any]:
    """The rules, once each has been evaluated."""
    rules: list[Any] = _get(f"{api}/rules")["data"]["groups"][0]["rules"]
    return rules if all(rule["health"] != "unknown" for rule in rules) else []
