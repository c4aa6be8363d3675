"""The built-in simulator as a process of its own: faults on demand, and an invoice to compare with."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.simulator.ports import free_port
from tests.patience import PATIENCE_S

from .process import alive, answers, running, until


@dataclass(frozen=True, slots=True)
class Simulator:
    """A running simulator."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def told(self, what: str) -> Any:
        """`state`, `requests` or `invoice`, as it stands."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/sim/{what}", timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def requests(self) -> int:
        return self.told("state")["requests"]


@contextmanager
def simulator_server(log: Path) -> Iterator[Simulator]:
    """A simulator with its default models and latencies."""
    simulator = Simulator(free_port())
    with running((sys.executable, "-m", "proxy.simulator", "--port", str(simulator.port)), log) as process:

        def ready() -> bool:
            alive(process, log)
            return answers(f"{simulator.url}/models")

        until(ready, what="the simulator ready")
        yield simulator
