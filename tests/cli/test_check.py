"""`weir check` and `weir schema`: every mistake at once, each with its place, its line, and what would be right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.cli.problems import masked
from tests.cli.conftest import Weir

BROKEN = """\
version: 1
upstreams:
  openai: {url: https://api.openai.com/v1, ky: "${OPENAI_API_KEY}"}
models:
  gpt-4o-mini: {upstream: opnai}
policies: policies.yaml
"""
BROKEN_POLICIES = """\
version: 1
policies:
  - use: alow
  - use: allow
    mach: {team: search}
"""
SOUND = 'version: 1\nupstreams: {local: {url: "http://127.0.0.1:8000/v1"}}\n'


def test_all_mistakes_of_all_files_at_once(weir: Weir, tmp_path: Path) -> None:
    """Each is shown with file:line:column, the line itself, a caret under the place, and the nearest name."""
    (tmp_path / "weir.yaml").write_text(BROKEN)
    (tmp_path / "policies.yaml").write_text(BROKEN_POLICIES)
    done = weir("check", OPENAI_API_KEY="sk-test")
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[0] == "weir: 4 errors in the configuration"
    places = [line.partition(": error: ")[0] for line in lines if ": error: " in line]
    assert [place.rpartition(":")[0] for place in places] == [
        "weir.yaml:3",
        "weir.yaml:5",
        "policies.yaml:3",
        "policies.yaml:5",
    ]
    for meant in ("key", "openai", "allow", "match"):
        assert f"did you mean {meant}?" in done.stderr


def test_caret_stands_under_the_place(weir: Weir, tmp_path: Path) -> None:
    """The caret points at the word that is wrong."""
    (tmp_path / "weir.yaml").write_text(SOUND + "listn: 1\n")
    lines = weir("check").stderr.splitlines()
    place = next(index for index, line in enumerate(lines) if "weir.yaml:3:1: error" in line)
    assert lines[place + 1 : place + 3] == ["  3 | listn: 1", "    | ^"]


def test_sound_file(weir: Weir, tmp_path: Path) -> None:
    """A file without mistakes says so and exits with 0, from wherever it is named."""
    (tmp_path / "other.yaml").write_text(SOUND)
    done = weir("check", "other.yaml")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok other.yaml\n", "")


def test_no_file_to_check(weir: Weir) -> None:
    """Where no file is named or found, that is said."""
    done = weir("check", WEIR_CONFIG="")
    assert done.returncode == 1
    assert "no deployment file" in done.stderr


def test_warnings_do_not_fail(weir: Weir, tmp_path: Path) -> None:
    """A warning is shown like an error, but the file is accepted."""
    (tmp_path / "weir.yaml").write_text(SOUND + "policies: p.yaml\n")
    (tmp_path / "p.yaml").write_text(
        "version: 1\npolicies:\n  - use: allow\n    match: {team: nobody}\n    mode: 'off'\n"
    )
    done = weir("check")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ok weir.yaml\n"


@pytest.mark.parametrize("kind", ["deployment", "policies"])
def test_schema_is_json_schema(weir: Weir, kind: str) -> None:
    """The schema is JSON, forbids unknown keys and describes its settings."""
    schema = json.loads(weir("schema", kind).stdout)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["version"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("    key: sk-canary-9", "    key: •••••••••••"),
        ('    openai: {url: u, key: "canary", kee: x}', '    openai: {url: u, key: "••••••", kee: x}'),
        ('{"keys": ["canary"], "secret":"canary"}', '{"keys": ["••••••"], "secret":"••••••"}'),
        ("      - sk-canary-9", "      - sk-••••••••"),
        ("state: redis://:canary@h:1/0", "state: redis://:••••••@h:1/0"),
        ("url: https://user:canary@h/v1", "url: https://user:••••••@h/v1"),
        ('key: "${OPENAI_API_KEY}"', 'key: "${OPENAI_API_KEY}"'),
        ("state: redis://:${PW}@h", "state: redis://:${PW}@h"),
        ("key: {file: /run/secrets/openai}", "key: {file: /run/secrets/openai}"),
        ("keys: required", "keys: required"),
        ("limit: 2M tokens/day", "limit: 2M tokens/day"),
    ],
)
def test_lines_are_shown_without_secrets(line: str, shown: str) -> None:
    """What was written where no key belongs isn't repeated in a log; the caret still fits."""
    assert masked(line) == shown
    assert len(masked(line)) == len(line)
