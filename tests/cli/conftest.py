"""The command as people run it: a process of its own, with an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Weir = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def weir(tmp_path: Path) -> Weir:
    """Run `weir` in an empty directory, without any of the variables that change what it does."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WEIR", "OPENAI", "UPSTREAM"))}
    clean |= {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm"}
    clean.pop("NO_COLOR", None)

    def run(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "proxy.cli", *arguments],
            cwd=tmp_path,
            env=clean | env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run
