"""`python -m bench.money [--quick] [--only overspend,kills,…] [--kills N] [--within MINUTES]`: money's numbers.

Exit status: 0 when no number missed its target, 1 when one did, 2 for usage.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import machine, results, runner
from bench.money import away, bill, cpu, kills, overspend, reserving, shared, volume
from bench.processes import PRIORITY
from bench.results import Row

TIMED = ("reserving", "shared", "cpu", "volume")  # these run before the machine's other work, where the kernel allows
QUIET = 0.3  # load average a core at the start: above it what is timed isn't to be quoted
PARTS: dict[str, Callable[..., Iterator[Row]]] = {
    "reserving": reserving.rows,
    "shared": shared.rows,
    "cpu": cpu.rows,
    "volume": volume.rows,
    "overspend": overspend.rows,
    "bill": bill.rows,
    "away": away.rows,
    "kills": kills.rows,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.money", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs, for development; not to be quoted")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--kills", type=int, help="how many (1000; 50 with --quick)")
    parser.add_argument("--within", type=float, help="minutes after which there are no more kills (no limit)")
    parser.add_argument("--keep", type=Path, help="leave the homes of all runs there")
    asked = parser.parse_args(arguments)
    names = asked.only.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    machine.raise_open_files()
    loaded = "yes: timings aren't to be quoted" if os.getloadavg()[0] > QUIET * (os.cpu_count() or 1) else "no"
    facts = runner.introduced(console, loaded=loaded, plan="quick" if asked.quick else "full")
    killing = {"kills": asked.kills, "within_s": math.inf if asked.within is None else 60 * asked.within}
    found = _run(console, names, asked.quick, killing, asked.keep)
    return runner.finished("money", found, facts, console)


def _run(console: Console, names: list[str], quick: bool, killing: dict[str, Any], keep: Path | None) -> list[Row]:
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="weir-money-") as temporary:
        for name in names:
            directory = (keep or Path(temporary)) / name
            options = killing if name == "kills" else {}
            began_s = time.monotonic()
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, 0, PRIORITY if name in TIMED else 0)
            command = f'make bench-money ARGS="--only {name}{" --quick" if quick else ""}"'
            for row in _guarded(name, PARTS[name](directory, quick=quick, **options)):
                found.append(replace(row, note=f"{row.note}{'; ' if row.note else ''}{command}"))
                console.print(f"  {row.verdict:4} {row.number}: {row.seen}", markup=False)
            console.print(f"{name}: {time.monotonic() - began_s:.0f} s", markup=False)
            if keep is None:
                shutil.rmtree(directory, ignore_errors=True)
    return found


def _guarded(name: str, rows: Iterator[Row]) -> Iterator[Row]:
    """A part that breaks off is a failed row; the others are still wanted."""
    try:
        yield from rows
    except Exception as error:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        yield results.failed(name, "", f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main())
