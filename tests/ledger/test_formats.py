"""The same report in every format: exact where programs read, harmless where people's names are shown."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
import zlib
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from proxy.ledger.opening import open_ledger
from proxy.ledger.reporting.amounts import Currency, exact, readable
from proxy.ledger.reporting.page import to_html
from proxy.ledger.reporting.paper import to_pdf
from proxy.ledger.reporting.periods import Period
from proxy.ledger.reporting.plain import harmless, to_csv, to_json
from proxy.ledger.reporting.report import Asked, Report, report
from proxy.ledger.reporting.section import Column, Section
from proxy.ledger.reporting.sections import sections
from proxy.ledger.reporting.source import reading
from proxy.ledger.reporting.terminal import to_terminal, to_text
from proxy.ledger.reporting.workbook import to_xlsx
from tests.ledger.filled import DOLLAR, Filled

EVIL = "=cmd|' /C calc'!A0"
MARKUP = "<script>alert(1)</script>[red]\x1b[31m"
NOVEMBER = Period.month("2026-11", ZoneInfo("UTC"))
EUROS = Currency.parse("EUR", "0.92", "2026-11-30")


@pytest.fixture
def told(tmp_path: Path) -> Report:
    """A report with names that nobody should be able to choose."""
    filled = Filled(open_ledger("sqlite:///ledger.db", tmp_path))
    for month in ("10", "11"):
        filled.use(f"2026-{month}-03 10:00", 1_234_567_890_123_456_789, team="search")
        filled.use(f"2026-{month}-04 10:00", 1, team=EVIL)
        filled.use(f"2026-{month}-05 10:00", 2, team=MARKUP, known="estimated")
        filled.use(f"2026-{month}-05 10:00", None, 3, team="-1+2")
        filled.saving(f"2026-{month}-03 10:00", 77)
    filled.use("2026-10-03 10:00", 500, team="gone")
    filled.write()
    with reading(filled.engine) as source:
        return report(source, Asked(NOVEMBER, 2e9, compare=True))


@pytest.fixture
def parts(told: Report) -> list[Section]:
    """Its sections."""
    return sections(told)


def spend(parts: list[Section]) -> Section:
    """The main one."""
    return next(part for part in parts if part.key == "spend")


def test_csv_is_exact_and_harmless(told: Report, parts: list[Section]) -> None:
    """The column adds up to the ledger, no cell begins like a formula, numbers stay numbers."""
    rows = [*csv.DictReader(io.StringIO(to_csv(spend(parts)).decode()))]
    assert sum(Decimal(row["cost_usd"]) for row in rows) * DOLLAR == told.sums.nanodollars
    names = {row["team"] for row in rows}
    assert {f"'{EVIL}", "'-1+2", "search"} <= names
    gone = next(row for row in rows if row["team"] == "gone")
    assert gone["change_usd"] == "-0.000000500"


@given(st.text())
def test_no_text_is_a_formula(text: str) -> None:
    """Whatever a tag holds; what is harmless isn't touched."""
    shown = harmless(text)
    assert not shown.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert shown in (text, f"'{text}")


def test_json_has_integers_and_decimal_strings(told: Report, parts: list[Section]) -> None:
    """Both of the same amount; the total is the sum of the rows."""
    found = json.loads(to_json(told, parts))
    rows = found["spend"]["rows"]
    assert sum(row["cost"]["nanodollars"] for row in rows) == told.sums.nanodollars
    whole = told.sums.nanodollars
    assert found["spend"]["total"]["cost"] == {"nanodollars": whole, "usd": exact(whole)}
    assert next(row for row in rows if row["team"] == "search")["cost"]["usd"] == "1234567890.123456789"
    assert EVIL in {row["team"] for row in rows}
    assert set(found) >= {"summary", "spend", "days", "compared", "movers", "savings"}


def test_the_workbook_reads_back(told: Report, parts: list[Section]) -> None:
    """Numbers as numbers, sums as formulas with their value, frozen headings, charts, names as text."""
    content = to_xlsx(parts)
    book, values = (openpyxl.load_workbook(io.BytesIO(content), data_only=flag) for flag in (False, True))
    assert book.sheetnames == ["Summary", "Spend", "Days", "Compared", "Movers", "Savings", "Anomalies"]
    sheet, valued = book["Spend"], values["Spend"]
    assert sheet.freeze_panes == "B4"
    assert len(sheet._charts) == len(book["Days"]._charts) == 1
    names = {cell.value: cell for cell in sheet["A"]}
    assert names[EVIL].data_type == names["-1+2"].data_type == "s"
    head = [cell.value for cell in sheet[3]]
    nano, cost = head.index("Nano-USD"), head.index("USD")
    last = sheet.max_row
    assert sheet.cell(last, cost + 1).value == f"=SUM(B4:B{last - 1})"
    assert valued.cell(last, cost + 1).value == pytest.approx(told.sums.nanodollars / DOLLAR)
    assert int(valued.cell(4, nano + 1).value) == 1_234_567_890_123_456_789
    assert valued.cell(4, cost + 1).data_type == "n"


def test_files_are_the_same_each_time(told: Report, parts: list[Section], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another day, another zone of the machine: not a byte differs, and no member of the workbook has a time."""

    def every() -> list[bytes]:
        made = [write(parts) for write in (to_xlsx, to_html, to_pdf, to_text)]
        return [*made, to_json(told, parts), to_csv(spend(parts))]

    first = every()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert every() == first
    with zipfile.ZipFile(io.BytesIO(first[0])) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        core = archive.read("docProps/core.xml")
        assert b"2000-01-01T00:00:00Z" in core
        assert b"2026" not in core.replace(b"Report 2026-11", b"")


def written(pdf: bytes) -> str:
    """All that a PDF's pages draw."""
    streams = re.findall(rb"stream\n(.*?)\nendstream", pdf, re.DOTALL)
    drawn = b"\n".join(zlib.decompress(stream) for stream in streams if stream.startswith(b"x"))
    return drawn.decode("latin-1").replace("\\(", "(").replace("\\)", ")")


def test_the_pdf_says_the_same(parts: list[Section]) -> None:
    """Each section's heading, amounts that aren't broken, names as they are or as numbers, and only text of them."""
    drawn = written(to_pdf(parts))
    assert all(part.title in drawn for part in parts)
    assert "1,234,567,890.12" in drawn
    assert EVIL in drawn
    assert "<script>alert(1)</script>[red]\u00b7[31m".replace("\u00b7", "\xb7") in " ".join(drawn.split("\n"))
    long = [("\u0418" * 3 + "\u00fc", number, number) for number in range(1200)]
    columns = (Column("team", "Team"), Column("cost", "USD", "money", sums=True), Column("n", "N", "count", sums=True))
    content = to_pdf([Section("spend", "Spend", columns, [*long])])
    assert len(re.findall(rb"/Type /Page\n", content)) > 5
    drawn = written(content)
    assert "\\\\u0418\\\\u0418\\\\u0418\u00fc" in drawn
    assert "(700 more)" in drawn
    assert f"{sum(range(500, 1200)):,}" in drawn


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_stands_alone(parts: list[Section]) -> None:
    """No script, no link, nothing fetched; names are text; the chart has a column a day."""
    page = _Page()
    page.feed(to_html(parts).decode())
    assert "script" not in page.tags
    assert page.links == []
    assert EVIL in page.texts
    assert any("<script>alert(1)</script>" in text for text in page.texts)
    assert page.tags.count("rect") == 30


def test_the_terminal_is_left_in_peace(parts: list[Section]) -> None:
    """Neither escape sequences nor markup come through, narrow or wide; the name stays readable."""
    for width in (80, 300):
        out = io.StringIO()
        to_terminal(Console(file=out, width=width, force_terminal=True, color_system=None), parts)
        assert "\x1b[31m" not in out.getvalue()
        assert "[red]" in out.getvalue()
        assert max(len(line) for line in out.getvalue().splitlines()) <= width
    assert EVIL in to_text(parts).decode()


def test_long_tables_end_with_the_rest(tmp_path: Path) -> None:
    """The terminal shows the most expensive ones, and one line with the sum of the others."""
    filled = Filled(open_ledger("sqlite:///ledger.db", tmp_path))
    for number in range(100):
        filled.use("2026-11-03 10:00", (number + 1) * DOLLAR, team=f"team-{number:02d}")
    filled.write()
    with reading(filled.engine) as source:
        text = to_text(sections(report(source, Asked(NOVEMBER, 2e9)))).decode()
    assert "(60 more)" in text
    assert f"{sum(range(1, 61)):,}.00" in text
    assert "team-59" not in text


def test_another_currency_says_its_rate(told: Report, parts: list[Section]) -> None:
    """Amounts are converted once each, the total from the total; rate and day stand beside them."""
    rows = [*csv.DictReader(io.StringIO(to_csv(spend(parts), EUROS).decode()))]
    assert rows[0]["cost_eur"] == exact(EUROS.of(1_234_567_890_123_456_789)) == "1135802458.913580246"
    found = json.loads(to_json(told, parts, EUROS))
    assert found["currency"] == {"code": "EUR", "rate": "0.92", "date": "2026-11-30"}
    assert found["spend"]["rows"][0]["cost"]["eur"] == "1135802458.913580246"
    assert "EUR at 0.92 a dollar, of 2026-11-30" in to_html(parts, EUROS).decode()


@pytest.mark.parametrize(
    ("code", "rate", "day"),
    [("E", "1", "2026-11-30"), ("EUR", "0", "2026-11-30"), ("EUR", "x", "2026-11-30"), ("EUR", "1", "x")],
)
def test_a_rate_must_be_one(code: str, rate: str, day: str) -> None:
    """Nothing is converted by a guess."""
    with pytest.raises(ValueError):
        Currency.parse(code, rate, day)


@given(st.integers(-(10**20), 10**20))
def test_amounts_as_text(nano: int) -> None:
    """Exact texts are exact; short ones never show an amount as nothing."""
    assert Decimal(exact(nano)) * DOLLAR == nano
    assert (readable(nano) in ("0.00", "-0.00")) == (nano == 0)
