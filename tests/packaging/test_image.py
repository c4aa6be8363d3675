"""The container image, as far as its recipe can be read: locked, without root, without a writable root file system."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from proxy.config.loading import default_configuration

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-build.lock")


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, continued lines joined."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text())
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def last_stage() -> dict[str, list[str]]:
    """What the shipped stage says, by instruction."""
    found: dict[str, list[str]] = {}
    for name, rest in instructions():
        if name == "FROM":
            found = {}
        found.setdefault(name, []).append(rest)
    return found


def test_every_instruction_is_known() -> None:
    """A misspelt instruction fails here, not on the builder."""
    known = {"ARG", "FROM", "ENV", "WORKDIR", "RUN", "COPY", "LABEL", "VOLUME", "USER", "EXPOSE", "STOPSIGNAL"}
    assert {name for name, _ in instructions()} <= known | {"HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert sum(name == "FROM" for name, _ in instructions()) == 2


def test_runs_without_root_and_with_any_uid() -> None:
    """The image runs as a numeric user of group 0, which owns what is written: the state alone."""
    stage = last_stage()
    uid, _, gid = stage["USER"][-1].partition(":")
    assert (int(uid) > 0, gid) == (True, "0")
    assert stage["VOLUME"] == ["/var/lib/weir"]
    assert "install -d -m 0770 -o 10001 -g 0 /var/lib/weir" in stage["RUN"][0]
    environment = " ".join(stage["ENV"])
    for setting in ("WEIR_CONTAINER=1", "WEIR_HOME=/var/lib/weir", "PYTHONDONTWRITEBYTECODE=1"):
        assert setting in environment


def test_its_public_ports_demand_keys() -> None:
    """With the image's own environment and no file, the data port is public and keys are required."""
    environment = dict(pair.partition("=")[::2] for line in last_stage()["ENV"] for pair in line.split())
    deployment = default_configuration(environment).deployment
    assert (str(deployment.listen), str(deployment.ops)) == ("0.0.0.0:8787", "0.0.0.0:9090")
    assert (deployment.public, deployment.keys) == (True, "required")


def test_is_watched_and_reachable() -> None:
    """It has a health check on the ops listener, and exposes the data and the ops port."""
    stage = last_stage()
    assert "http://127.0.0.1:9090/healthz" in stage["HEALTHCHECK"][0]
    assert stage["EXPOSE"] == ["8787 9090"]
    assert stage["ENTRYPOINT"] == ['["weir"]']


def test_installs_only_what_is_locked() -> None:
    """Each install names hashes or takes a wheel made here; nothing is resolved while building."""
    runs = " && ".join(rest for name, rest in instructions() if name == "RUN")
    for command in re.findall(r"pip\S* (?:--python \S+ )?install [^&]*", runs):
        assert "--require-hashes" in command or "--no-index" in command, command
    assert "--no-build-isolation" in runs


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_name_hashes_and_no_host(lock: str) -> None:
    """Every requirement is pinned with hashes, and nothing names where to fetch it from."""
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "--index-url" not in text
    requirements = [block for block in re.split(r"(?m)^(?=[a-z0-9])", text) if re.match(r"[a-z0-9]", block)]
    assert requirements
    for block in requirements:
        assert re.match(r"[a-z0-9._-]+==[^ ;]+", block), block
        assert "--hash=sha256:" in block, block


def test_lock_holds_every_dependency() -> None:
    """A dependency that was added without `make lock` fails here."""
    locked = set(re.findall(r"(?m)^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text()))
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[\[<>=~! ]", each)[0].lower() for each in named} <= locked


def test_context_holds_what_is_copied() -> None:
    """What the recipe copies is let through to the builder, and nothing that may hold a secret."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for word in rest.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
