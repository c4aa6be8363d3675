"""What a part of the benchmark runs against: the simulated provider, and `weir serve` before it, each a process.

    with world(directory, Setup(policies=…)) as (provider, weir): …

Nothing is pinned to a core here; what is timed says so where it is.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.money import prices
from bench.processes import NotReadyError, Process
from proxy.simulator.ports import free_port
from proxy.state.opening import BOUND_S, open_store, socket_path
from proxy.state.protocol import Store

ROOT: Final = Path(__file__).parents[2]
POLICIES: Final = {"rungs": "bench.money.rungs", "stopwatch": "bench.money.stopwatch"}
READY_S: Final = 120.0
ANSWER_S: Final = 120.0  # an invoice of many thousand lines is one answer
_HASHED: Final = 6  # characters of a key that stand on the invoice

_SHIFT = """
import os, time
shift_s = float(os.environ.get("BENCH_SHIFT_S", "0"))
if shift_s:
    now_s, now_ns = time.time, time.time_ns
    time.time = lambda: now_s() + shift_s
    time.time_ns = lambda: now_ns() + round(shift_s * 1e9)
"""


def number_of(label: str) -> int:
    """Which request a line of the invoice is for."""
    return int(label[:_HASHED], 36)


def key_of(number: int) -> str:
    """The key of a request: its beginning, which the invoice shows, is its number."""
    digits, left = "", number
    while left or not digits:
        left, digit = divmod(left, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return f"{digits:0>{_HASHED}}-bench-0123456789abcdef"


class Provider:
    """The simulator as a process, and its invoice."""

    def __init__(self, directory: Path, *options: str, scenario: str = "version: 1\n") -> None:
        directory.mkdir(parents=True)
        (directory / "scenario.yaml").write_text(scenario)
        self.port = free_port()
        argv = [sys.executable, "-m", "proxy.simulator", "--port", str(self.port), "--remember", "0"]
        argv += ["--scenario", str(directory / "scenario.yaml"), *options]
        self.process = Process(argv, core=None, log=directory / "log", env={"PYTHONPATH": str(ROOT)})
        self.process.wait_listening(self.port)

    def rows(self) -> list[dict[str, Any]]:
        """The lines of the invoice."""
        found: list[dict[str, Any]] = self._get("/sim/invoice")["rows"]
        return found

    def state(self) -> dict[str, Any]:
        """What it has seen."""
        found: dict[str, Any] = self._get("/sim/state")
        return found

    def reset(self) -> None:
        """Forgets everything, the scenario's rules included."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/sim/reset", method="POST")
        urllib.request.urlopen(request, timeout=30).close()

    def spent(self) -> int:
        """The whole invoice, in nano-dollars."""
        return sum(prices.cost(row) for row in self.rows())

    def quiet(self, within_s: float = 60.0) -> None:
        """Returns once it works on nothing: what follows on the invoice was asked for later."""
        ends_s = time.monotonic() + within_s
        while self.state()["active"] and time.monotonic() < ends_s:
            time.sleep(0.05)

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=ANSWER_S) as answer:
            return json.load(answer)


@dataclass
class Setup:
    """How Weir is to be run."""

    policies: str = "[]"
    state: str = "sqlite:///state.db"
    ledger: str = "sqlite:///ledger.db"
    workers: int = 4
    models: str = '{"*": {upstream: up}}'
    upstreams: str = ""
    more: str = ""
    command: Sequence[str] = ("-m", "proxy.cli")
    shift_s: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)


class Weir:
    """`weir serve` over one home; can be ended and started anew."""

    def __init__(self, home: Path, provider: Provider, setup: Setup) -> None:
        self.home, self.provider, self.setup = home, provider, setup
        home.mkdir(parents=True, exist_ok=True)
        self.port, self.ops, self.admin = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / "log"
        self.process: Process | None = None
        self._read_to = 0  # of the log, by `news`
        self._plugins = home / "plugins"
        _make_plugins(self._plugins)

    def start(self) -> None:
        """Returns once it is ready."""
        setup = self.setup
        (self.home / "policies.yaml").write_text(f"version: 1\ntime_zone: UTC\npolicies: {setup.policies}\n")
        config = self.home / "weir.yaml"
        config.write_text(self._deployment())
        env = {
            "PYTHONPATH": f"{self._plugins}:{ROOT}",
            "NO_COLOR": "1",
            "WEIR_HOME": str(self.home),
            "BENCH_SHIFT_S": str(setup.shift_s),
            **setup.environment,
        }
        argv = [sys.executable, *setup.command, "serve", "--config", str(config)]
        self.process = Process(argv, core=None, log=self.log, env=env)
        ends_s = time.monotonic() + READY_S
        while time.monotonic() < ends_s and self.process.alive():
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/readyz", timeout=1).close()
                return
            time.sleep(0.05)
        raise NotReadyError(f"weir isn't ready:\n{self.process.tail()}")

    def _deployment(self) -> str:
        setup, provider = self.setup, self.provider
        up = f'up: {{url: "http://127.0.0.1:{provider.port}/v1", provider: openai, pool: {{max_connections: 4096}}}}'
        return f"""
version: 1
listen: 127.0.0.1:{self.port}
ops: 127.0.0.1:{self.ops}
admin: 127.0.0.1:{self.admin}
home: {self.home}
workers: {setup.workers}
state: {setup.state}
ledger: {setup.ledger}
log: {{format: json}}
upstreams: {{{setup.upstreams or up}}}
models: {setup.models}
policies: policies.yaml
{setup.more}
"""

    def workers(self) -> list[int]:
        """The processes of its workers."""
        return self._named("proxy.worker")

    def state_process(self) -> int | None:
        """The state process, where there is one."""
        return next(iter(self._named("proxy.state.process")), None)

    def _named(self, module: str) -> list[int]:
        assert self.process is not None
        found = []
        for pid in self.process.pids():
            with contextlib.suppress(OSError):
                if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def kill(self) -> None:
        """All its processes at once, as when the machine's power supply fails."""
        assert self.process is not None
        while pids := self._everyone():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.stop()

    def _everyone(self) -> list[int]:
        """By their environment: one that is just being started has lost its parent once that is dead."""
        mark, found = f"WEIR_HOME={self.home}\0".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        """Drains: what runs is finished, the ledger takes in what there is."""
        if self.process is not None:
            self.process.stop(patience_s=(60.0, 3.0))
            self.process = None

    def store(self) -> Store:
        """What the workers share; to be closed."""
        return open_store(self.setup.state, socket_path(self.home), 4 * BOUND_S)

    def counted(self, budget: str) -> int:
        """What Weir itself has counted for a budget that is for all."""
        request = urllib.request.Request(f"{self.url}/weir/me", headers={"authorization": f"Bearer {key_of(0)}"})
        for left in range(4, -1, -1):
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    lines = json.load(answer)["budgets"]
                return int(next(line["spent"] for line in lines if line["budget"] == budget))
            except (OSError, http.client.HTTPException) as error:  # a worker that is just being killed
                sys.stderr.write(f"asking again how much was counted: {error!r}\n")
                if not left:
                    raise
                time.sleep(0.5)
        raise AssertionError

    def metric(self, name: str) -> int:
        """A counter of the supervisor's, without labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return int(float(next(line.split()[1] for line in lines if line.startswith(f"{name} "))))

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log with these words."""
        return _with(event, self.log.read_bytes())

    def news(self, event: str) -> list[dict[str, Any]]:
        """Those of them that came since this was asked last, whatever for."""
        with self.log.open("rb") as log:
            log.seek(self._read_to)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        return _with(event, whole)


def _with(event: str, log: bytes) -> list[dict[str, Any]]:
    return [line for text in log.splitlines() if event.encode() in text and (line := _parsed(text))]


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _make_plugins(directory: Path) -> None:
    """A distribution that is found by its entry points, and a clock that can be set."""
    info = directory / "bench_money-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-money\nVersion: 0\n")
    points = "\n".join(f"{name} = {module}" for name, module in POLICIES.items())
    (info / "entry_points.txt").write_text(f"[weir.policies]\n{points}\n")
    (directory / "sitecustomize.py").write_text(_SHIFT)


@contextlib.contextmanager
def world(
    directory: Path, setup: Setup, *options: str, scenario: str = "version: 1\n"
) -> Iterator[tuple[Provider, Weir]]:
    """Both, running."""
    provider = Provider(directory / "provider", *options, scenario=scenario)
    weir = Weir(directory / "home", provider, setup)
    try:
        weir.start()
        yield provider, weir
    finally:
        weir.stop()
        provider.process.stop()


def until(true: Callable[[], bool], within_s: float) -> float | None:
    """How many seconds it took; None if it didn't become so."""
    start_s = time.monotonic()
    while not true():
        if time.monotonic() - start_s > within_s:
            return None
        time.sleep(0.05)
    return time.monotonic() - start_s
