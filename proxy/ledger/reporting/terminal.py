"""A report in the terminal, by rich: what fits, most expensive first.

Rules: nothing that was sent by clients (names, tags, models) can change the terminal's state or be taken for markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from proxy.ledger.reporting.amounts import Currency, converted, shown
from proxy.ledger.reporting.section import Column, Row, Section, Value

if TYPE_CHECKING:
    from rich.console import Console

MOST_ROWS: Final = 40
_ROOMY: Final = 500


def to_terminal(console: Console, sections: Sequence[Section], currency: Currency | None = None) -> None:
    """Prints all sections but the days, which the other formats have. Where nobody looks at its edges it is wide."""
    if not console.is_terminal:
        console.width = _ROOMY
    for section in sections:
        if section.key != "days":
            _print(console, converted(shortened(section), currency))


def _print(console: Console, section: Section) -> None:
    from rich import box
    from rich.table import Table

    rows = [*section.rows, *([] if section.total is None else [section.total])]
    cells = [[_cell(value, column) for value, column in zip(row, section.columns, strict=True)] for row in rows]
    widths = [
        max([len(column.title), *(len(row[index]) for row in cells)]) + 3
        for index, column in enumerate(section.columns)
    ]
    kept = fitting(section.columns, widths, console.width)
    table = Table(box=box.SIMPLE_HEAD, title=section.title, title_justify="left", title_style="bold", pad_edge=False)
    table.caption, table.caption_justify = section.note or None, "left"
    for index in kept:
        column = section.columns[index]
        text = column.kind == "text"
        table.add_column(column.title, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for number, row in enumerate(cells):
        style = "bold" if number == len(section.rows) else None
        table.add_row(*(row[index] for index in kept), style=style, end_section=number == len(section.rows) - 1)
    console.print(table)


def fitting(columns: Sequence[Column], widths: Sequence[float], room: float) -> list[int]:
    """Which columns are shown: the `wide` ones go first, then the last numbers but one, until the rest has room."""
    numbers = [index for index, column in enumerate(columns) if column.kind != "text"]
    leaving = [index for index in reversed(numbers) if columns[index].wide]
    leaving += [index for index in reversed(numbers[2:]) if index not in leaving]
    kept = list(range(len(columns)))
    for index in leaving:
        if sum(widths[kept_index] for kept_index in kept) <= room:
            break
        kept.remove(index)
    return kept


def _cell(value: Value, column: Column) -> str:
    from rich.markup import escape

    text = shown(value, column.kind)
    return escape("".join(c if c.isprintable() else "·" for c in text))


def shortened(section: Section, most: int = MOST_ROWS) -> Section:
    """Of a long section the first rows, and one with the sums of the rest."""
    import msgspec

    if len(section.rows) <= most + 1:
        return section
    rest = section.rows[most:]
    first: Row = (f"({len(rest)} more)",)
    sums = tuple(
        sum(int(row[index] or 0) for row in rest) if column.sums else "" if column.kind == "text" else None
        for index, column in enumerate(section.columns)
    )
    return msgspec.structs.replace(section, rows=[*section.rows[:most], first + sums[1:]])


def to_text(sections: Sequence[Section], currency: Currency | None = None) -> bytes:
    """The same as plain text, for a file."""
    import io

    from rich.console import Console

    out = io.StringIO()
    to_terminal(Console(file=out, width=_ROOMY, color_system=None, force_terminal=False), sections, currency)
    return out.getvalue().encode()
