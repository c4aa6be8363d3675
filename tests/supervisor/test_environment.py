"""What child processes inherit: nothing that the files took from the environment as a secret."""

from __future__ import annotations

import json
from pathlib import Path

from proxy.config import load
from proxy.supervisor.environment import hide


def test_what_the_files_name_is_taken_away(tmp_path: Path) -> None:
    """Keys, passwords in URLs, secrets of policies; what is needed to run, and what isn't named, stays."""
    policies = [{"use": "budget", "limit": "1 USD/month", "ladder": {"80%": "warn"}}]
    policies[0]["webhook"] = {"url": "http://127.0.0.1:9/", "secret": "${HOOK}"}
    (tmp_path / "policies.yaml").write_text(json.dumps({"version": 1, "policies": policies}))
    file = {
        "version": 1,
        "home": "${HOME}/weir",
        "upstreams": {
            "one": {"url": "http://127.0.0.1:9/v1", "key": "${ONE}"},
            "two": {"url": "http://127.0.0.1:9/v1", "keys": ["${TWO}", "${THREE}"]},
        },
        "models": {"*": {"upstream": "one"}},
        "state": "redis://:${STATE}@127.0.0.1:1/0",
        "policies": "policies.yaml",
    }
    (tmp_path / "weir.yaml").write_text(json.dumps(file))
    secrets = dict.fromkeys(("ONE", "TWO", "THREE", "STATE", "HOOK"), "canary-secret")
    kept = {"HOME": str(tmp_path), "PATH": "/bin", "OTHER": "x", "https_proxy": "http://127.0.0.1:1"}
    environ = {**secrets, **kept}
    hide(load(tmp_path / "weir.yaml", dict(environ)), environ)
    assert environ == kept
