"""Rows of the final table, the table, and the same as JSON."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Verdict = Literal["pass", "FAIL", "skip", "-"]


@dataclass(frozen=True, slots=True)
class Row:
    """One number: its target, what was seen, the verdict ("-" for a figure without a target), and the raw rounds."""

    number: str
    target: str
    seen: str
    verdict: Verdict
    note: str = ""
    raw: dict[str, object] = field(default_factory=dict)


def judged(number: str, target: str, seen: str, ok: bool, note: str = "", **raw: object) -> Row:
    return Row(number, target, seen, "pass" if ok else "FAIL", note, raw)


def skipped(number: str, target: str, why: str) -> Row:
    return Row(number, target, "", "skip", why)


def failed(number: str, target: str, why: str) -> Row:
    """A number that could not be measured although everything for it was there."""
    return Row(number, target, "", "FAIL", why)


def show(rows: list[Row], console: Console) -> None:
    table = Table(show_lines=False, pad_edge=False)
    for heading in ("number", "target", "seen", "", "note"):
        table.add_column(heading, overflow="fold")
    style = {"pass": "green", "FAIL": "bold red", "skip": "yellow", "-": "dim"}
    for row in rows:
        verdict = f"[{style[row.verdict]}]{row.verdict}[/]"
        table.add_row(escape(row.number), escape(row.target), escape(row.seen), verdict, escape(row.note))
    console.print(table)


def save(rows: list[Row], facts: dict[str, str], name: str, directory: Path) -> Path:
    """Write the run as JSON; the file's name holds its time."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps({"machine": facts, "rows": [asdict(row) for row in rows]}, indent=1))
    return path
