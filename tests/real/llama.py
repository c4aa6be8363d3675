"""llama.cpp's server seen from outside: where it is, what its metrics say, and who is connected to it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

from .process import alive, answers, running, until

ADDRESS = re.compile(r"listening on http://127\.0\.0\.1:(\d+)\n")
ESTABLISHED = "01"  # of /proc/net/tcp, include/net/tcp_states.h
START_S = 20
STARTS = 3


@dataclass(frozen=True, slots=True)
class Llama:
    """A running server; `model` is what it answers to (it ignores the name that it is asked for)."""

    port: int
    model: str = "tiny-random"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def gauge(self, name: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=PATIENCE_S) as answer:
            found = re.search(rf"^llamacpp:{name} (\d+)", answer.read().decode(), re.MULTILINE)
        assert found, f"llama.cpp has no metric {name}"
        return int(found[1])

    def busy(self) -> bool:
        return self.gauge("requests_processing") > 0

    def peers(self) -> set[int]:
        """The ports of those who are connected and have not hung up, as the kernel sees them."""
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        here = f"0100007F:{self.port:04X}"
        return {int(row[2].partition(":")[2], 16) for row in rows if row[1] == here and row[3] == ESTABLISHED}


@contextmanager
def llama_server(model: Path, mode: str, log: Path) -> Iterator[Llama]:
    """A server of its own in `mode` (chat or embedding), ready. One start was seen to hang, cause unknown: retry."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp has no wheel for this platform")
    script = Path(__file__).with_name("llama_server.py")
    for _ in range(STARTS):
        with running((sys.executable, str(script), str(model), mode), log) as process:
            if server := _ready(process, log):
                yield server
                return
    raise AssertionError(f"llama.cpp did not start in {STARTS} times {START_S} s:\n{log.read_text()[-4000:]}")


def _ready(process: subprocess.Popen[str], log: Path) -> Llama | None:
    def look() -> Llama | None:
        alive(process, log)
        found = ADDRESS.search(log.read_text(errors="replace"))
        return Llama(int(found[1])) if found and answers(f"http://127.0.0.1:{found[1]}/health") else None

    try:
        return until(look, START_S)
    except AssertionError:
        if process.poll() is not None:
            raise
        return None
