"""A report as a workbook (XLSX): a sheet a section, numbers as numbers, sums as formulas, two charts.

Rules: no text is ever a formula or a link. Spreadsheets calculate with 15 digits; beside the cost of the spend sheet
stands the exact integer of nano-dollars. Nothing in the file depends on when it is written.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import xlsxwriter
from xlsxwriter.worksheet import Worksheet

from proxy.ledger.reporting.amounts import NANO, Currency, converted
from proxy.ledger.reporting.section import Column, Section, Value

_OPTIONS: Final = {
    "in_memory": True,
    "strings_to_formulas": False,
    "strings_to_urls": False,
    "strings_to_numbers": False,
}
_FORMATS: Final = {
    "text": "@",
    "money": "#,##0.00####;[Red]-#,##0.00####",
    "count": "#,##0",
    "share": "0.0%",
    "number": "0.0",
    "exact": "0",
}
_HEAD: Final = 2  # rows above the headings: title, note
_LARGEST: Final = 10**15  # whole numbers that a spreadsheet holds exactly
_CHARTED: Final = 12


def to_xlsx(sections: Sequence[Section], currency: Currency | None = None) -> bytes:
    """The workbook's bytes."""
    out = io.BytesIO()
    book = xlsxwriter.Workbook(out, _OPTIONS)
    book.set_properties({"title": sections[0].title, "author": "Weir", "created": datetime(2000, 1, 1)})
    styles = _Styles(book)
    for section in sections:
        exact = _exact_of(section)
        _Sheet(book, converted(section, currency), styles, exact).write()
    book.close()
    return out.getvalue()


class _Styles:
    """The formats of one workbook."""

    def __init__(self, book: Any) -> None:
        self.title = book.add_format({"bold": True, "font_size": 14})
        self.note = book.add_format({"italic": True, "font_color": "#666666"})
        self.head = book.add_format(
            {"bold": True, "bg_color": "#DCE6F1", "bottom": 1, "text_wrap": True, "valign": "top"}
        )
        self.cell = {kind: book.add_format({"num_format": code}) for kind, code in _FORMATS.items()}
        self.total = {
            kind: book.add_format({"num_format": code, "bold": True, "top": 1}) for kind, code in _FORMATS.items()
        }


class _Sheet:
    """One section's sheet."""

    def __init__(self, book: Any, section: Section, styles: _Styles, exact: list[int] | None) -> None:
        self._book, self._section, self._styles, self._exact = book, section, styles, exact
        self._sheet: Worksheet = book.add_worksheet(section.key.capitalize())
        self._first = _HEAD + 1
        self._last = _HEAD + len(section.rows)

    def write(self) -> None:
        """Title, headings, rows, sums, chart."""
        self._sheet.write_string(0, 0, self._section.title, self._styles.title)
        self._sheet.write_string(1, 0, self._section.note, self._styles.note)
        columns = [*self._section.columns, *([Column("exact", "Nano-USD", "count")] if self._exact else [])]
        for index, column in enumerate(columns):
            self._sheet.write_string(_HEAD, index, column.title, self._styles.head)
            self._sheet.set_column(index, index, self._width(index, column))
        for number, row in enumerate(self._section.rows):
            self._row(self._first + number, row, self._styles.cell)
        if self._exact:
            for number, amount in enumerate(self._exact):
                self._exactly(self._first + number, len(self._section.columns), amount)
        if self._section.total is not None:
            self._sums(self._section.total)
        self._sheet.freeze_panes(_HEAD + 1, 1)
        if self._section.rows:
            self._sheet.autofilter(_HEAD, 0, self._last, len(self._section.columns) - 1)
            self._chart()

    def _row(self, at: int, row: Sequence[Value], styles: dict[str, Any]) -> None:
        for index, (value, column) in enumerate(zip(row, self._section.columns, strict=True)):
            style = styles[column.kind]
            if value is None:
                self._sheet.write_blank(at, index, None, style)
            elif column.kind == "text":
                self._sheet.write_string(at, index, str(value), style)
            else:
                self._sheet.write_number(at, index, _number(value, column), style)

    def _exactly(self, at: int, index: int, amount: int) -> None:
        if abs(amount) < _LARGEST:
            self._sheet.write_number(at, index, amount, self._styles.cell["exact"])
        else:
            self._sheet.write_string(at, index, str(amount), self._styles.cell["text"])

    def _sums(self, total: Sequence[Value]) -> None:
        """The last row: formulas where the column has a sum, with the exact sum as their stored value."""
        at = self._last + 1
        self._row(at, total, self._styles.total)
        for index, (value, column) in enumerate(zip(total, self._section.columns, strict=True)):
            if column.sums and self._section.rows and value is not None:
                cells = xlsxwriter.utility.xl_range(self._first, index, self._last, index)
                style = self._styles.total[column.kind]
                self._sheet.write_formula(at, index, f"=SUM({cells})", style, _number(value, column))

    def _chart(self) -> None:
        if self._section.key not in ("days", "spend"):
            return
        names = [column.key for column in self._section.columns]
        amounts, last = names.index("cost"), min(self._last, self._first + _CHARTED - 1)
        last = self._last if self._section.key == "days" else last
        chart = self._book.add_chart({"type": "column" if self._section.key == "days" else "bar"})
        name = self._sheet.get_name()
        chart.add_series(
            {
                "name": self._section.columns[amounts].title,
                "categories": [name, self._first, 0, last, 0],
                "values": [name, self._first, amounts, last, amounts],
                "fill": {"color": "#4F81BD"},
                "gap": 60,
            }
        )
        chart.set_title({"name": self._section.title, "name_font": {"size": 12}})
        chart.set_legend({"none": True})
        chart.set_y_axis({"reverse": self._section.key == "spend", "num_format": "#,##0"})
        chart.set_size({"width": 720, "height": 360})
        beside = len(self._section.columns) + (2 if self._exact else 1)
        self._sheet.insert_chart(_HEAD, beside, chart)

    def _width(self, index: int, column: Column) -> int:
        if column.kind != "text":
            return 16
        longest = max([len(str(row[index] or "")) for row in self._section.rows] or [0])
        return min(60, max(10, longest + 2, len(column.title) + 2))


def _number(value: Value, column: Column) -> float:
    return int(value or 0) / NANO if column.kind == "money" else float(value or 0)


def _exact_of(section: Section) -> list[int] | None:
    """The spend sheet's costs in nano-dollars."""
    if section.key != "spend":
        return None
    index = [column.key for column in section.columns].index("cost")
    return [int(row[index] or 0) for row in section.rows]
