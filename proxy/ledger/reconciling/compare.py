"""All findings of two books, and what they add up to.

Rules: pure. The sum of the findings is the sum of what was billed less what was recorded, to the nano-dollar.
"""

from __future__ import annotations

from datetime import date

import msgspec

from proxy.ledger.reconciling.books import Books, Key, Repeats, near
from proxy.ledger.reconciling.causes import CAUSES, Finding, finding
from proxy.ledger.reconciling.export import ExportLine
from proxy.ledger.reporting.section import Column, Row, Section


class Comparison(msgspec.Struct, frozen=True):
    """What was found. Days and projects without any difference are in `lines`, too."""

    findings: list[Finding]
    lines: list[tuple[date, str, int, int]]  # day, project, recorded, billed
    recorded: int
    billed: int


def compare(books: Books, repeats: Repeats = lambda key: 0) -> Comparison:
    """Explains every difference."""
    aside, taken = _aside(books)
    found = [_fee_in_model(key, books) if key in taken else finding(books, key, repeats) for key in _differing(books)]
    findings = sorted([*found, *aside], key=lambda item: (item.day, item.project, -abs(item.residual), item.model))
    lines = _lines(books)
    recorded, billed = sum(line[2] for line in lines), sum(line[3] for line in lines)
    return Comparison(findings, lines, recorded, billed)


def _differing(books: Books) -> list[Key]:
    return [key for key in books.keys if books.residual(key)]


def _aside(books: Books) -> tuple[list[Finding], set[Key]]:
    """The findings of lines that were set aside, and the keys whose difference a fee makes up for."""
    found, taken = [], set()
    for cause, line in books.aside:
        match = _causing(books, line) if cause == "fee" else None
        if match is not None and match not in taken:
            taken.add(match)
            cause = "fee_in_model"
        text = f"{CAUSES[cause]} ({line.text or 'no text'})"
        found.append(Finding(line.day, books.project(line.project), line.item.model or "", cause, line.nano, text))
    return found, taken


def _causing(books: Books, line: ExportLine) -> Key | None:
    """The model of which the ledger has so much more, that day."""
    keys = [key for key in books.keys if key.day == line.day and books.differs(key)]
    return next((key for key in keys if near(books.residual(key), -line.nano)), None)


def _fee_in_model(key: Key, books: Books) -> Finding:
    text = CAUSES["fee_in_model"]
    return Finding(key.day, key.project, key.model, "fee_in_model", books.residual(key), text)


def _lines(books: Books) -> list[tuple[date, str, int, int]]:
    sums: dict[tuple[date, str], list[int]] = {}
    for key in books.keys:
        own = sums.setdefault((key.day, key.project), [0, 0])
        own[0] += books.recorded[key].nanodollars if key in books.recorded else 0
        own[1] += books.billed[key].nanodollars if key in books.billed else 0
    for _, line in books.aside:
        sums.setdefault((line.day, books.project(line.project)), [0, 0])[1] += line.nano
    return [(day, project, own[0], own[1]) for (day, project), own in sorted(sums.items())]


def sections(comparison: Comparison, note: str) -> list[Section]:
    """The comparison as tables: by cause, by day and project, and each finding."""
    return [_summary(comparison, note), _by_day(comparison), _findings(comparison)]


def _money(key: str, title: str) -> Column:
    return Column(key, title, "money", sums=True)


def _summary(comparison: Comparison, note: str) -> Section:
    causes: dict[str, list[int]] = {}
    for item in comparison.findings:
        own = causes.setdefault(item.cause, [0, 0])
        own[0] += 1
        own[1] += item.residual
    rows: list[Row] = [
        (cause, count, residual, CAUSES[cause])
        for cause, (count, residual) in sorted(causes.items(), key=lambda pair: (-abs(pair[1][1]), pair[0]))
    ]
    columns = (Column("cause", "Cause"), Column("count", "Findings", "count", sums=True), _money("residual", "USD"))
    total = ("Billed less recorded", len(comparison.findings), comparison.billed - comparison.recorded, "")
    title = "Export against ledger"
    return Section("summary", title, (*columns, Column("meaning", "Probably")), rows, total, note)


def _by_day(comparison: Comparison) -> Section:
    causes: dict[tuple[date, str], list[str]] = {}
    for item in comparison.findings:
        own = causes.setdefault((item.day, item.project), [])
        if item.cause not in own:
            own.append(item.cause)
    rows: list[Row] = [
        (day.isoformat(), project, recorded, billed, billed - recorded, ", ".join(causes.get((day, project), ())))
        for day, project, recorded, billed in comparison.lines
    ]
    columns = (
        Column("day", "Day (UTC)"),
        Column("project", "Project"),
        _money("recorded", "Ledger USD"),
        _money("billed", "Export USD"),
        _money("residual", "Difference"),
        Column("causes", "Probably"),
    )
    residual = comparison.billed - comparison.recorded
    return Section(
        "lines",
        "By day and project",
        columns,
        rows,
        ("Total", "", comparison.recorded, comparison.billed, residual, ""),
    )


def _findings(comparison: Comparison) -> Section:
    rows: list[Row] = [
        (item.day.isoformat(), item.project, item.model, item.cause, item.residual, item.text)
        for item in comparison.findings
        if item.cause != "rounding"
    ]
    rounded = sum(item.residual for item in comparison.findings if item.cause == "rounding")
    if rounded:
        rows.append(("", "", "", "rounding", rounded, CAUSES["rounding"]))
    columns = (
        Column("day", "Day (UTC)"),
        Column("project", "Project"),
        Column("model", "Model"),
        Column("cause", "Cause"),
        _money("residual", "Difference"),
        Column("text", "Probably"),
    )
    total = ("Total", "", "", "", comparison.billed - comparison.recorded, "")
    return Section("findings", "Differences", columns, rows, total)
