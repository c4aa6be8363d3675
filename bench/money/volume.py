"""How fast the ledger takes in, and how fast a report over ten million events is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from bench import report
from bench.money.world import ROOT
from bench.results import Row, judged

INGESTED, REPORT_S = 20_000, 2.0
EVENTS: Final = 10_000_000
_CUTS: Final = (["--by", "team"], ["--by", "team,model", "--compare", "previous", "--format", "json"])
_ZONES: Final = ("UTC", "Asia/Kolkata")


def rows(directory: Path, *, quick: bool) -> Iterator[Row]:
    """`bench.ingest` and `bench.report`, judged."""
    exchanges = 30_000 if quick else 200_000
    command = [sys.executable, "-m", "bench.ingest", "--exchanges", str(exchanges)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    told = json.loads(done.stdout)
    yield judged(
        "ingest into SQLite",
        f">= {INGESTED:,} records/s",
        f"{told['events_per_s']:,} records/s",
        told["events_per_s"] >= INGESTED,
        f"{told['events']:,} records, {told['cpu_us_per_event']} µs of CPU each",
        **told,
    )
    home = directory / "report"
    home.mkdir(parents=True)
    counted = report.make(home, EVENTS, 1_000)
    slowest, raw = 0.0, {}
    for zone in _ZONES:
        for options in _CUTS:
            took = [report.timed(home, zone, options)[0] for _ in range(2 if quick else 5)]
            raw[f"{zone} {' '.join(options)}"] = took
            slowest = max(slowest, median(took))
    yield judged(
        f"report over {EVENTS:,} events",
        f"<= {REPORT_S:.0f} s from roll-ups",
        f"{slowest:.2f} s",
        slowest <= REPORT_S,
        f"the slowest of {len(raw)} cuts and zones, each its median; {counted:,} rows of quarters",
        seconds=raw,
    )
