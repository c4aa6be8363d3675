"""Where the files of `deploy/` are, and the programs that judge them: each may be missing, which is said."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RENDERED = Path(__file__).parent / "rendered"
KUBERNETES = "1.31.0"


def program(name: str, how: str) -> str:
    """Its path; skips where it isn't here."""
    elsewhere = [os.environ["PATH"], "/usr/sbin", str(Path.home() / "go/bin")]
    found = shutil.which(name, path=os.pathsep.join(elsewhere))
    if found is None:
        pytest.skip(f"no {name} here ({how})")
    return found


def ran(*command: str | Path, **options: Any) -> str:
    """What a program that must succeed prints."""
    return _ran(*command, **options).stdout


def said(*command: str | Path, **options: Any) -> str:
    """The same, with what it says on the side."""
    done = _ran(*command, **options)
    return done.stdout + done.stderr


def _ran(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@cache
def manifests(name: str) -> tuple[dict[str, Any], ...]:
    """The chart as it renders with the values `name`."""
    return tuple(filter(None, yaml.safe_load_all((RENDERED / f"{name}.yaml").read_text())))


def one(name: str, kind: str) -> dict[str, Any]:
    """The manifest of this kind; the first, where there are several."""
    return next(manifest for manifest in manifests(name) if manifest["kind"] == kind)
