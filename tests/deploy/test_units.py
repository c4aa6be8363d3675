"""The compose file and the systemd unit, judged by the programs that will read them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from proxy.config.loading import load
from tests.deploy.files import DEPLOY, program, ran

COMPOSE = DEPLOY / "compose/docker-compose.yml"


def _compose() -> list[str]:
    """The plug-in of docker, else the command of old."""
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return ["docker", "compose"]
    return [program("docker-compose", "on Debian: apt-get install docker-compose")]


def test_compose_takes_its_file(tmp_path: Path) -> None:
    """`config` resolves every service, volume and secret; without the password it says what is missing."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    here = tmp_path / "deploy/compose"
    for secret in ("openai.key", "postgres.password"):
        (here / secret).write_text("x")
    command, env = _compose(), {**os.environ, "POSTGRES_PASSWORD": "x"}
    resolved = yaml.safe_load(ran(*command, "config", cwd=here, env=env))
    assert set(resolved["services"]) == {"weir", "redis", "postgres", "prometheus", "grafana"}
    env.pop("POSTGRES_PASSWORD")
    done = subprocess.run([*command, "config", "-q"], cwd=here, env=env, capture_output=True, text=True)
    assert done.returncode != 0 and "postgres.password" in done.stderr


def test_compose_mounts_what_exists() -> None:
    """Files of the repository that services read are there, and every port is of this machine only."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    mounted = [v for service in services.values() for v in service.get("volumes", ()) if v.startswith(".")]
    assert len(mounted) == 6
    for volume in mounted:
        assert (COMPOSE.parent / volume.split(":")[0]).exists(), volume
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_composes_weir_yaml_is_sound(tmp_path: Path) -> None:
    """The files that compose mounts are ones that Weir takes."""
    shutil.copytree(COMPOSE.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "openai").write_text("sk-test")
    file = tmp_path / "weir.yaml"
    file.write_text(file.read_text().replace("/run/secrets", str(tmp_path)))
    configuration = load(file, {"WEIR_STATE_URL": "redis://redis:6379/0", "WEIR_LEDGER_URL": "postgresql://u:p@h/l"})
    assert not configuration.warnings
    assert [entry.use for entry in configuration.policies] == ["budget", "coalesce", "cache", "retry"]


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` knows every setting."""
    analyze = program("systemd-analyze", "it is part of systemd")
    unit = tmp_path / "weir.service"
    unit.write_text((DEPLOY / "systemd/weir.service").read_text().replace("/opt/weir/bin/weir", sys.executable))
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    if "Failed to" in done.stderr and "weir.service:" not in done.stderr:
        pytest.skip(f"systemd-analyze can't verify here: {done.stderr.splitlines()[0]}")
    said = [line for line in done.stderr.splitlines() if "weir.service" in line]
    assert not said and done.returncode == 0, done.stderr
