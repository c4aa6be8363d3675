"""`limits_from`: limits in a CSV file that finance owns.

    subject,limit,top_up,expires
    search,4000 USD/month,,
    support,800 USD/month,,
    support,,500 USD,2026-12-15

Pure. One row a limit or a top-up. A limit takes the place of the policy file's for the same unit and period. A top-up
is added to every limit of its unit until its day is over.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError

from policies.budget.limits import NANO, Limit, Unit, parse, quantity
from proxy.config.problems import suggestion
from proxy.config.scalars import shown, wrong

COLUMNS: Final = ("subject", "limit", "top_up", "expires")
_TOP_UP: Final = re.compile(r"\s*(\$)?\s*(\d[\d,_]*(?:\.\d+)?)\s*([kKmMbB])?\s*(USD|tokens?|requests?)?\s*", re.I)


class Row(BaseModel):
    """A limit of a subject, or a top-up and the last day on which it counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: str
    """Whose: as in `overrides`."""
    limit: Limit | None = None
    """Takes the place of the limit of the same unit and period."""
    top_up: str | None = None
    """Added to every limit of its unit."""
    expires: date | None = None
    """The last day of the top-up."""

    @field_validator("top_up")
    @classmethod
    def _top_up(cls, value: str | None) -> str | None:
        if value is not None:
            top_up(value)
        return value

    def ends_ns(self, zone: ZoneInfo) -> int:
        """When a top-up ends: with its last day."""
        assert self.expires is not None
        after = self.expires + timedelta(days=1)
        return int(datetime(after.year, after.month, after.day, tzinfo=zone).timestamp()) * NANO


def top_up(text: str) -> tuple[Unit, int]:
    """`500 USD` as an amount."""
    match = _TOP_UP.fullmatch(text)
    if match is None:
        raise wrong(f"expected an amount such as 500 USD, found {shown(text)}")
    word = (match[4] or "usd").lower()
    unit: Unit = "usd" if word == "usd" else "tok" if word.startswith("tok") else "req"
    return unit, quantity(match[2], match[3] or "", unit)


Report = Callable[[int, str, str], object]
"""(line, message, hint)"""


def read(text: str, report: Report) -> list[dict[str, Any]]:
    """The rows of a file, as `Config.rows` takes them. Everything that is wrong is reported with its line."""
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff")), skipinitialspace=True)
    lines = _lines(reader, report)
    head = next(lines, None)
    if head is None:
        report(1, "is empty", f"begin with the line {','.join(COLUMNS)}")
        return []
    names = [name.strip().lower() for name in head[1]]
    if not _head_is_right(names, head[0], report):
        return []
    rows, seen = [], dict[tuple[str, str, str], int]()
    for line, cells in lines:
        if len(cells) > len(names):
            report(line, f"has {len(cells)} cells, and the first line names {len(names)}", "quote numbers with commas")
            continue
        row = {name: cell.strip() for name, cell in zip(names, cells, strict=False) if cell.strip()}
        if row and _row_is_right(row, line, seen, report):
            rows.append(row)
    return rows


def _lines(reader: Any, report: Report) -> Iterator[tuple[int, list[str]]]:
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells) and not cells[0].lstrip().startswith("#"):
                yield reader.line_num, cells
    except csv.Error as error:
        report(reader.line_num, f"can't be read: {error}", "")


def _head_is_right(names: list[str], line: int, report: Report) -> bool:
    unknown = [name for name in names if name not in COLUMNS]
    for name in unknown:
        report(line, f"unknown column {name!r}", suggestion(name, COLUMNS))
    if "subject" not in names and not unknown:
        report(line, "has no column `subject`", f"begin with the line {','.join(COLUMNS)}")
    return not unknown and "subject" in names


def _row_is_right(row: dict[str, Any], line: int, seen: dict[tuple[str, str, str], int], report: Report) -> bool:
    if "subject" not in row:
        report(line, "names no subject", "")
        return False
    if ("limit" in row) == ("top_up" in row):
        report(line, "needs a limit or a top_up, one of them", "a top-up has a row of its own")
        return False
    if ("top_up" in row) != ("expires" in row):
        report(line, "a top_up and the day on which it expires belong together", "expires: 2026-12-31")
        return False
    try:
        if "limit" in row:
            found = parse(row["limit"])
            key = (row["subject"], found.unit, f"{found.period}{found.span_s}")
            if key in seen:
                report(line, f"the same limit of {row['subject']!r} stands in line {seen[key]}", "keep one of them")
                return False
            seen[key] = line
        else:
            top_up(row["top_up"])
            date.fromisoformat(row["expires"])
    except PydanticCustomError as error:
        context = error.context or {}
        report(line, str(context.get("message")), str(context.get("hint", "")))
        return False
    except ValueError:
        report(line, f"expected a day such as 2026-12-31, found {shown(row['expires'])}", "")
        return False
    return True
