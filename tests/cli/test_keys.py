"""`weir keys`: a key is shown once, stored hashed, listed without its secret, and revoked by its id."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.cli.conftest import Weir


def test_life_of_a_key(weir: Weir, tmp_path: Path) -> None:
    """Created, listed, revoked: stdout of `create` is the key alone, and nothing else ever shows it."""
    home = tmp_path / "home"
    made = weir("keys", "create", "--team", "search", "--tag", "env=prod", "--model", "gpt-*", "--home", str(home))
    secret = made.stdout.strip()
    assert made.returncode == 0
    assert secret.startswith("wk-")
    assert made.stdout == f"{secret}\n"

    stored = (home / "keys.json").read_text()
    assert secret not in stored
    assert hashlib.sha256(secret.encode()).hexdigest() in stored

    (listed,) = [json.loads(line) for line in weir("keys", "list", "--json", "--home", str(home)).stdout.splitlines()]
    assert (listed["team"], listed["tags"], listed["models"]) == ("search", {"env": "prod"}, ["gpt-*"])
    assert listed["active"] is True
    table = weir("keys", "list", "--home", str(home)).stdout
    assert listed["id"] in table
    assert secret not in table

    assert weir("keys", "revoke", listed["id"], "--home", str(home)).stdout == f"{listed['id']} revoked\n"
    assert weir("keys", "list", "--json", "--home", str(home)).stdout == ""
    (gone,) = [
        json.loads(line) for line in weir("keys", "list", "--json", "--all", "--home", str(home)).stdout.splitlines()
    ]
    assert gone["active"] is False


def test_key_is_not_echoed(weir: Weir, tmp_path: Path) -> None:
    """A key that isn't ours is refused without being repeated to logs and screens."""
    done = weir("keys", "revoke", "wk-canary-secret", "--home", str(tmp_path))
    assert done.returncode == 1
    assert "canary" not in done.stderr + done.stdout


def test_home_is_that_of_the_deployment_file(weir: Weir, tmp_path: Path) -> None:
    """`home:` of the file counts, read from the file's own directory, though its secrets are not set here."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/weir.yaml").write_text(
        'version: 1\nhome: state\nupstreams: {a: {url: "http://x/v1", key: "${NOT_SET}"}}\n'
    )
    assert weir("keys", "create", "--config", "etc/weir.yaml").returncode == 0
    assert (tmp_path / "etc/state/keys.json").exists()


def test_broken_key_file_is_not_no_keys(weir: Weir, tmp_path: Path) -> None:
    """A key file that can't be read is an error, not an empty list."""
    (tmp_path / "keys.json").write_text("{")
    done = weir("keys", "list", "--home", str(tmp_path))
    assert done.returncode == 1
    assert "keys.json" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_rotation_roles_and_the_audit_log(weir: Weir, tmp_path: Path) -> None:
    """Another secret under the same id; a key of the admin listener; all of it in the log, with no secret; a changed
    record is found."""
    home = ("--home", str(tmp_path))
    secrets = [
        weir("keys", "create", "--id", "ci", *home).stdout.strip(),
        weir("keys", "rotate", "ci", "--overlap", "2h", *home).stdout.strip(),
        weir("keys", "create", "--role", "finance", "--id", "alice", *home).stdout.strip(),
    ]
    assert [secret[:3] for secret in secrets] == ["wk-", "wk-", "wa-"]
    assert weir("keys", "create", "--id", "ci", *home).returncode == 1
    assert weir("keys", "rotate", "ci", "--overlap", "soon", *home).returncode == 2
    listed = [json.loads(line) for line in weir("keys", "list", "--json", *home).stdout.splitlines()]
    assert [(key["id"], "expires" in key, key.get("role")) for key in listed] == [
        ("ci", True, None),
        ("ci", False, None),
        ("alice", False, "finance"),
    ]
    weir("keys", "revoke", "nobody", *home)
    told = [json.loads(line) for line in weir("audit", "--json", *home).stdout.splitlines()]
    assert [(one["act"], one["subject"], one["result"]) for one in told] == [
        ("keys create", "ci", "done"),
        ("keys rotate", "ci", "done"),
        ("keys create", "alice", "done"),
        ("keys create", "", "refused"),
        ("keys revoke", "", "refused"),
    ]
    assert len(weir("audit", "--last", "2", "--since", "1h", "--who", told[0]["who"], *home).stdout.splitlines()) >= 3
    log = tmp_path / "audit.jsonl"
    assert not any(secret in log.read_text() for secret in secrets)
    sound = weir("audit", "--verify", *home)
    assert (sound.returncode, told[-1]["hash"] in sound.stdout) == (0, True)
    log.write_text(log.read_text().replace("alice", "mallory"))
    broken = weir("audit", "--verify", *home)
    assert (broken.returncode, "line 3 was changed" in broken.stderr) == (1, True)


def test_an_audit_log_that_cannot_be_written_hides_no_key(weir: Weir, tmp_path: Path) -> None:
    """What was done is done: the key is shown, since nobody could see it again, and the failure told beside it."""
    (tmp_path / "audit.jsonl").mkdir()
    done = weir("keys", "create", "--home", str(tmp_path))
    assert (done.returncode, done.stdout[:3]) == (0, "wk-")
    assert f"the audit log of {tmp_path} can't be written" in done.stderr
