"""`python -m bench.attackers [--quick] [--attackers 200]`: what others feel of slow attackers.

One Weir with its defaults before the simulator; clients arrive as a Poisson process, in rounds without and with the
attackers in turn. These are of `bench.attackers_raw`: heads, bodies and uploads that drip, readers that sip, clients
that say nothing; in every second round Debian's slowhttptest takes their place, where it is installed. Attackers that
are ended come again. The ratio of the 99th percentiles is the median over pairs of rounds. Exit status 1 when a target
was missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import payloads, runner
from bench.load import poisson, wire
from bench.processes import Process, cpu_ns
from bench.quantiles import paired_ratio, percentile
from bench.results import Row, judged
from bench.subjects import Origin, Setting, Subject, Weir, weir_command

SUITE = "faults"
LIMIT = 2.0
CLIENTS = 64
CALM, LONGEST_S = 0.25, 20.0  # of a core: what the attackers get at the beginning has been made
SLOW = ("-B", "-t", "POST", "-f", "application/json", "-s", "100000")  # its slow heads are ended, and don't come again


@dataclass(frozen=True, slots=True)
class Plan:
    """How long: the first pair of rounds warms up, and is dropped."""

    pairs: int
    rate: float
    seconds: float


FULL, QUICK = Plan(13, 200.0, 8.0), Plan(5, 100.0, 4.0)


class Provider(Subject):
    """The simulator, without delays; on the load's core."""

    name = "provider"

    def start(self, home: Path) -> Process:
        home.mkdir()
        argv = [*weir_command(), "simulate", "--port", str(self.port)]
        return Process(argv, core=self.setting.cores.load, log=home / "log")


@contextmanager
def attacked(weir: Subject, count: int, by_slowhttptest: bool, seconds: float, core: int) -> Iterator[None]:
    """So many slow clients, connected when the block begins, and holding all that they will get."""
    if by_slowhttptest:
        long = str(int(seconds + LONGEST_S))
        each = ("-c", str(count), "-r", str(count), "-i", "1", "-l", long, "-p", "1")
        target = ("-u", f"{weir.url}/v1/chat/completions")
        command = ["slowhttptest", *SLOW, *each, *target]
    else:
        command = [sys.executable, "-m", "bench.attackers_raw", weir.url, str(count)]
    nowhere = subprocess.DEVNULL
    running = subprocess.Popen(
        command, stdin=nowhere, stdout=nowhere, stderr=nowhere, preexec_fn=lambda: _modestly_on(core)
    )
    try:
        _calm(weir, count)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.send_signal(signal.SIGKILL)
        running.wait()


@contextmanager
def counted(port: int) -> Iterator[list[int]]:
    """How many connections are held meanwhile, looked at twice a second."""
    seen, over = [connected(port)], threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            seen.append(connected(port))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


def _modestly_on(core: int) -> None:
    """Below everything else: slowhttptest looks at its connections all the time, which isn't what is to be measured."""
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, 19)


def _calm(weir: Subject, count: int) -> None:
    """Waits until all are connected and the proxy has little to do for two seconds, or for long."""
    end_s, quiet = time.monotonic() + LONGEST_S, 0
    while connected(weir.port) < count and time.monotonic() < end_s:
        time.sleep(0.1)
    while quiet < 2 and time.monotonic() < end_s:
        before_ns = cpu_ns(weir.pids())
        time.sleep(1)
        quiet = quiet + 1 if cpu_ns(weir.pids()) - before_ns < CALM * 1e9 else 0


def connected(port: int) -> int:
    """Connections that others hold to a port of this machine, by the kernel's table (state 01: established)."""
    local = f":{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(each[1].endswith(local) and each[3] == "01" for each in lines)


def rows(setting: Setting, plan: Plan, count: int) -> Iterator[Row]:
    """The row of the table."""
    with_us: list[float] = []
    without_us: list[float] = []
    held: list[int] = []
    lost = 0
    slowhttptest = shutil.which("slowhttptest") is not None
    with ExitStack() as stack:
        provider = stack.enter_context(Provider(setting, Origin(0)))
        weir = stack.enter_context(Weir(setting, Origin(provider.port)))
        request = wire.request(weir.url, payloads.unary_request())
        for pair in range(plan.pairs):

            def measure(seed: int = pair) -> float:
                nonlocal lost
                seen = poisson.run(
                    weir.url, request, rate=plan.rate, seconds=plan.seconds, connections=CLIENTS, seed=seed
                )
                lost += seen.failed + seen.unanswered
                return percentile(seen.latencies_us, 99) if seen.latencies_us else float("inf")

            quiet_us = measure()
            by_tool = slowhttptest and pair % 2 == 0
            with attacked(weir, count, by_tool, plan.seconds, setting.cores.load), counted(weir.port) as seen:
                attacked_us = measure()
            if pair:
                without_us.append(quiet_us)
                with_us.append(attacked_us)
                held.append(int(statistics.median(seen)) - CLIENTS)
            time.sleep(1)
    ratio = paired_ratio(with_us, without_us)
    p99 = [statistics.median(values) / 1000 for values in (without_us, with_us)]
    least = min(held)
    yield judged(
        f"p99 of others with {count} slow attackers connected",
        f"<= {LIMIT:.0f}x",
        f"{ratio:.2f}x ({p99[0]:.2f} to {p99[1]:.2f} ms)",
        ratio <= LIMIT and not lost and least >= count * 0.9,
        f"{plan.rate:.0f} requests/s; at least {least} attackers connected; {lost} lost; "
        + ("slowhttptest in every second round" if slowhttptest else "without slowhttptest, which isn't installed"),
        with_us=with_us,
        without_us=without_us,
        held=held,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.attackers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds, for development; not to be quoted")
    parser.add_argument("--attackers", type=int, default=200)
    asked = parser.parse_args(arguments)
    plan = QUICK if asked.quick else FULL
    return runner.run("attackers", lambda setting, _: rows(setting, plan, asked.attackers))


if __name__ == "__main__":
    sys.exit(main())
