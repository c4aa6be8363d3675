"""`weir diff`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.config.comparing import _moved
from tests.cli.conftest import Weir

OLD = """version: 1
policies:
  - {use: allow, name: access, models: [a]}
  - use: headers
    match: {team: [support, docs]}
    request: {remove: [x-a]}
  - use: retry
"""
NEW = """version: 1
policies:
  - use: retry
  - {use: allow, name: access, models: [a]}
  - use: headers
    match: {team: [support, sales]}
    rollout: 10%
    request: {remove: [x-a, x-b]}
  - {use: timeout, mode: observe, total: 5s}
"""
HASH = "0" * 63
TEAMS = "version: 1\nteams: {support: {}, docs: {}, sales: {}}\nkeys:\n" + "".join(
    f"  - {{id: k{index}, sha256: '{HASH}{index}', team: {team}}}\n"
    for index, team in enumerate(["support", "support", "docs"])
)


def test_policy_files_in_words(weir: Weir, tmp_path: Path) -> None:
    """What was added, changed and moved, with old and new values and whom it concerns; nothing else."""
    (tmp_path / "old.yaml").write_text(OLD)
    (tmp_path / "new.yaml").write_text(NEW)
    done = weir("diff", "old.yaml", "new.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "moved    retry  new.yaml:3",
        "         now outside access, headers, was inside",
        "changed  headers  new.yaml:5",
        "         match.team: support, sales (was support, docs)",
        "         rollout: 10% (was 100%)",
        "         request.remove: x-a, x-b (was x-a)",
        "         applies to 10% of requests with team support or sales",
        "         before: applies to requests with team support or docs",
        "added    timeout  new.yaml:9",
        "         timeout, inside headers",
        "         total: 5s",
        "         only observes all requests",
    ]
    assert weir("diff", "new.yaml", "old.yaml").stdout.startswith("removed  timeout")
    assert weir("diff", "old.yaml", "new.yaml", "--exit-code").returncode == 1


def test_deployment_files_by_their_teams(weir: Weir, tmp_path: Path) -> None:
    """Teams and keys that are concerned are counted; settings differ by their paths; no secret is needed or shown."""
    for name, policies, limit in (("old", OLD, "1 MiB"), ("new", NEW, "2 MiB")):
        (tmp_path / f"{name}-policies.yaml").write_text(policies)
        (tmp_path / f"{name}.yaml").write_text(
            'version: 1\nupstreams: {u: {url: "https://u/v1", key: "${U_KEY}"}}\nteams: teams.yaml\n'
            f"policies: {name}-policies.yaml\nlimits: {{body_bytes: {limit}}}\n"
        )
    (tmp_path / "teams.yaml").write_text(TEAMS)
    told = weir("diff", "old.yaml", "new.yaml").stdout
    assert "that is 2 of 3 teams: sales, support; 2 of 3 keys" in told
    assert "setting  limits.body_bytes\n         2097152 (was 1048576)" in told
    found = json.loads(weir("diff", "old.yaml", "new.yaml", "--json", U_KEY="sk-canary").stdout)
    assert "canary" not in str(found)
    assert [change["kind"] for change in found] == ["moved", "changed", "added", "setting"]


def test_equal_and_wrong_files(weir: Weir, tmp_path: Path) -> None:
    """Equal files say so; a wrong one is told like `weir check` tells it."""
    (tmp_path / "old.yaml").write_text(OLD)
    (tmp_path / "bad.yaml").write_text("version: 1\npolicies:\n  - use: rety\n")
    assert weir("diff", "old.yaml", "old.yaml", "--exit-code").stdout == "nothing changes\n"
    done = weir("diff", "old.yaml", "bad.yaml")
    assert done.returncode == 1
    assert "bad.yaml:3:10" in done.stderr


@pytest.mark.parametrize(
    ("after", "moved"), [("abcd", ""), ("dabc", "d"), ("bcda", "a"), ("acbd", "b"), ("dcba", "abc"), ("", "")]
)
def test_as_few_as_possible_have_moved(after: str, moved: str) -> None:
    """Of an order that changed, those outside the longest part that kept its order have moved."""
    found = _moved("abcd", after)
    assert len(found) == len(moved)
    if len(moved) == 1 and after != "acbd":
        assert {*found} == {*moved}
