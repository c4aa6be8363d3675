"""The limits of the guard, kept in `limits.json`: counts recorded for a version of Python, and the margin over them.

A count may grow by the margin before the guard fails; a change that is worth more records new limits by `--update`, and
its commit says why.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.guard.counts import Counts

PATH = Path(__file__).with_name("limits.json")
RETAINED_SLACK = 0.5  # blocks a unit: a leak is at least one


@dataclass(frozen=True, slots=True)
class Finding:
    """One count against its limit; `limit` is None where none is recorded."""

    scenario: str
    count: str
    seen: float
    limit: float | None

    @property
    def exceeded(self) -> bool:
        return self.limit is not None and self.seen > self.limit


@dataclass(frozen=True, slots=True)
class Limits:
    margin: float
    p99: dict[str, float]  # by reference
    recorded: dict[str, dict[str, Counts]]  # by Python, then by scenario

    def judge(self, seen: dict[str, Counts], python: str) -> list[Finding]:
        """Every count that was seen, with its limit."""
        recorded = self.recorded.get(python, {})
        return [
            Finding(scenario, count, value, self._limit(count, recorded.get(scenario, {}).get(count)))
            for scenario, counts in seen.items()
            for count, value in counts.items()
        ]

    def _limit(self, count: str, recorded: float | None) -> float | None:
        if recorded is None:
            return None
        return recorded + RETAINED_SLACK if count == "retained_blocks" else round(recorded * (1 + self.margin), 2)

    def updated(self, seen: dict[str, Counts], python: str) -> Limits:
        """With what was seen recorded; counts that weren't made this time (no valgrind here) are kept."""
        before = self.recorded.get(python, {})
        merged = {scenario: {**before.get(scenario, {}), **counts} for scenario, counts in seen.items()}
        return Limits(self.margin, self.p99, {**self.recorded, python: {**before, **merged}})


def this_python() -> str:
    return f"{platform.python_implementation().lower()}-{sys.version_info.major}.{sys.version_info.minor}"


def load(path: Path = PATH) -> Limits:
    read = json.loads(path.read_text())
    return Limits(read["margin"], read["p99"], read["recorded"])


def save(limits: Limits, path: Path = PATH) -> None:
    written = {"margin": limits.margin, "p99": limits.p99, "recorded": limits.recorded}
    path.write_text(json.dumps(written, indent=2) + "\n")
