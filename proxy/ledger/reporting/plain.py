"""A report as CSV and as JSON: exact, for programs.

Rules: amounts are decimal numbers with nine digits after the point, in JSON integers of nano-dollars beside them. CSV
is one section without its total, so that a column's sum is the sum of what it shows. A text that a spreadsheet would
take for a formula (CWE-1236) gets an apostrophe in CSV; JSON carries it as it is. The same report is the same bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Final

import orjson

from proxy.ledger.reporting.amounts import Currency, converted, exact
from proxy.ledger.reporting.report import Report
from proxy.ledger.reporting.section import Column, Row, Section, Value

FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


def to_csv(section: Section, currency: Currency | None = None) -> bytes:
    """One section, without its total."""
    section = converted(section, currency)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")  # RFC 4180
    money = "usd" if currency is None else currency.code.lower()
    writer.writerow([f"{column.key}_{money}" if column.kind == "money" else column.key for column in section.columns])
    for row in section.rows:
        writer.writerow([_csv(value, column) for value, column in zip(row, section.columns, strict=True)])
    return out.getvalue().encode()


def _csv(value: Value, column: Column) -> str:
    if value is None:
        return ""
    if column.kind == "money":
        return exact(int(value))
    if column.kind in ("share", "number"):
        return f"{value:.6f}"
    return str(value) if column.kind == "count" else harmless(str(value))


def to_json(report: Report, sections: Sequence[Section], currency: Currency | None = None) -> bytes:
    """All sections: each a list of objects, with `total` beside it."""
    asked = report.asked
    told: dict[str, Any] = {
        "period": asked.period.name,
        "first": asked.period.first.isoformat(),
        "last": asked.period.last.isoformat(),
        "time_zone": asked.period.zone.key,
        "where": {name: list(values) for name, values in asked.where.wanted},
        "by": list(asked.by),
        "closed": None if report.closing is None else {"rolled": report.closing.rolled},
        "currency": None
        if currency is None
        else {"code": currency.code, "rate": f"{currency.rate:f}", "date": currency.day.isoformat()},
    }
    return with_sections(told, sections, currency)


def with_sections(told: dict[str, Any], sections: Sequence[Section], currency: Currency | None = None) -> bytes:
    """What is told of the whole, and every section below its key."""
    for section in sections:
        rows = [_object(section.columns, row, currency) for row in section.rows]
        total = None if section.total is None else _object(section.columns, section.total, currency)
        told[section.key] = {"rows": rows} if total is None else {"rows": rows, "total": total}
    return orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n"


def _object(columns: Sequence[Column], row: Row, currency: Currency | None) -> dict[str, Any]:
    return {column.key: _value(column, value, currency) for column, value in zip(columns, row, strict=True)}


def _value(column: Column, value: Value, currency: Currency | None) -> Any:
    if column.kind != "money" or value is None:
        return value
    found = {"nanodollars": int(value), "usd": exact(int(value))}
    return found if currency is None else found | {currency.code.lower(): exact(currency.of(int(value)))}
