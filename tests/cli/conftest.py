"""The command as people run it, with an environment and a directory of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from proxy.cli.app import run
from tests.plane.conftest import simulator

__all__ = ["simulator"]

Weir = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(home: Path) -> dict[str, str]:
    """Ours, without any of the variables that change what the command does."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WEIR", "OPENAI", "UPSTREAM"))}
    clean.pop("NO_COLOR", None)
    return clean | {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "TERM": "xterm"}


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weir:
    """Run `weir` in an empty directory: within this process, which is quick."""
    clean = environment(tmp_path)

    def here(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch, contextlib.chdir(tmp_path):
            _replace(patch, clean | env)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
                status = run(arguments)
        return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())

    return here


@pytest.fixture
def weir_process(tmp_path: Path) -> Weir:
    """Run `weir` in an empty directory: as a process, as its users do."""
    clean = environment(tmp_path)

    def apart(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "proxy.cli", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=clean | env, input=stdin, capture_output=True, text=True, timeout=60
        )

    return apart


def _replace(patch: pytest.MonkeyPatch, env: Mapping[str, str]) -> None:
    for name in os.environ.keys() - env.keys():
        patch.delenv(name)
    for name, value in env.items():
        patch.setenv(name, value)
