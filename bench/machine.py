"""The machine that a run happened on: facts to print beside the numbers, the cores to use, the limits to raise."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

OPEN_FILES = 20_000


@dataclass(frozen=True, slots=True)
class Cores:
    """Where things run. On a machine with one core both are the same, and `shared` says so."""

    proxy: int
    load: int

    @property
    def shared(self) -> bool:
        return self.proxy == self.load


def cores() -> Cores:
    """The first core allowed to this process is the proxy's, the second is for load and upstreams."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(proxy=allowed[0], load=allowed[1] if len(allowed) > 1 else allowed[0])


def raise_open_files() -> int:
    """Raise the soft limit of open files towards OPEN_FILES (children inherit it); return what was reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < want:
        resource.setrlimit(resource.RLIMIT_NOFILE, (want, hard))
        return want
    return soft


def nginx() -> str | None:
    """The path of nginx, also where only root has it on its PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def wrk() -> str | None:
    return shutil.which("wrk")


def facts() -> dict[str, str]:
    """What a reader needs to judge the absolute figures."""
    return {
        "cpu": f"{_first_match('/proc/cpuinfo', 'model name')} x {os.cpu_count()}",
        "memory": _first_match("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "load average at start": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "uvloop": metadata.version("uvloop"),
        "httptools": metadata.version("httptools"),
        "nginx": _version(nginx(), "-v"),
        "wrk": _version(wrk(), "-v"),
    }


def _first_match(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return "unknown"


def _version(program: str | None, flag: str) -> str:
    if program is None:
        return "not installed"
    ran = subprocess.run([program, flag], capture_output=True, text=True, check=False)
    return (ran.stdout + ran.stderr).partition("\n")[0].strip()
