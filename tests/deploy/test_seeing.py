"""Dashboards, alerts and runbooks name only what exists; promtool and Prometheus take them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from tests.cli.conftest import environment
from tests.cli.test_docs import COMMANDS, options
from tests.deploy.files import DEPLOY, ROOT, program, ran

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
    assert f"{len(RULES)} rules found" in ran(promtool, "check", "rules", ALERTS)
    assert "SUCCESS" in ran(promtool, "test", "rules", *tests)
    tried = [test["name"] for file in tests for test in yaml.safe_load(file.read_text())["tests"]]
    assert sorted(tried) == sorted(f"{rule['alert']} {how}" for rule in RULES for how in ("comes", "stays away"))
    ran(promtool, "check", "config", "--syntax-only", DEPLOY / "prometheus/prometheus.yml")


@contextlib.contextmanager
def _process(*command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def _until(found: Any, what: str, within_s: float = 30.0) -> Any:
    """What `found` returns as soon as it is something."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError, KeyError, ValueError):
            if result := found():
                return result
        time.sleep(0.05)
    raise AssertionError(f"never: {what}")


def test_a_real_prometheus_scrapes_a_real_weir(tmp_path: Path) -> None:
    """Every rule is healthy, every panel's expression is answered, and a damaged key file sets off its alert."""
    prometheus = program("prometheus", PROMETHEUS)
    home, env, ops = tmp_path / "home", environment(tmp_path), _free()
    env |= {"WEIR_OPS": ops, "WEIR_ADMIN": "127.0.0.1:0"}
    serve = (sys.executable, "-m", "proxy.cli", "serve", "--demo", "--listen", "127.0.0.1:0", "--home", str(home))
    (tmp_path / "alerts.yml").write_text(re.sub(r"for: \w+", "for: 0s", ALERTS.read_text()))
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [{"job_name": "weir", "static_configs": [{"targets": [ops]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    # It takes 5 s before it scrapes: so it starts first.
    with _prometheus(prometheus, tmp_path) as api, _process(*serve, cwd=tmp_path, env=env):
        running = _until(lambda: json.loads((home / "running.json").read_text()), "weir serves")
        for _ in range(3):
            _ask(running["listen"][0])
        _until(lambda: _query(api, "weir_exchanges_total{status='200'} >= 3"), "the requests are counted")
        for where, expression in _expressions().items():
            asked = expression.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$instance", ".*")
            assert _query(api, asked) is not None, where
        assert _query(api, "sum(weir_cost_dollars_total)")
        _until(lambda: _query(api, "up == 1 unless on () ALERTS{alertname='WeirDown'}"), "it was down, and is up")
        rules = _until(lambda: _evaluated(api), "rules are evaluated")
        assert {rule["name"]: rule["health"] for rule in rules} == {rule["alert"]: "ok" for rule in RULES}
        assert {rule["name"] for rule in rules if rule["state"] == "firing"} <= {"WeirSpendUnpriced"}
        (home / "keys.json").write_text("{")
        _until(lambda: _query(api, "ALERTS{alertname='WeirConfigBroken', alertstate='firing'}"), "the alert comes")


def _free() -> str:
    """An address that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def _ask(listen: str) -> None:
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer sk-demo"}
    request = urllib.request.Request(f"http://{listen}/v1/chat/completions", body, headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200


@contextlib.contextmanager
def _prometheus(binary: str, directory: Path) -> Iterator[str]:
    address = _free()
    flags = (f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/tsdb")
    with _process(binary, *flags, f"--web.listen-address={address}", cwd=directory, env=dict(os.environ)):
        _until(
            lambda: urllib.request.urlopen(f"http://{address}/-/ready", timeout=2).status == 200, "Prometheus is ready"
        )
        yield f"http://{address}/api/v1"


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
