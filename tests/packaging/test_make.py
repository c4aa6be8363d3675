"""`make` from the outside: it explains itself, and it says clearly what it can't work with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make on a copy of the Makefile, so that nothing of the checkout is touched."""
    shutil.copy(ROOT / "Makefile", directory)
    shutil.copytree(ROOT / ".ci", directory / ".ci")
    (directory / "pyproject.toml").touch()
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=directory, env=env, capture_output=True, text=True, timeout=60)


def interpreter(directory: Path, body: str) -> Path:
    """A program that stands for Python."""
    script = directory / "python"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return script


def test_help_names_the_targets(tmp_path: Path) -> None:
    """`make` alone says what there is."""
    done = make(tmp_path)
    assert done.returncode == 0
    for target in ("make run", "make test", "make bench", "make check"):
        assert target in done.stdout


def test_old_python_is_named(tmp_path: Path) -> None:
    """An interpreter that is too old is refused with its version and the way out, before anything is made."""
    old = interpreter(tmp_path, 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    done = make(tmp_path, "run", f"PYTHON={old}")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "Python 3.9.2" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_missing_python_is_named(tmp_path: Path) -> None:
    """No interpreter at all is said as such."""
    done = make(tmp_path, "run", "PYTHON=/nowhere/python3")
    assert done.returncode != 0
    assert "`/nowhere/python3` is missing." in done.stderr


def test_python_without_venv_is_named(tmp_path: Path) -> None:
    """Debian's Python without its venv package is told apart, and no half-made directory stays."""
    bare = interpreter(tmp_path, 'case "$1" in -m) mkdir -p .venv; exit 1;; *) exit 0;; esac')
    done = make(tmp_path, "run", f"PYTHON={bare}")
    assert done.returncode != 0
    assert "python3-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_packages_that_cannot_be_installed_are_skipped_clearly(tmp_path: Path) -> None:
    """Without apt-get the script says in one line what is missing, and doesn't fail."""
    for tool in ("bash", "id", "env"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    done = subprocess.run(
        [tmp_path / "bash", ROOT / ".ci/system", "no-such-tool:its-package", "bash:bash"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("skipped: no no-such-tool;")
    assert "apt-get install its-package" in done.stdout
    assert len(done.stdout.splitlines()) == 1
