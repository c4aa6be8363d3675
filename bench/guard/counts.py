"""The deterministic part: what one unit of a scenario makes the interpreter do.

`calls` and `c_calls`: Python functions and C functions called. `retained_blocks`: blocks still allocated afterwards, a
leak if it isn't near 0. `peak_bytes`: memory held at most during one request. `instructions`: by valgrind's cachegrind
where it is installed, as the difference between N and 2N requests, so that start-up doesn't count.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from bench.guard import driver, slowdown

Counts = dict[str, float]
Send = Callable[[driver.Scenario, int], bytes]
_REFS = re.compile(r"I\s+refs:\s+([\d,]+)")


def python_counts(directory: Path, busy: slowdown.Plan | None = None) -> dict[str, Counts]:
    """Counts of all scenarios, made in this process."""
    found: dict[str, Counts] = {}
    for scenario in driver.scenarios():
        with driver.driving(directory, busy.work(scenario.name) if busy else None, cached=scenario.cached) as send:
            driver.verify(scenario, send(scenario, scenario.warm_up))
            found[scenario.name] = {**_calls(send, scenario), **_memory(send, scenario)}
    return found


def _calls(send: Send, scenario: driver.Scenario) -> Counts:
    counted = {"call": 0, "c_call": 0, "return": 0, "c_return": 0, "c_exception": 0}

    def profile(frame: FrameType, event: str, _: object) -> None:
        counted[event] += 1

    sys.setprofile(profile)
    try:
        send(scenario, scenario.requests)
    finally:
        sys.setprofile(None)
    units = scenario.requests * scenario.units
    return {"calls": round(counted["call"] / units, 2), "c_calls": round(counted["c_call"] / units, 2)}


def _memory(send: Send, scenario: driver.Scenario) -> Counts:
    before = sys.getallocatedblocks()
    send(scenario, scenario.requests)
    retained = (sys.getallocatedblocks() - before) / (scenario.requests * scenario.units)
    tracemalloc.start()
    try:
        send(scenario, 1)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        send(scenario, 1)
        peak = tracemalloc.get_traced_memory()[1] - held
    finally:
        tracemalloc.stop()
    return {"retained_blocks": round(retained, 2), "peak_bytes": peak}


def unit_ns(directory: Path, scenario: driver.Scenario) -> float:
    """CPU of one unit in this process, for calibrating a slow-down."""
    with driver.driving(directory, cached=scenario.cached) as send:
        send(scenario, scenario.warm_up)
        start = time.process_time_ns()
        send(scenario, scenario.requests)
        return (time.process_time_ns() - start) / (scenario.requests * scenario.units)


# --- instructions ---


def valgrind() -> str | None:
    return shutil.which("valgrind")


def instruction_counts(directory: Path, busy: slowdown.Plan | None = None) -> dict[str, Counts]:
    """Instructions per unit of each scenario; raises RuntimeError when valgrind doesn't say."""
    known = driver.scenarios()
    base = {scenario.name: scenario.requests for scenario in known}
    runs = [base, *({**base, scenario.name: 2 * scenario.requests} for scenario in known)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        first, *others = pool.map(lambda requests: _instructions(directory, requests, busy), runs)
    return {
        scenario.name: {"instructions": round((total - first) / (scenario.requests * scenario.units))}
        for scenario, total in zip(known, others, strict=True)
    }


def _instructions(directory: Path, requests: dict[str, int], busy: slowdown.Plan | None) -> int:
    program = valgrind()
    assert program is not None
    work = [f"{name}={count}" for name, count in requests.items()]
    argv = [program, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", sys.executable]
    argv += ["-m", "bench.guard.counts", str(directory), busy.encoded() if busy else "-", *work]
    # The same environment every time: its size moves the stack, its hash seed the order of collisions.
    env = {"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    found = _REFS.search(ran.stderr)
    if ran.returncode or found is None:
        raise RuntimeError(f"cachegrind failed: {ran.stderr[-1500:]}")
    return int(found[1].replace(",", ""))


def main() -> None:
    """Send the requests named on the command line; run by valgrind."""
    directory = Path(sys.argv[1])
    busy = slowdown.Plan.decoded(sys.argv[2]) if sys.argv[2] != "-" else None
    wanted = dict(pair.split("=") for pair in sys.argv[3:])
    for scenario in driver.scenarios():
        with driver.driving(directory, busy.work(scenario.name) if busy else None, cached=scenario.cached) as send:
            driver.verify(scenario, send(scenario, scenario.warm_up + int(wanted[scenario.name])))


if __name__ == "__main__":
    main()
