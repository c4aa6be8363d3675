"""Whether the report is what the provider bills, by day and project, and `weir reconcile` names what differs."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from bench.money.discrepancies import DISCREPANCIES, Buckets, injected
from bench.money.week import Week, pages, run
from bench.money.world import ROOT
from bench.results import Row, judged

WANTED: Final = 20


def rows(directory: Path, *, quick: bool) -> Iterator[Row]:
    """A week, its report, and its reconciliations."""
    week = run(directory, 3.0 if quick else 20.0)
    yield _totals(week)
    yield _reconciled(week, directory)


def _weir(week: Week, *arguments: str) -> str:
    command = [sys.executable, "-m", "proxy.cli", *arguments, "--home", str(week.home), "--config", str(week.config)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"weir {arguments[0]} failed: {done.stderr[-800:]}")
    return done.stdout


def _totals(week: Week) -> Row:
    first, last = week.days[0].isoformat(), week.days[-1].isoformat()
    told = _weir(
        week, "report", "--from", first, "--to", last, "--by", "day,provider_project", "--format", "csv"
    )  # fmt: skip
    reported = {
        (date.fromisoformat(line["day"]), line["provider_project"]): int(Decimal(line["cost_usd"]) * 10**9)
        for line in csv.DictReader(io.StringIO(told))
        if line["day"] and line["day"][0].isdigit()
    }
    billed = {key: week.cost(*key) for key in week.rows}
    off = {f"{day} {project}": reported.get((day, project), 0) - amount for (day, project), amount in billed.items()}
    off |= {f"{day} {project}": amount for (day, project), amount in reported.items() if (day, project) not in billed}
    wrong = {name: amount for name, amount in off.items() if amount}
    return judged(
        "the report against the invoice",
        "equal by day and project, to the nano-dollar",
        f"{len(wrong)} of {len(off)} days and projects differ, by {sum(wrong.values()):+} nano-dollars",
        not wrong and len(billed) >= 3 * 7,
        f"{week.requests} requests, {week.failed} refused by the provider, {sum(billed.values()) / 1e9:.6f} USD",
        differences=wrong,
    )


def _reconciled(week: Week, directory: Path) -> Row:
    right: Buckets = list(pages(week))
    clean = [item for item in _findings(week, directory, right) if item["cause"] != "rounding"]
    unnamed: dict[str, list[str]] = {}
    for expected, change in DISCREPANCIES:
        found = [item["cause"] for item in _findings(week, directory, injected(right, change))]
        if set(found) - {"rounding"} != {expected}:
            unnamed[expected] = sorted(set(found))
    named = len(DISCREPANCIES) - len(unnamed)
    return judged(
        "discrepancies named by reconcile",
        f">= {WANTED} kinds, each by its cause; none where the books agree",
        f"{named} of {len(DISCREPANCIES)} named; {len(clean)} findings where the books agree",
        named == len(DISCREPANCIES) >= WANTED and not clean,
        "; ".join(f"{expected}: {', '.join(found) or 'nothing'}" for expected, found in unnamed.items()),
        clean=clean[:5],
    )


def _findings(week: Week, directory: Path, buckets: Buckets) -> list[dict[str, Any]]:
    """What it says of an export, which adds up."""
    file = directory / "costs.json"
    file.write_text(json.dumps({"object": "page", "data": buckets, "has_more": False, "next_page": None}))
    told = json.loads(_weir(week, "reconcile", str(file), "--provider", "openai", "--format", "json"))
    found: list[dict[str, Any]] = told["findings"]["rows"]
    residual = sum(item["residual"]["nanodollars"] for item in found)
    if residual != told["billed_nanodollars"] - told["recorded_nanodollars"]:
        raise RuntimeError(f"the findings don't add up: {residual}")
    return found
