"""A report as a PDF for people who file it: landscape A4, headings on each page, the days' costs as a chart.

Rules: needs fpdf2 (the extra `pdf`), and no font but those that every reader of PDF has. They know the characters of
Windows-1252; any other is written as its number (`\\u0418`), never dropped. A number is never broken or cut: columns
that can be done without go first, then texts are folded. Nothing in the file depends on when or where it is written,
and nothing that clients sent can be more than text in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from fpdf import FPDF, FontFace
from fpdf.enums import TableBordersLayout, TextEmphasis

from proxy.ledger.reporting.amounts import Currency, converted, readable, shown
from proxy.ledger.reporting.section import Column, Section
from proxy.ledger.reporting.terminal import fitting, shortened

MOST_ROWS: Final = 500
_POINTS, _LINE_MM, _PADDING_MM = 7.5, 4.2, 1.0
_FOLDED_MM: Final = 60.0  # a text wider than this is folded where there is no room
_CHART_MM, _LABELLED = 45.0, 16
_FONT: Final = "Helvetica"
_ENCODING: Final = "cp1252"
_LINE_COLOUR: Final = (190, 198, 206)
_SOFT, _HEAD, _BAR = (110, 119, 129), (220, 230, 241), (79, 129, 189)


def to_pdf(sections: Sequence[Section], currency: Currency | None = None) -> bytes:
    """The document's bytes."""
    paper = _Paper(_known(sections[0].title))
    for section in sections:
        paper.section(converted(shortened(section, MOST_ROWS), currency))
    return bytes(paper.output())


class _Paper(FPDF):
    def __init__(self, title: str) -> None:
        super().__init__(orientation="landscape", format="A4")
        self._title = title
        self.core_fonts_encoding = _ENCODING
        self.set_title(title)
        self.set_creator("Weir")
        self.set_creation_date(datetime(2000, 1, 1, tzinfo=UTC))
        self.set_auto_page_break(True, margin=14)
        self.add_page()

    def footer(self) -> None:
        """On each page which report it is, and which of how many pages."""
        self.set_y(-11)
        self._write(f"{self._title}, page {self.page_no()} of {{nb}}", 7, colour=_SOFT)

    def section(self, section: Section) -> None:
        """A heading, a note, a chart for the days, and the table."""
        first = self.page_no() == 1 and self.get_y() <= self.t_margin
        if not first:
            self.ln(5)
        if self.will_page_break(30):
            self.add_page()
        self._write(section.title, 15 if first else 11, bold=True)
        if section.note:
            self._write(section.note, 7.5, colour=_SOFT)
        if section.key == "days":
            self._chart(section)
        self._table(section)

    def _write(self, text: str, points: float, *, bold: bool = False, colour: tuple[int, int, int] = (0, 0, 0)) -> None:
        self.set_font(_FONT, "B" if bold else "", points)
        self.set_text_color(*colour)
        self.multi_cell(0, points * 0.55, _known(text), align="L", new_x="LMARGIN", new_y="NEXT")
        self.set_text_color(0, 0, 0)

    def _table(self, section: Section) -> None:
        rows = [*section.rows, *([] if section.total is None else [section.total])]
        cells = [
            [_known(shown(value, column.kind)) for value, column in zip(row, section.columns, strict=True)]
            for row in rows
        ]
        kept, widths = self._widths(section.columns, cells)
        columns = [section.columns[index] for index in kept]
        self.set_font(_FONT, "", _POINTS)
        self.set_draw_color(*_LINE_COLOUR)
        self.set_line_width(0.1)
        self.set_fill_color(255, 255, 255)
        with self.table(
            col_widths=tuple(widths),
            width=sum(widths),
            align="LEFT",
            text_align=tuple("LEFT" if column.kind == "text" else "RIGHT" for column in columns),
            line_height=_LINE_MM,
            borders_layout=TableBordersLayout.HORIZONTAL_LINES,
            headings_style=FontFace(emphasis=TextEmphasis.B, fill_color=_HEAD),
            padding=(0, _PADDING_MM),
        ) as table:
            table.row([_known(column.title) for column in columns])
            for number, row in enumerate(cells):
                total = FontFace(emphasis=TextEmphasis.B) if number == len(section.rows) else None
                table.row([row[index] for index in kept], style=total)

    def _widths(self, columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> tuple[list[int], list[float]]:
        """Which columns there is room for, and how wide they are: all they need, or folded texts."""
        self.set_font(_FONT, "B", _POINTS)
        edge = 2 * (_PADDING_MM + self.c_margin) + 0.2
        needed = [
            edge + max(map(self.get_string_width, (*_known(column.title).split(), *(row[index] for row in cells))))
            for index, column in enumerate(columns)
        ]
        least = [
            min(width, _FOLDED_MM) if column.kind == "text" else width
            for column, width in zip(columns, needed, strict=True)
        ]
        kept = fitting(columns, least, self.epw)
        spare = max(0.0, self.epw - sum(least[index] for index in kept))
        folded = sum(needed[index] - least[index] for index in kept)
        share = min(1.0, spare / folded) if folded else 0.0
        widths = [least[index] + share * (needed[index] - least[index]) for index in kept]
        return kept, [width * min(1.0, self.epw / sum(widths)) for width in widths]

    def _chart(self, section: Section) -> None:
        """The days' costs as columns."""
        index = [column.key for column in section.columns].index("cost")
        amounts = [max(0, int(row[index] or 0)) for row in section.rows]
        top = max(amounts, default=0)
        if not top or self.will_page_break(_CHART_MM + 10):
            return
        self.set_font(_FONT, "", 6)
        base, left = self.get_y() + _CHART_MM, self.l_margin + 18
        step, every = (self.epw - 18) / len(amounts), max(1, -(-len(amounts) // _LABELLED))
        self.set_draw_color(*_HEAD)
        for share in (0.0, 0.5, 1.0):
            y = base - share * (_CHART_MM - 5)
            self.line(left, y, left + self.epw - 18, y)
            label = readable(round(top * share))
            self.text(left - 1 - self.get_string_width(label), y + 0.8, label)
        self.set_fill_color(*_BAR)
        for number, (amount, row) in enumerate(zip(amounts, section.rows, strict=True)):
            height = (_CHART_MM - 5) * amount / top
            self.rect(left + step * (number + 0.1), base - height, step * 0.8, height, style="F")
            if number % every == 0:
                self.text(left + step * number, base + 3, _known(str(row[0])[5:]))
        self.set_y(base + 6)


def _known(text: str) -> str:
    """What the fonts know; other characters as their numbers, and those that move the pen as a dot."""
    plain = "".join(c if c.isprintable() else "\u00b7" for c in text)
    return plain.encode(_ENCODING, "backslashreplace").decode(_ENCODING)
