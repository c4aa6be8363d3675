"""A report in the terminal, by rich: what fits, most expensive first.

Rules: nothing that was sent by clients (names, tags, models) can change the terminal's state or be taken for markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from proxy.ledger.reporting.amounts import Currency, converted, shown
from proxy.ledger.reporting.sections import Column, Row, Section, Value

if TYPE_CHECKING:
    from rich.console import Console

MOST_ROWS: Final = 40
_ROOMY: Final = 200


def to_terminal(console: Console, sections: Sequence[Section], currency: Currency | None = None) -> None:
    """Prints all sections but the days, which the other formats have."""
    for section in sections:
        if section.key != "days":
            _print(console, converted(_shortened(section), currency))


def _print(console: Console, section: Section) -> None:
    from rich import box
    from rich.table import Table

    roomy = console.width >= _ROOMY
    kept = [index for index, column in enumerate(section.columns) if roomy or not column.wide]
    table = Table(box=box.SIMPLE_HEAD, title=section.title, title_justify="left", title_style="bold", pad_edge=False)
    table.caption, table.caption_justify = section.note or None, "left"
    for index in kept:
        column = section.columns[index]
        table.add_column(column.title, justify="left" if column.kind == "text" else "right", overflow="fold")
    rows = [*section.rows, *([] if section.total is None else [section.total])]
    for number, row in enumerate(rows):
        last = number == len(section.rows)
        cells = [_cell(row[index], section.columns[index]) for index in kept]
        table.add_row(*cells, style="bold" if last else None, end_section=number == len(section.rows) - 1)
    console.print(table)


def _cell(value: Value, column: Column) -> str:
    from rich.markup import escape

    text = shown(value, column.kind)
    return escape("".join(c if c.isprintable() else "·" for c in text))


def _shortened(section: Section) -> Section:
    """Of a long section the first rows, and one with the sums of the rest."""
    import msgspec

    if len(section.rows) <= MOST_ROWS + 1:
        return section
    rest = section.rows[MOST_ROWS:]
    first: Row = (f"({len(rest)} more)",)
    sums = tuple(
        sum(int(row[index] or 0) for row in rest) if column.sums else "" if column.kind == "text" else None
        for index, column in enumerate(section.columns)
    )
    return msgspec.structs.replace(section, rows=[*section.rows[:MOST_ROWS], first + sums[1:]])
