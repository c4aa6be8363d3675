"""The audit of locked dependencies: it fails for what is known, and says so where nothing could be known."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def audit(directory: Path, *answers: str, required: bool = False) -> subprocess.CompletedProcess[str]:
    """Run it with a pip-audit that prints one of the answers for each service, PyPI's first."""
    programs = directory / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    shutil.copy(ROOT / ".ci/audit", directory / "audit")
    for service, answer in zip(("pypi", "osv"), answers, strict=False):
        (directory / service).write_text(answer)
    fake = programs / "pip-audit"
    fake.write_text(f'#!/bin/sh\nfor last; do :; done\ncat "{directory}/$last" || echo "no route to $last" >&2\n')
    fake.chmod(0o755)
    env = {"PATH": "/usr/bin:/bin", **({"WEIR_AUDIT": "required"} if required else {})}
    command = [str(programs / "python"), str(directory / "audit"), "requirements.lock"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def report(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


CLEAN = {"name": "aiohttp", "version": "3", "vulns": []}
BAD = {"name": "yarl", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"], "aliases": []}]}
UNKNOWN = {"name": "ours", "skip_reason": "Dependency not found"}


def test_a_known_vulnerability_fails(tmp_path: Path) -> None:
    """With its name, its id and the version that mends it."""
    done = audit(tmp_path, report(CLEAN, BAD))
    assert done.returncode == 1
    assert "yarl 1: PYSEC-1; fixed in: 2" in done.stdout


def test_nothing_known_passes(tmp_path: Path) -> None:
    """What the service doesn't know is named."""
    done = audit(tmp_path, report(CLEAN, UNKNOWN))
    assert done.returncode == 0
    assert "1 locked dependencies audited by PyPI: 0 known vulnerabilities" in done.stdout
    assert "doesn't know ours" in done.stdout


def test_the_second_service_is_asked_where_the_first_knows_nothing(tmp_path: Path) -> None:
    """A mirror of the index that carries no vulnerabilities isn't a clean bill of health."""
    done = audit(tmp_path, report(UNKNOWN), report(BAD))
    assert done.returncode == 1
    assert "audited by OSV" in done.stdout


@pytest.mark.parametrize("required", [False, True])
def test_no_service_is_said_and_no_failure(tmp_path: Path, required: bool) -> None:
    """One line that says that nothing was audited; a failure only where it is asked to be one."""
    done = audit(tmp_path, report(UNKNOWN), required=required)
    assert done.returncode == int(required)
    assert done.stdout.startswith(
        "not audited: no data base of vulnerabilities answers here (PyPI: knows none of the 1"
    )
    assert len(done.stdout.splitlines()) == 1


def test_every_check_that_bandit_skips_has_its_reason() -> None:
    """In the same line, so that it is read where it is decided."""
    text = (ROOT / "pyproject.toml").read_text()
    for skipped in tomllib.loads(text)["tool"]["bandit"]["skips"]:
        assert re.search(rf'"{skipped}",  # \w+', text), skipped
