"""How a benchmark that is run by itself goes: the machine's facts, the measurement, the table, the rows in a file.

    return runner.run("hedge", lambda setting, say: rows(setting, plan))

Rules: facts are printed first and kept beside the rows; the files of a run are gone when it ends, but for its rows,
which are under `results/`. The exit status is 1 when a row missed its target.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console

from bench import certificates, machine, results
from bench.processes import PRIORITY, prefer
from bench.results import Row
from bench.subjects import Setting

RESULTS = Path(__file__).parent / "results"
Measure = Callable[[Setting, Console], Iterable[Row]]


def run(name: str, measure: Measure, *, first: Callable[[], bool] = prefer) -> int:
    """Measures subjects on the proxy's core from the load's. `first` puts this process before others, if it may."""
    machine.raise_open_files()
    console, cores = Console(highlight=False), machine.cores()
    facts = introduced(console)
    os.sched_setaffinity(0, {cores.load})
    facts["priority"] = str(PRIORITY) if first() else "usual"
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as directory:
        setting = Setting(Path(directory), cores, certificates.make(Path(directory)))
        found = list(measure(setting, console))
    return finished(name, found, facts, console)


def introduced(console: Console, **more: str) -> dict[str, str]:
    """The machine's facts and these, shown."""
    facts = {**machine.facts(), **more}
    for name, value in facts.items():
        console.print(f"{name}: {value}", markup=False)
    return facts


def finished(name: str, rows: list[Row], facts: dict[str, str], console: Console) -> int:
    """Shows the table, keeps the rows, says where; the exit status."""
    results.show(rows, console)
    console.print(f"raw: {os.path.relpath(results.save(rows, facts, name, RESULTS))}", markup=False)
    return int(any(row.verdict == "FAIL" for row in rows))
