"""The Helm chart: linted and rendered by the real helm where it is; its manifests are kept, and judged anyway."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from proxy.config.loading import load
from tests.deploy.files import DEPLOY, KUBERNETES, RENDERED, manifests, one, program, ran, said

CHART = DEPLOY / "helm/weir"
FLEET = Path(__file__).parent / "fleet-values.yaml"
VALUES = {"single": [], "fleet": ["--values", str(FLEET)]}
HELM = "`make helm` builds it"


@pytest.mark.parametrize("name", VALUES)
def test_helm_lints_the_chart(name: str) -> None:
    """`helm lint --strict` has nothing to say."""
    assert "0 chart(s) failed" in said(program("helm", HELM), "lint", "--strict", CHART, *VALUES[name])


@pytest.mark.parametrize("name", VALUES)
def test_what_is_kept_is_what_helm_renders(name: str) -> None:
    """The manifests that the other tests judge are those of the chart as it is."""
    text = ran(program("helm", HELM), "template", "weir", CHART, "--kube-version", KUBERNETES, *VALUES[name])
    assert text == (RENDERED / f"{name}.yaml").read_text(), "render it again: `make rendered`"


def test_several_replicas_without_shared_state_are_refused() -> None:
    """Two pods, each with its own budgets, would be a way to spend twice."""
    helm = program("helm", HELM)
    for wrong, words in (("replicas=2", "must share"), ("replica=2", "replica"), ("workers=0", "workers")):
        command = [helm, "template", "weir", str(CHART), "--kube-version", KUBERNETES, "--set", wrong]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and words in done.stderr


def test_alerts_and_dashboards_come_along() -> None:
    """For those whose Prometheus and Grafana take them from the cluster: the same files as everywhere."""
    switched = ["--set", "seeing.prometheusRule=true,seeing.dashboards=true"]
    text = ran(program("helm", HELM), "template", "weir", CHART, "--kube-version", KUBERNETES, *switched)
    made = {one["kind"] + "/" + one["metadata"]["name"]: one for one in yaml.safe_load_all(text) if one}
    alerts = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
    assert made["PrometheusRule/weir"]["spec"] == alerts
    boards = made["ConfigMap/weir-dashboards"]["data"]
    assert {name: json.loads(board) for name, board in boards.items()} == {
        f"weir-{file.name}": json.loads(file.read_text()) for file in (DEPLOY / "grafana/dashboards").glob("*.json")
    }


@pytest.mark.parametrize("name", VALUES)
def test_manifests_fit_the_schemas_of_kubernetes(name: str) -> None:
    """No field is unknown to the API, none has a wrong type."""
    judged = [manifest for manifest in manifests(name) if manifest["kind"] != "ServiceMonitor"]
    for manifest in judged:
        kubernetes_validate.validate(manifest, "1.31", strict=True)
    assert len(judged) >= 6


@pytest.mark.parametrize("name", VALUES)
def test_the_configuration_is_one_that_weir_takes(name: str, tmp_path: Path) -> None:
    """The ConfigMap holds files without a problem; secrets come as files and variables."""
    pod = one(name, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    (tmp_path / "openai").write_text("sk-test")
    for file, text in one(name, "ConfigMap")["data"].items():
        (tmp_path / file).write_text(text.replace("/run/secrets/weir", str(tmp_path)))
    env = {
        "WEIR_CONTAINER": "1",
        "WEIR_STATE_URL": "redis://:pw@redis:6379/0",
        "WEIR_LEDGER_URL": "postgresql://u:p@h/l",
    }
    configuration = load(tmp_path / "weir.yaml", env)
    deployment = configuration.deployment
    assert deployment.keys == "required" and deployment.public
    grace_s = one(name, "StatefulSet")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= deployment.timeouts.drain_s + int(pod["lifecycle"]["preStop"]["exec"]["command"][1])
    if name == "fleet":
        assert (deployment.state, deployment.ledger) == (env["WEIR_STATE_URL"], env["WEIR_LEDGER_URL"])
        assert configuration.teams is not None and [entry.use for entry in configuration.policies] == ["budget"]


@pytest.mark.parametrize("name", VALUES)
def test_a_pod_needs_no_root_no_known_uid_and_no_writable_image(name: str) -> None:
    """What the strictest Pod Security Standard asks, and that no user is named."""
    spec = one(name, "StatefulSet")["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert "runAsUser" not in spec["securityContext"] | container["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] and not spec["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/var/lib/weir", "/tmp"}


def test_probes_and_scrape_ask_the_ops_port() -> None:
    """Health of the process, readiness of the workers, metrics: none on the clients' port."""
    template = one("single", "StatefulSet")["spec"]["template"]
    container = template["spec"]["containers"][0]
    asked = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: (get["path"], get["port"]) for name, get in asked.items()} == {
        "startupProbe": ("/readyz", "ops"),
        "livenessProbe": ("/healthz", "ops"),
        "readinessProbe": ("/readyz", "ops"),
    }
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports["ops"])
    assert {8787, 9090} == set(ports.values())


def test_a_fleet_scales_by_requests_in_flight_and_keeps_its_journals() -> None:
    """The autoscaler reads a metric that exists, the budget of disruptions leaves one, volumes stay."""
    scaler = one("fleet", "HorizontalPodAutoscaler")["spec"]
    assert scaler["metrics"][0]["pods"]["metric"]["name"] == "weir_exchanges_in_flight"
    assert "replicas" not in one("fleet", "StatefulSet")["spec"]
    assert one("fleet", "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert one("fleet", "StatefulSet")["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"
    env = {
        entry["name"]: entry
        for entry in one("fleet", "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert env["WEIR_LEDGER_URL"]["valueFrom"]["secretKeyRef"] == {"name": "weir-databases", "key": "postgresql-url"}


def test_the_network_policy_names_who_may_come() -> None:
    """Clients reach the data port, scrapers the ops port; nobody the admin port."""
    rules = one("fleet", "NetworkPolicy")["spec"]["ingress"]
    assert [rule["ports"] for rule in rules] == [[{"port": "data"}], [{"port": "ops"}]]
    assert all(rule["from"] for rule in rules)
